"""Small models of every kind that read the texts."""

import random
import shutil
from pathlib import Path
from typing import NamedTuple

import charlm
from charlm import language_model
from charlm.tokenizer.protocol import DOCUMENT_KINDS
from stress.helpers import random_words

TOKENIZERS = ("char", "byte")
FORMS = (*DOCUMENT_KINDS, "start")
START = "[0-9]|^ *a"
"""The regular expression of the form "start"."""
SMALL = {
    "layers": 1, "hidden": 8, "batch": 2, "bptt": 8, "steps": 2, "eval_every": 1, "threads": 1, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip


class Model(NamedTuple):
    """A trained model and its folder, which commands get."""

    path: Path
    loaded: language_model.LanguageModel
    kind: str
    documents: str | None


def keywords(form: str | None) -> dict[str, str | None]:
    """A form as keywords of ``charlm.train``."""
    return {"document_start": START} if form == "start" else {"documents": form}


def options(form: str) -> list[str]:
    """A form as options of a command."""
    return ["--document-start", START] if form == "start" else ["--documents", form]


def train_model(folder: Path, kind: str, form: str | None) -> Model:
    """Train a model with a kind of tokenizer and a form of documents."""
    text, run = folder / "plain.txt", folder / f"{kind}-{form}"
    words = ["the", "cat", "sat,", "naïve", "42", "\u2581\0", "a\tb", "\r\n\r\n", "dogs\n"]
    text.write_text(random_words(random.Random(1), 2000, words), newline="", encoding="utf-8")
    charlm.train(text, out=run, tokenizer=kind, **keywords(None if form == "files" else form), **SMALL)
    if form == "files":  # one document cannot be split
        shutil.rmtree(run)
        for number in range(20):
            (folder / "plain").mkdir(exist_ok=True)
            (folder / "plain" / f"{number}.txt").write_text("the cat sat\n" * (number + 1))
        charlm.train(folder / "plain", out=run, tokenizer=kind, documents=form, **SMALL)
    return Model(run, charlm.load(run, device="cpu", threads=1), kind, form)
