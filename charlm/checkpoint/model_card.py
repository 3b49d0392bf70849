"""The model card: ``README.md`` of a run or an exported model.

charlm writes the part between the two comments ``BEGIN`` and ``END``, and only that part is ever rewritten. Text above
and below is kept, and a README.md without the comments is never changed. The card is not in the manifest, so it may be
edited. It contains no path of the machine, and all names in it are escaped.
"""

from __future__ import annotations

import logging
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm.checkpoint.run_folder import CURVE
from charlm.config import MAX_JSON_BYTES, ModelConfig, TrainingConfig, from_dict, parse_json, to_dict
from charlm.corpus.trained_table import TrainedTable
from charlm.errors import DataError
from charlm.system.disk import read_at_most, write_synced

logger = logging.getLogger("charlm")

CARD = "README.md"
BEGIN = "<!-- charlm: this part is written again at every save; write above or below it -->"
END = "<!-- charlm: end -->"
Best = tuple[float | None, int | None]
"""The lowest validation loss in nats per character and its step; None where nothing was measured."""

_USE = """\
## How to use it

In this folder, with charlm installed:

    charlm generate --checkpoint . --prompt "The"
    charlm eval --checkpoint . FILE
    charlm info --checkpoint .

## Licence

charlm's licence does not cover this model. Its weights were learned from the text, whose own licence applies."""


def update_card(folder: Path, config: bytes, best: Best, curve: str = "") -> None:
    """Write or update the card in ``folder`` from the content of config.json. Logs a warning if that fails.

    ``curve`` is a plot of the training in characters. Where the folder has its picture, too, the card shows that above.
    """
    path = folder / CARD
    try:
        part = generate_part(parse_json(config, "config.json"), best, curve, (folder / CURVE).is_file())
        before = _read(path) if path.is_symlink() or path.exists() else part + "\n"
        after = replace_part(before, part)
        if after != before or not path.exists():
            write_synced(path, after.encode("utf-8", "surrogateescape"))
    except (OSError, DataError) as error:
        logger.warning("the model card %s could not be written (%s); everything else is saved", path, error)


def _read(path: Path) -> str:
    """The content of a card; empty if it is not a regular file or too large, so that it is left alone."""
    if path.is_symlink() or not path.is_file():
        return ""
    data = read_at_most(path, MAX_JSON_BYTES + 1)
    return data.decode("utf-8", "surrogateescape") if len(data) <= MAX_JSON_BYTES else ""


def replace_part(before: str, part: str) -> str:
    """``before`` with ``part`` between the markers; unchanged unless it has exactly one pair of markers."""
    begin, end = before.find(BEGIN), before.find(END)
    if before.count(BEGIN) != 1 or before.count(END) != 1 or end < begin:
        return before
    return before[:begin] + part + before[end + len(END) :]


def generate_part(config: Mapping[str, Any], best: Best, curve: str = "", has_picture: bool = False) -> str:
    """The card from marker to marker for the content of config.json. Raises ``DataError`` where that is incomplete."""
    where = "config.json"
    model = from_dict(ModelConfig, config.get("model"), where)
    training = from_dict(TrainingConfig, config.get("training"), where)
    try:
        name, rows = _escaped(config["corpus"]["name"]), _rows(config, model, training, best)
        command = " ".join(["charlm train FILE", *_text_options(config), *_training_options(config, model, training)])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} is incomplete or damaged ({error!r:.60}); use another step") from None
    table = "\n".join(f"| {label} | {value} |" for label, value in rows)
    return (
        f"{BEGIN}\n\n# {name}\n\nA character-level LSTM language model. It generates text like its training text, "
        f"and measures how probable a text is.\n\n| | |\n|---|---|\n{table}\n\n"
        "## How it was trained\n\nFILE is the text with the digest above. The options `--valid`, `--test`, "
        "`--init-from` and `--teacher` are not shown.\n\n"
        f"    {command}\n\n{_training(curve, has_picture)}{_use(config)}\n\n{END}"
    )


def _training(curve: str, has_picture: bool) -> str:
    """The section with the plot ``curve`` of the training, folded below the picture; empty without one."""
    if not curve:
        return ""
    plot = "\n".join(f"    {line}".rstrip() for line in curve.splitlines())
    if has_picture:
        picture = f"![Losses and learning rate over the steps]({CURVE})"
        plot = f"{picture}\n\n<details>\n<summary>In characters</summary>\n\n{plot}\n\n</details>"
    return f"## Its losses in training\n\n{plot}\n\n"


