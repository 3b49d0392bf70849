"""The model card: ``README.md`` of a run or an exported model, for people and for whoever they give the model to.

What charlm writes stands between two comments, and only that is ever written again: what a person adds above or below
stays, and a README.md without the comments is left alone. The card lies outside the manifest, so editing it harms
nothing. It names no path of the machine, and no name in it can break the page.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm.config import MAX_JSON_BYTES, ModelConfig, TrainingConfig, from_dict, parse_json, to_dict
from charlm.errors import DataError
from charlm.system.disk import read_at_most, write_synced

logger = logging.getLogger("charlm")

CARD = "README.md"
BEGIN = "<!-- charlm: this part is written again at every save; write above or below it -->"
END = "<!-- charlm: end -->"
Best = tuple[float | None, int | None]
"""The lowest validation loss in nats per character and its step, as far as there are any."""

_USE = """\
## How to use it

In this folder, with charlm installed:

    charlm generate --checkpoint . --prompt "The"
    charlm eval --checkpoint . FILE
    charlm info --checkpoint .

## Licence

charlm's licence says nothing about this model. Its weights were learnt from the text, whose own licence applies."""


def update_card(folder: Path, config: bytes, best: Best) -> None:
    """Write or renew the card in ``folder`` from a config.json; where that cannot be done, a warning is all."""
    path = folder / CARD
    try:
        part = generated_part(parse_json(config, "config.json"), best)
        before = _read(path) if path.is_symlink() or path.exists() else part + "\n"
        after = renewed(before, part)
        if after != before or not path.exists():
            write_synced(path, after.encode("utf-8", "surrogateescape"))
    except (OSError, DataError) as error:
        logger.warning("the model card %s could not be written (%s); all else is saved", path, error)


def _read(path: Path) -> str:
    """What stands in a card; nothing where it is something else than a file of text."""
    if path.is_symlink() or not path.is_file():
        return ""
    data = read_at_most(path, MAX_JSON_BYTES + 1)
    return data.decode("utf-8", "surrogateescape") if len(data) <= MAX_JSON_BYTES else ""


def renewed(before: str, part: str) -> str:
    """``before`` with ``part`` in its place; as it was where there is not exactly one such place."""
    begin, end = before.find(BEGIN), before.find(END)
    if before.count(BEGIN) != 1 or before.count(END) != 1 or end < begin:
        return before
    return before[:begin] + part + before[end + len(END) :]


def generated_part(config: Mapping[str, Any], best: Best) -> str:
    """The card, from marker to marker, for what config.json says. Raises ``DataError`` where it lacks something."""
    where = "config.json"
    model = from_dict(ModelConfig, config.get("model"), where)
    training = from_dict(TrainingConfig, config.get("training"), where)
    try:
        name, rows = _escaped(config["corpus"]["name"]), _rows(config, model, training, best)
        command = " ".join(["charlm train FILE", *_text_words(config), *_training_words(config, model, training)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} lacks something or is damaged ({error!r:.60}); use another step") from None
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return (
        f"{BEGIN}\n\n# {name}\n\nA character-level LSTM language model. It writes text like the one it was trained on, "
        f"and measures how likely a text is.\n\n| | |\n|---|---|\n{table}\n\n"
        "## How it was trained\n\nFILE is the text with that digest. Not said here are `--valid`, `--test` and "
        "`--init-from`, where texts of their own or another model were given.\n\n"
        f"    {command}\n\n{_USE}\n\n{END}"
    )


def _rows(config: Mapping[str, Any], model: ModelConfig, training: TrainingConfig, best: Best) -> list[tuple[str, str]]:
    tokenizer, corpus = config["tokenizer"], config["corpus"]
    sizes = [(word, corpus["splits"].get(name, {})) for name, word in _SPLITS]
    documents = tokenizer.get("documents")
    counts = [f"{int(size['documents']):,} {word}" for word, size in sizes if size and documents]
    narrowed = f", embedding {model.embedding}" if model.embedding != model.hidden else ""
    rows = [
        ("model", f"{model.layers} x {model.hidden}{narrowed}, the decoder tied to the embedding"),
        ("parameters", f"{model.parameter_count():,}"),
        ("vocabulary", f"{model.vocabulary_size:,} ids ({_escaped(tokenizer['kind'])} tokenizer)"),
        ("weights", _escaped(config.get("weights") or "f32")),
        ("corpus", _escaped(corpus["name"])),
        ("SHA-256 of the digests of its files", _escaped(corpus["sha256"])),
        ("characters", ", ".join(f"{int(size['characters']):,} {word}" for word, size in sizes if size)),
        *([(f"documents ({_escaped(documents)})", ", ".join(counts))] if documents else []),
        ("best validation loss", _loss(*best)),
        ("trained", f"{int(config['step']):,} steps in {float(config['seconds']):,.0f} seconds"),
        ("seed", f"{training.seed}"),
        (
            "made with",
            f"charlm {_escaped(config['charlm'])}, torch {_escaped(config.get('torch', 'of unknown version'))}",
        ),
    ]
    return rows


_SPLITS = (("train", "training"), ("valid", "validation"), ("test", "test"))


def _loss(nats: float | None, step: int | None) -> str:
    if nats is None:
        return "not measured"
    return f"{nats:.4f} nats ({nats / math.log(2):.3f} bits) per character, at step {step:,}"


def _text_words(config: Mapping[str, Any]) -> list[str]:
    """The options of ``charlm train`` that say what was made of the text."""
    tokenizer, corpus = config["tokenizer"], config["corpus"]
    texts = {name: tokenizer.get(key) for name, key in (("tokenizer", "kind"), ("documents", "documents"))}
    words = [f"--{name} {_escaped(value)}" for name, value in texts.items() if value]
    shares = corpus.get("shares")  # none where validation or test text came from files of their own
    if shares:
        words.append("--split " + "/".join(f"{100 * float(share):.12g}" for share in shares))
    return [*words, "--distinct"] if corpus.get("distinct") else words


def _training_words(config: Mapping[str, Any], model: ModelConfig, training: TrainingConfig) -> list[str]:
    """All that was chosen, by a person or by charlm."""
    said = {**to_dict(model), **to_dict(training), "device": training.device.partition(":")[0]}
    for name in ("vocabulary_size", "threads", "save_every_unit", "seconds"):
        del said[name]
    if config["tokenizer"].get("documents") is not None:  # they begin from a fresh state, at their own borders
        del said["state_reset"], said["bptt_jitter"]
    by_steps = training.save_every_unit == "steps"
    said["save_every"] = int(training.save_every) if by_steps else f"{training.save_every:g}s"
    said["time"] = None if training.seconds is None else f"{training.seconds:g}s"
    return [f"--{name.replace('_', '-')} {value}" for name, value in said.items() if value is not None]


def _escaped(text: Any) -> str:
    """Text from elsewhere as plain words of Markdown: no mark-up, no line end, nothing invisible."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in str(text)[:200])
    return _MARK_UP.sub(r"\\\g<0>", shown)


_MARK_UP = re.compile(r"[!-*,/:-@\[-`{-~]|(?<![0-9])\.")
"""ASCII punctuation but for hyphens, plus signs and the points of numbers; a point of a name could make a link."""
