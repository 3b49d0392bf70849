"""Make golden checkpoints: what this version of charlm saves, and what every later one must still read in it.

    python tests/golden/make.py NAME

trains two tiny models, keeps the files that generation needs in ``NAME-text`` and ``NAME-lines``, and writes beside
them ``expected.json``: the configuration, the digests, and scores that are computed here, in float64 with numpy alone,
from the weights. The folders are never made again: a new version adds its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import charlm
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import open_checkpoint, save_step
from charlm.language_model import LanguageModel

HERE = Path(__file__).parent
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "naïve", "dogs;", "why?", "42", "garçon", "Öl"]
SENTENCES = ["the cat sat on a mat", "naïve dogs; and the garçon saw 42", "Why not? Жук, 漢字 🙂", "x"]
PROMPT, GREEDY = "the ", 20
MARGIN = 0.02
"""Between the logits of the likeliest and the second likeliest, so that no rounding changes what is written."""
KINDS: dict[str, dict[str, Any]] = {"text": {}, "lines": {"documents": "lines", "split": "80/10/10"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", metavar="NAME", help="what the folders' names begin with, such as format1")
    name = parser.parse_args().name
    for kind, options in KINDS.items():
        make(HERE / f"{name}-{kind}", kind, options)


def make(home: Path, kind: str, options: dict[str, Any]) -> None:
    """One golden checkpoint."""
    home.mkdir()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / f"{kind}.txt"
        text.write_text(salad(kind), encoding="utf-8")
        trained = charlm.train(
            text, out=Path(folder) / "run", layers=1, hidden=24, batch=8, bptt=32, steps=400, eval_every=100, lr=1e-2,
            seed=1, threads=1, device="cpu", precision="fp32", **options,
        )  # fmt: skip
        best = open_checkpoint(trained.run)
    path = save_step(home, best.step, best.files)
    values = expected(charlm.load(path, "cpu", "fp32", 1))
    (home / "expected.json").write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def salad(kind: str) -> str:
    """A little text with accents, as a whole or in lines."""
    draw = random.Random(1)
    sentences = (" ".join(draw.choice(WORDS) for _ in range(draw.randint(2, 9))) for _ in range(900))
    return ("\n" if kind == "lines" else ". ").join(sentences) + "\n"


def expected(model: LanguageModel) -> dict[str, Any]:
    """Everything that must stay as it is."""
    path = model.checkpoint.path
    files = sorted(file for file in path.iterdir() if file.is_file())
    return {
        "charlm": charlm.__version__,
        "step": path.name,
        "config": dict(model.checkpoint.config),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "log_probabilities": {text: log_probabilities(model, text) for text in SENTENCES},
        "prompt": PROMPT,
        "greedy": greedy(model),
    }


def log_probabilities(model: LanguageModel, text: str) -> list[float]:
    """In nats, of each character of ``text``, and of documents of the end behind it, to 12 digits."""
    tokenizer = model.tokenizer
    ids = [*tokenizer.encode(text).tolist(), *([] if tokenizer.end_id is None else [tokenizer.end_id])]
    logits_TV = all_logits(model, [tokenizer.start_id, *ids[:-1]])
    logits_TV -= logits_TV.max(axis=1, keepdims=True)
    logs_T = logits_TV[np.arange(len(ids)), ids] - np.log(np.exp(logits_TV).sum(axis=1))
    summed = np.add.reduceat(logs_T, np.flatnonzero(tokenizer.starts_character[ids]))
    return [float(f"{value:.12g}") for value in summed]


def greedy(model: LanguageModel) -> str:
    """The likeliest characters after the prompt, none of them a close call."""
    tokenizer = model.tokenizer
    allowed_V = tokenizer.constraint().allowed_SV[0]
    ids, written = [tokenizer.start_id, *tokenizer.encode(PROMPT).tolist()], []
    for _ in range(GREEDY):
        logits_V = np.where(allowed_V, all_logits(model, [*ids, *written])[-1], -np.inf)
        second, first = np.sort(logits_V)[-2:]
        assert first - second > MARGIN, "too close a call; choose another prompt or seed"
        if (best := int(logits_V.argmax())) == tokenizer.end_id:
            break
        written.append(best)
    return tokenizer.decode(np.array(written))


def all_logits(model: LanguageModel, ids: list[int]) -> np.ndarray:
    """Logits [T, V] after each id, in float64: the network written out."""
    parts = read_model_parts(model.checkpoint)
    w = {name: array.astype(np.float64) for name, array in parts.weights.items()}
    x_TE = w["embedding.weight"][ids]
    for layer in range(parts.config.layers):
        gates_TG = x_TE @ w[f"lstm.{layer}.weight_ih"].T + w[f"lstm.{layer}.bias"]
        h = c = np.zeros(w[f"lstm.{layer}.weight_hh"].shape[1])
        outputs = []
        for gates in gates_TG:
            i, f, g, o = np.split(gates + w[f"lstm.{layer}.weight_hh"] @ h, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            outputs.append(h)
        x_TE = np.array(outputs)
    return x_TE @ w["embedding.weight"].T + w["decoder.bias"]


if __name__ == "__main__":
    main()
