"""What calibration gains: the test loss of runs with and without a temperature fitted on their validation text.

    python benchmarks/calibration.py RUN [RUN ...]

The temperature is fitted again, so that runs of earlier versions can be measured, too. Results are printed and appended
to results/calibration.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.step import open_checkpoint
from charlm.corpus.prepared import Corpus, find_corpus
from charlm.engine import create_engine
from charlm.evaluation.calibration import MAX_CALIBRATION_IDS, fit_temperature
from charlm.evaluation.measure import evaluate
from charlm.training.validation_text import ValidationText

RESULTS = Path(__file__).parent / "results" / "calibration.jsonl"


def with_temperature(parts: ModelParts, temperature: float) -> ModelParts:
    return dataclasses.replace(parts, temperature=temperature).calibrated()


def test_loss(parts: ModelParts, corpus: Corpus) -> float:
    """Of the test part in one exact pass, in nats per character."""
    engine = create_engine(parts.config, parts.weights, "cpu")
    ids = corpus.ids("test")
    return evaluate(engine, parts.tokenizer, [ids.read(0, len(ids))]).nats_per_char


def measure(run: Path) -> dict[str, object]:
    checkpoint = open_checkpoint(run)
    corpus = find_corpus(checkpoint.path)
    if corpus is None or not corpus.sizes["test"].ids or not corpus.sizes["valid"].ids:
        raise SystemExit(f"{run} has no validation or no test part")
    raw = read_model_parts(checkpoint)
    text = ValidationText(corpus)

    def validation_loss(temperature: float) -> float:
        parts = with_temperature(raw, temperature)
        return text.sample_loss(create_engine(parts.config, parts.weights, "cpu"), MAX_CALIBRATION_IDS)

    temperature = fit_temperature(validation_loss)
    size = corpus.sizes["train"].ids
    return {
        "text": corpus.name,
        "training_ids": size,
        "model": f"{raw.config.layers} x {raw.config.hidden}",
        "epochs": round(int(checkpoint.config["ids_seen"]) / size, 1),
        "temperature": temperature,
        "without": round(test_loss(with_temperature(raw, 1.0), corpus), 4),
        "with": round(test_loss(with_temperature(raw, temperature), corpus), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path)
    print(
        "| text | characters | model | epochs | temperature | test loss without | with |\n|---|---|---|---|---|---|---|"
    )
    for run in parser.parse_args().runs:
        result = measure(run)
        with open(RESULTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print("|", " | ".join(str(value) for value in result.values()), "|", flush=True)


if __name__ == "__main__":
    main()