def _rows(config: Mapping[str, Any], model: ModelConfig, training: TrainingConfig, best: Best) -> list[tuple[str, str]]:
    tokenizer, corpus = config["tokenizer"], config["corpus"]
    sizes = [(word, corpus["splits"].get(name, {})) for name, word in _SPLITS]
    document_kind = tokenizer.get("document_start") or tokenizer.get("documents")
    counts = [f"{int(size['documents']):,} {word}" for word, size in sizes if size and document_kind]
    embedding = f", embedding {model.embedding}" if model.embedding != model.hidden else ""
    rows = [
        ("model", f"{model.layers} x {model.hidden}{embedding}, decoder tied to the embedding"),
        ("parameters", f"{model.parameter_count():,}"),
        ("vocabulary", f"{model.vocabulary_size:,} ids ({_escaped(tokenizer['kind'])} tokenizer)"),
        ("weights", _escaped(config.get("weights") or "f32")),
        ("corpus", _escaped(corpus["name"])),
        ("SHA-256 of the digests of its files", _escaped(corpus["sha256"])),
        ("characters", ", ".join(f"{int(size['characters']):,} {word}" for word, size in sizes if size)),
        *([(f"documents ({_escaped(document_kind)})", ", ".join(counts))] if document_kind else []),
        ("best validation loss", _loss(*best)),
        *_temperature_row(config),
        ("trained", f"{int(config['step']):,} steps in {float(config['seconds']):,.0f} seconds"),
        ("seed", f"{training.seed}"),
        (
            "made with",
            f"charlm {_escaped(config['charlm'])}, torch {_escaped(config.get('torch', 'of unknown version'))}",
        ),
    ]
    return rows


_SPLITS = (("train", "training"), ("valid", "validation"), ("test", "test"))


def _temperature_row(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "temperature" not in config:
        return []
    return [("temperature", f"{float(config['temperature']):.3f}, fitted after that; the logits are divided by it")]


def _loss(nats: float | None, step: int | None) -> str:
    if nats is None:
        return "not measured"
    return f"{nats:.4f} nats ({nats / math.log(2):.3f} bits) per character, at step {step:,}"


def _text_options(config: Mapping[str, Any]) -> list[str]:
    """The options of ``charlm train`` for the preparation of the text."""
    tokenizer, corpus = config["tokenizer"], config["corpus"]
    table = TrainedTable.of(config, "config.json")
    start = tokenizer.get("document_start")
    values = {
        "tokenizer": tokenizer.get("kind"),
        "documents": None if start or table is not None else tokenizer.get("documents"),
        "normalize": tokenizer.get("normalize"),
    }
    options = [f"--{name} {_escaped(value)}" for name, value in values.items() if value]
    if start:
        # In a code block nothing is escaped. A regular expression that would end the part of charlm is left out.
        shown = str(start) if str(start).isprintable() and "<!--" not in str(start) else "REGEX"
        options.append(f"--document-start {shlex.quote(shown)}")
    columns = {} if table is None else {"column": table.column, "given": table.given}
    options += [f"--{name} {_quoted(column)}" for name, column in columns.items() if column is not None]
    shares = corpus.get("shares")  # None where validation or test text came from other files
    if shares:
        options.append("--split " + "/".join(f"{100 * float(share):.12g}" for share in shares))
    return [*options, "--distinct"] if corpus.get("distinct") else options


def _training_options(config: Mapping[str, Any], model: ModelConfig, training: TrainingConfig) -> list[str]:
    """All options of the model and of training, given by the user or chosen by charlm."""
    values = {**to_dict(model), **to_dict(training), "device": training.device.partition(":")[0]}
    not_options = ("vocabulary_size", "threads", "save_every_unit", "seconds", "warmup_share", "validation_ids")
    for name in (*not_options, "ids_per_second", "soft_weight", *(["warmup"] if training.warmup_share else [])):
        del values[name]
    if config["tokenizer"].get("documents") is not None:  # documents do not use these
        del values["state_reset"], values["bptt_jitter"]
    by_steps = training.save_every_unit == "steps"
    values["save_every"] = int(training.save_every) if by_steps else f"{training.save_every:.12g}s"
    values["time"] = None if training.seconds is None else f"{training.seconds:.12g}s"
    return [f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None]


def _use(config: Mapping[str, Any]) -> str:
    """How to use the model, with a value of its condition if it has one."""
    table = TrainedTable.of(config, "config.json")
    if table is None or table.given is None:
        return _USE
    return _USE.replace('--prompt "The"', f"--given {_quoted(table.frequent()[0][0])}")


def _quoted(text: Any) -> str:
    """``text`` as one word of the shell, for a block of code, where nothing is mark-up."""
    return shlex.quote("".join(c if c.isprintable() else "\ufffd" for c in str(text)[:200]).replace("<!--", "\ufffd"))


def _escaped(text: Any) -> str:
    """``text`` as plain Markdown: without mark-up, line ends and invisible characters."""
    shown = "".join(c if c.isprintable() else "\ufffd" for c in str(text)[:200])
    return _MARK_UP.sub(r"\\\g<0>", shown)


_MARK_UP = re.compile(r"[!-*,/:-@\[-`{-~]|(?<![0-9])\.")
"""ASCII punctuation except hyphens, plus signs and decimal points; a dot in a name could make a link."""
