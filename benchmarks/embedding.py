"""Vectors of texts: ``LanguageModel.embed`` beside ``LanguageModel.score_documents`` on the same texts.

    python benchmarks/embedding.py MODEL FILE [--characters 200000] [--rounds 5] [--threads N] [--json]

MODEL is a run or ``shakespeare``. The first --characters of FILE are cut into texts of equal length, once for each row.
Both read each text from a fresh state, in fp32. They take turns in each round:

    embed               the last state of each text
    embed, mean         the mean of the states over each text
    score_documents     the log-probability of each text

``over_score`` is the median over the rounds of the speed divided by that of ``score_documents`` in the same round,
``by_cpu_time`` the same with processor time, which says more than seconds on a busy machine (with --threads 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import make_parser, report, take_turns

import charlm

LENGTHS = (10, 100, 1_000, 10_000)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--characters", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    model = charlm.load(arguments.model, device="cpu", threads=arguments.threads)
    text = arguments.file.read_text("utf-8")[: arguments.characters]
    model.embed([text[:100]])  # makes the engine
    rows = []
    for length in LENGTHS:
        texts = [text[start : start + length] for start in range(0, len(text), length)]
        contenders = {
            "embed": timed(lambda texts=texts: model.embed(texts)),
            "embed, mean": timed(lambda texts=texts: model.embed(texts, "mean")),
            "score_documents": timed(lambda texts=texts: list(model.score_documents(texts))),
        }
        times = take_turns(contenders, arguments.rounds)
        scoring = times["score_documents"]
        for name, taken in times.items():
            pairs = list(zip(scoring, taken, strict=True))
            rows.append(
                {
                    "length": length,
                    "texts": len(texts),
                    "contender": name,
                    "chars_per_s": round(len(text) / median(wall for wall, _ in taken)),
                    "over_score": round(median(score[0] / own[0] for score, own in pairs), 2),
                    "by_cpu_time": round(median(score[1] / own[1] for score, own in pairs), 2),
                }
            )
    report(arguments, rows, engine=model.engine.name)


def timed(call: Callable[[], object]) -> Callable[[], tuple[float, float]]:
    """``call`` as a contender that returns its seconds, and the seconds of processor time."""

    def measure() -> tuple[float, float]:
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        return time.perf_counter() - start, time.process_time() - cpu_start

    return measure


if __name__ == "__main__":
    main()
