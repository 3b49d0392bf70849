"""Every way to read a text in this process: the commands, the library, a training."""

import contextlib
import csv
import io
import json
import math
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import charlm
from charlm import language_model
from charlm.cli.app import app
from charlm.errors import CharlmError
from stress.hostile_text.checks import (
    Approximately,
    as_bytes,
    check_corpus,
    check_evaluation,
    check_message,
    check_refusal,
    expected_start,
    length_of,
    without_files,
)
from stress.hostile_text.inputs import LONG_LINE, decoded, documents_of, hostile_file, hostile_text, replaced
from stress.hostile_text.models import FORMS, SMALL, TOKENIZERS, Model, keywords, options, train_model

INPUTS_PER_TRAINING = 30
"""Every 30th input is trained on."""
csv.field_size_limit(100 * LONG_LINE)


class Trials:
    """Models of every kind, and the command line, in this process."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.figures: Counter[str] = Counter(
            dict.fromkeys(["commands", "succeeded", "refused", "trained", "scores"], 0)
        )
        self.models = [train_model(folder, kind, form) for kind in TOKENIZERS for form in (None, *FORMS)]
        self._seed = seed
        self._command = typer.main.get_command(app)

    def try_input(self, number: int) -> None:
        """Give input ``number`` to the command line and the library, or to a training."""
        draw = random.Random(f"{self._seed} {number}")
        try:
            if number % INPUTS_PER_TRAINING == 0:
                self._train(draw)
            else:
                self._read_file(draw)
                self._read_prompt(draw)
                self._read_string(draw)
        except BaseException as error:
            error.args = (f"input {number} of seed {self._seed}: {error}", *error.args[1:])
            raise

    # -------------------------------------------------------------------------------------------- files

    def _read_file(self, draw: random.Random) -> None:
        hostile, model = hostile_file(draw), draw.choice(self.models)
        form = draw.choice([*FORMS, model.documents or "files"])
        path = self.folder / f"text{hostile.suffix}"
        path.write_bytes(hostile.data)
        where = [path, "-c", model.path, "--encoding", hostile.encoding]
        evaluated = self.command("eval", *where, "--json")
        scored = self.command("score", *where, *options(form), "--json")
        piped = self.command("score", *where[1:], *options(form), "--json", stdin=hostile.data)
        if not isinstance(scored, CharlmError):
            same = without_files(piped) == without_files(scored)
            assert same or form == "files", "through a pipe the scores are different"
        else:
            is_empty = not hostile.data or hostile.bytes == b""
            assert isinstance(piped, CharlmError) or is_empty, "refused in a file and not in a pipe"
        text = hostile.expected_text(model.kind)
        if text is None:
            assert isinstance(evaluated, CharlmError), "a text that cannot be read was evaluated"
            assert isinstance(scored, CharlmError) or form != "files", "a text that cannot be read was scored"
        elif isinstance(scored, CharlmError):
            check_refusal(scored)
        else:
            self._check_scores(scored, model, form, text)
            if not isinstance(evaluated, CharlmError):
                check_evaluation(json.loads(evaluated), scored, model, form, text)
            self._check_shown(draw, where, form, text, model)
        if hostile.bytes is not None and model.kind == "char" and draw.random() < 0.3:
            self._replace_invalid_bytes(draw, path, hostile.bytes, model)

    def _replace_invalid_bytes(self, draw: random.Random, path: Path, data: bytes, model: Model) -> None:
        """Score the file as UTF-8, with what is not valid replaced, or its lines skipped."""
        path.write_bytes(data)
        errors = draw.choice(["replace", "skip-document"])
        scored = self.command("score", path, "-c", model.path, "--documents", "lines", "--errors", errors, "--json")
        if isinstance(scored, CharlmError):
            assert any(reason in str(scored) for reason in ("zero in every", "byte-order mark", "is empty", "not text"))
            return
        expected = list(enumerate(documents_of(replaced(data), "lines"), start=1))
        found = [(row["number"], row["document"]) for row in map(json.loads, scored.splitlines())]
        if errors == "skip-document":
            kept = dict(found)
            left_out = [(number, text) for number, text in expected if number not in kept]
            assert all("\ufffd" in text for _, text in left_out), "a valid line was skipped"
            expected = [(number, text) for number, text in expected if number in kept]
        assert found == expected, errors

    def _check_scores(self, scored: bytes, model: Model, form: str, text: str) -> None:
        rows = [json.loads(line) for line in scored.splitlines()]
        documents = documents_of(text, form, model.kind)
        self.figures["scores"] += len(rows)
        assert len(rows) == len(documents), (len(rows), len(documents), form)
        if form != "files":
            assert [row["document"] for row in rows] == documents, form
        if form == "lines":
            assert [row["line"] for row in rows] == [row["number"] for row in rows] == list(range(1, len(rows) + 1))
        lengths = [length_of(document, model.kind) + (model.documents is not None) for document in documents]
        assert [row["characters"] for row in rows] == lengths
        assert all(row["log_probability"] <= 0 for row in rows)

    def _check_shown(self, draw: random.Random, where: list[Any], form: str, text: str, model: Model) -> None:
        """Check the scores as text, as CSV, highlighted, and as HTML."""
        command = ["score", *where, *options(form)]
        documents = documents_of(text, form, model.kind)
        shown = draw.choice(["rows", "--csv", "--raw-csv", "--highlight", "--html"])
        if shown == "rows":
            rows = self.command(*command)
            assert rows.count(b"\n") == len(documents)
            assert not re.search(rb"[\0-\x08\x0b-\x1f\x7f]", rows), "a control character is shown"
        elif shown.endswith("csv"):
            table = self.command(*command, shown).decode("utf-8", "surrogateescape")
            read = [row["document"] for row in csv.DictReader(io.StringIO(table, newline=""))]
            if shown == "--csv":
                formulas = [cell for cell in read if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
                assert all(re.fullmatch(r"[+-]?[0-9.eE+-]+", cell) for cell in formulas), "a spreadsheet would run it"
                same = [cell in (document, f"'{document}") for cell, document in zip(read, documents, strict=True)]
                assert form == "files" or all(same), "the table does not give the documents back"
            else:
                assert form == "files" or read == documents, "the table does not give the documents back"
        elif len(text) < 2000:
            shown = [shown] if shown == "--highlight" else [shown, "-"]
            assert not re.search(rb"[\0-\x08\x0b-\x1f\x7f]", self.command(*command, *shown))

    # -------------------------------------------------------------------------------------------- prompts

    def _read_prompt(self, draw: random.Random) -> None:
        """Give a prompt through a pipe and as an argument; the output begins with it."""
        hostile, model = hostile_file(draw), draw.choice(self.models)
        command = ["generate", "-c", model.path, "--length", draw.randint(0, 4), "--seed", 1]
        written = self.command(*command, stdin=hostile.data)
        text = decoded(hostile.data, "utf-8") if model.kind == "char" else hostile.data
        if text is None:
            assert isinstance(written, CharlmError), "a surrogate was accepted"
        elif not isinstance(written, CharlmError):
            data = text.encode() if isinstance(text, str) else text
            assert written.startswith(expected_start(data, model, piped=True)), "the prompt is not repeated"
        argument = hostile_text(draw)
        written = self.command(*command, f"--prompt={argument}", *draw.choice([[], ["--samples", 2, "--json"]]))
        if not isinstance(written, CharlmError) and not written.startswith(b"{") and argument != "-":
            assert written.startswith(expected_start(argument.encode("utf-8", "surrogateescape"), model))

    def _read_string(self, draw: random.Random) -> None:
        """Give any str to the library."""
        text, model = hostile_text(draw), draw.choice(self.models)
        loaded = model.loaded
        encoded = self._call(lambda: loaded.tokenizer.encode(text))
        if isinstance(encoded, CharlmError):
            for refused in (loaded.generate, loaded.evaluate, loaded.score):
                assert isinstance(self._call(lambda refused=refused: refused(text)), CharlmError)
            return
        again = loaded.tokenizer.decode(encoded)
        assert (again == text) or (model.kind == "byte" and as_bytes(again) == as_bytes(text)), "decode(encode(x)) != x"
        evaluated = self._call(lambda: loaded.evaluate(text))
        together = list(loaded.score_documents([text, "the cat", text]))
        assert together[0].nats == Approximately(together[2].nats)
        if model.documents is None and not isinstance(evaluated, CharlmError):
            assert evaluated.nats == Approximately(-float(loaded.score(text).sum()))
            assert evaluated.nats == Approximately(together[0].nats)
        if len(text) < 2000:
            surprisals = list(loaded.surprisals(text))
            assert together[0].nats == Approximately(math.fsum(surprisal.nats for surprisal in surprisals))
            assert as_bytes("".join(surprisal.character for surprisal in surprisals)) == as_bytes(text)

    # -------------------------------------------------------------------------------------------- training

    def _train(self, draw: random.Random) -> None:
        hostile = hostile_file(draw, repeats=draw.choice([1, 30, 300]))
        path, run = self.folder / f"corpus{hostile.suffix}", self.folder / "run"
        path.write_bytes(hostile.data)
        kind, form = draw.choice(TOKENIZERS), draw.choice([None, *FORMS])
        texts = {"tokenizer": kind, "encoding": hostile.encoding, "split": "60/20/20", **keywords(form)}
        trained = self._call(lambda: charlm.train(path, out=run, **texts, **SMALL))
        if isinstance(trained, CharlmError):
            assert not run.exists(), "a run that failed was left behind"
            if hostile.expected_text(kind) is not None:
                check_refusal(trained)
            return
        text = hostile.expected_text(kind)
        assert text is not None, "a text that cannot be read was trained on"
        self.figures["trained"] += 1
        check_corpus(run, text, kind, form)
        loaded = charlm.load(run, device="cpu", threads=1)
        loaded.generate(text[:50] if form is None else "", 3, seed=1)
        assert loaded.evaluate(text[:5000]).nats > 0
        shutil.rmtree(run)

    # -------------------------------------------------------------------------------------------- calling

    def _call(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, or the ``CharlmError`` that it raised, whose message is checked."""
        try:
            done = work()
        except CharlmError as error:
            check_message(error)
            self.figures["refused"] += 1
            return error
        self.figures["succeeded"] += 1
        return done

    def command(self, *arguments: Any, stdin: bytes = b"") -> Any:
        """The output of a command, or its error."""
        self.figures["commands"] += 1
        words = [str(argument) for argument in arguments]
        streams = {"stdin": _stream(stdin), "stdout": _stream(), "stderr": io.StringIO()}
        models = {str(model.path): model.loaded for model in self.models}
        with _replaced(language_model, load=lambda path, *rest: models[str(path)]), _replaced(sys, **streams):
            result = self._call(lambda: self._command.main(words, "charlm", standalone_mode=False))
            sys.stdout.flush()
        return result if isinstance(result, CharlmError) else streams["stdout"].buffer.getvalue()


def _stream(data: bytes = b"") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")


@contextlib.contextmanager
def _replaced(home: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(home, name) for name in values}
    try:
        for name, value in values.items():
            setattr(home, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(home, name, value)
