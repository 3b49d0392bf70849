"""A request's answer does not depend on who else is served."""

import random
from concurrent.futures import ThreadPoolExecutor

PROMPTS = ["the cat ", "a mat and ", "", "why? naïve dogs; ", "the cat sat on a mat and saw " * 60]


def requests(count):
    """Requests of many kinds: lengths, settings, models, log-probabilities, several texts."""
    draw = random.Random(3)
    for number in range(count):
        fields = {
            "prompt": draw.choice(PROMPTS), "max_tokens": draw.choice([0, 1, 7, 60, 400]), "seed": number,
            "temperature": draw.choice([0, 0.8, 0.8, 0.8, 1.3]), "n": draw.choice([1, 1, 3]),
            "echo": draw.random() < 0.3, "model": draw.choice(["salad", "salad", "lines"]),
        }  # fmt: skip
        if draw.random() < 0.3:
            fields["logprobs"] = 2
        if draw.random() < 0.2:
            fields["stop"] = ["mat"]
        yield fields


def test_the_same_seed_gives_the_same_answer_whoever_is_beside(server):
    asked = list(requests(60))
    alone = [server.complete(**fields) for fields in asked]
    with ThreadPoolExecutor(20) as clients:
        together = list(clients.map(lambda fields: server.complete(**fields), asked))
        again = list(clients.map(lambda fields: server.complete(**fields), reversed(asked)))
    assert together == alone
    assert again == alone[::-1]
