"""Programs that bring much along, against ``charlm serve``: llm, and the lm-evaluation-harness.

``python tests/clients.py FOLDER`` (``make clients``) installs them into an environment of their own, and checks that
llm writes the text of its seed, streamed and whole, and that log-likelihoods of the harness are those of charlm to
1e-4. About a gigabyte is downloaded the first time.
"""

import json
import os
import random
import subprocess
import sys
import venv
from pathlib import Path

import serving_process

import charlm
from charlm.checkpoint.shipped import find_checkpoint

PACKAGES = ["llm", "lm-eval[api]", "torch"]
TOLERANCE = 1e-4
LLM_MODELS = """
- model_id: bard
  model_name: shakespeare
  api_base: {address}/v1
  completion: true
"""
HARNESS = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

class Characters(LocalCompletionsAPI):
    "A token is a character: its code point."
    def tok_encode(self, string, **options):
        return [ord(c) for c in string] if isinstance(string, str) else [self.tok_encode(each) for each in string]
    def decode_batch(self, tokens):
        return ["".join(map(chr, each)) for each in tokens]

address, pairs = json.load(sys.stdin)
lm = Characters(base_url=address + "/v1/completions", model="shakespeare", tokenizer_backend=None,
                tokenized_requests=False, batch_size=4)
lm.tokenizer = object()  # it only has to be there
requests = [Instance("loglikelihood", {}, tuple(pair), number) for number, pair in enumerate(pairs)]
print("ANSWER " + json.dumps(lm.loglikelihood(requests)))
"""


def run(python: Path, *arguments: str, stdin: str = "", **variables: str) -> str:
    """The output of a program of the environment."""
    command, environment = [str(python), *arguments], {**os.environ, **variables}
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return done.stdout


def check_llm(python: Path, server: serving_process.Server, folder: Path) -> None:
    """llm with a configuration file, with and without streaming."""
    user = folder / "llm"
    user.mkdir(exist_ok=True)
    (user / "extra-openai-models.yaml").write_text(LLM_MODELS.format(address=server.address), "utf-8")
    options = ["-m", "bard", "ROMEO:", "-o", "seed", "7", "-o", "max_tokens", "80", "-o", "temperature", "0.8"]
    expected = charlm.load("shakespeare").generate("ROMEO:", 80, temperature=0.8, seed=7)
    for stream in ([], ["--no-stream"]):
        text = run(python, "-m", "llm", *options, *stream, LLM_USER_PATH=str(user), OPENAI_API_KEY="none")
        assert text.strip() == expected.strip(), text
    print("llm: the text of its seed, streamed and whole")  # noqa: T201  # a script


def check_harness(python: Path, server: serving_process.Server) -> None:
    """Log-likelihoods of continuations are those of charlm."""
    draw = random.Random(1)
    words = ["ROMEO:", "JULIET:", "my", "lord", "the", "king", "doth\nlove", "thee,", "and", "naïve", "漢", "what?"]
    # No context ends with white space, which the harness would count to the continuation.
    pairs = [
        (
            " ".join(draw.choices(words, k=draw.randint(1, 60))),
            " " + " ".join(draw.choices(words, k=draw.randint(1, 20))),
        )
        for _ in range(40)
    ]
    output = run(python, "-c", HARNESS, stdin=json.dumps([server.address, pairs]), OPENAI_API_KEY="none")
    answers = json.loads(output.partition("ANSWER ")[2])
    model = charlm.load("shakespeare")
    worst = 0.0
    for (context, continuation), (logprob, is_greedy) in zip(pairs, answers, strict=True):
        whole, before = (each.nats for each in model.score_documents([context + continuation, context]))
        worst = max(worst, abs(logprob - (before - whole)))
        likeliest = (each.alternatives[0][0] for each in model.surprisals(context + continuation, 1))
        chosen = list(zip(context + continuation, likeliest, strict=True))[len(context) :]
        assert is_greedy == all(character == best for character, best in chosen)
    assert worst < TOLERANCE, worst
    print(f"lm-evaluation-harness: {len(pairs)} log-likelihoods differ from charlm's by at most {worst:.1e} nats")  # noqa: T201  # likewise


def main(folder: Path) -> None:
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
    constraints = Path(__file__).parent.parent / "constraints.txt"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", constraints, *PACKAGES], check=True)
    with serving_process.serving("-c", find_checkpoint(Path("shakespeare"))) as server:
        check_llm(python, server, folder)
        check_harness(python, server)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve())
