"""Every way to read a text, in this process: the commands, the library, a training."""

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
    About,
    as_bytes,
    beginning_of,
    check_corpus,
    check_evaluation,
    check_refusal,
    check_told,
    length_of,
)
from stress.hostile_text.inputs import LONG_LINE, decoded, documents_of, hostile_file, hostile_text
from stress.hostile_text.models import FORMS, SMALL, TOKENIZERS, Model, train_model

TRAININGS_SHARE = 30
"""One input in so many is trained on."""
csv.field_size_limit(100 * LONG_LINE)


class Bench:
    """Models of every kind, and the command line in this process."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.figures: Counter[str] = Counter(
            dict.fromkeys(["commands", "succeeded", "refused", "trained", "scores"], 0)
        )
        self.models = [train_model(folder, kind, form) for kind in TOKENIZERS for form in (None, *FORMS)]
        self._seed = seed
        self._command = typer.main.get_command(app)

    def try_input(self, number: int) -> None:
        """Input ``number`` through the command line and the library, and now and then through a training."""
        draw = random.Random(f"{self._seed} {number}")
        try:
            if number % TRAININGS_SHARE == 0:
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
        scored = self.command("score", *where, "--documents", form, "--json")
        if hostile.suffix == ".txt":  # the same through a pipe
            piped = self.command("score", *where[1:], "--documents", form, "--json", stdin=hostile.data)
            if not isinstance(scored, CharlmError):
                assert piped == scored or form == "files", "through a pipe the scores are different"
            else:
                assert isinstance(piped, CharlmError) or not hostile.data, "refused in a file and not in a pipe"
        text = hostile.said(model.kind)
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

    def _check_scores(self, scored: bytes, model: Model, form: str, text: str) -> None:
        rows = [json.loads(line) for line in scored.splitlines()]
        documents = documents_of(text, form)
        self.figures["scores"] += len(rows)
        assert len(rows) == len(documents), (len(rows), len(documents), form)
        if form != "files":
            assert [row["document"] for row in rows] == documents, form
        lengths = [length_of(document, model.kind) + (model.documents is not None) for document in documents]
        assert [row["characters"] for row in rows] == lengths
        assert all(row["log_probability"] <= 0 for row in rows)

    def _check_shown(self, draw: random.Random, where: list[Any], form: str, text: str, model: Model) -> None:
        """The same for people and for spreadsheets."""
        options = ["score", *where, "--documents", form]
        documents = documents_of(text, form)
        shown = draw.choice(["rows", "--csv", "--highlight", "--html"])
        if shown == "rows":
            rows = self.command(*options)
            assert rows.count(b"\n") == len(documents)
            assert not re.search(rb"[\0-\x08\x0b-\x1f\x7f]", rows), "a control character is shown"
        elif shown == "--csv":
            table = self.command(*options, shown).decode("utf-8", "surrogateescape")
            documents_read = [row["document"] for row in csv.DictReader(io.StringIO(table, newline=""))]
            assert form == "files" or documents_read == documents, "the table does not give the documents back"
        elif len(text) < 2000:
            shown = [shown] if shown == "--highlight" else [shown, "-"]
            assert not re.search(rb"[\0-\x08\x0b-\x1f\x7f]", self.command(*options, *shown))

    # -------------------------------------------------------------------------------------------- prompts

    def _read_prompt(self, draw: random.Random) -> None:
        """Through a pipe and as an argument; what is written begins with it."""
        hostile, model = hostile_file(draw), draw.choice(self.models)
        options = ["generate", "-c", model.path, "--length", draw.randint(0, 4), "--seed", 1]
        written = self.command(*options, stdin=hostile.data)
        text = decoded(hostile.data, "utf-8") if model.kind == "char" else hostile.data
        if text is None:
            assert isinstance(written, CharlmError), "half a character was taken"
        elif not isinstance(written, CharlmError):
            data = text.encode() if isinstance(text, str) else text
            assert written.startswith(beginning_of(data, model)), "the prompt is not repeated"
        argument = hostile_text(draw)
        written = self.command(*options, f"--prompt={argument}", *draw.choice([[], ["--samples", 2, "--json"]]))
        if not isinstance(written, CharlmError) and not written.startswith(b"{") and argument != "-":
            assert written.startswith(beginning_of(argument.encode("utf-8", "surrogateescape"), model))

    def _read_string(self, draw: random.Random) -> None:
        """What the library does with any str."""
        text, model = hostile_text(draw), draw.choice(self.models)
        loaded = model.loaded
        encoded = self._told(lambda: loaded.tokenizer.encode(text))
        if isinstance(encoded, CharlmError):
            for refused in (loaded.generate, loaded.evaluate, loaded.score):
                assert isinstance(self._told(lambda refused=refused: refused(text)), CharlmError)
            return
        again = loaded.tokenizer.decode(encoded)
        assert (again == text) or (model.kind == "byte" and as_bytes(again) == as_bytes(text)), "decode(encode(x)) != x"
        evaluated = self._told(lambda: loaded.evaluate(text))
        together = list(loaded.score_documents([text, "the cat", text]))
        assert together[0].nats == About(together[2].nats)
        if model.documents is None and not isinstance(evaluated, CharlmError):
            assert evaluated.nats == About(-float(loaded.score(text).sum()))
            assert evaluated.nats == About(together[0].nats)
        if len(text) < 2000:
            surprises = list(loaded.surprises(text))
            assert together[0].nats == About(math.fsum(surprise.nats for surprise in surprises))
            assert as_bytes("".join(surprise.character for surprise in surprises)) == as_bytes(text)

    # -------------------------------------------------------------------------------------------- training

    def _train(self, draw: random.Random) -> None:
        hostile = hostile_file(draw, repeats=draw.choice([1, 30, 300]))
        path, run = self.folder / f"corpus{hostile.suffix}", self.folder / "run"
        path.write_bytes(hostile.data)
        kind, form = draw.choice(TOKENIZERS), draw.choice([None, *FORMS])
        options = {"tokenizer": kind, "documents": form, "encoding": hostile.encoding, "split": "60/20/20"}
        trained = self._told(lambda: charlm.train(path, out=run, **options, **SMALL))
        if isinstance(trained, CharlmError):
            assert not run.exists(), "a run that failed was left behind"
            if hostile.said(kind) is not None:
                check_refusal(trained)
            return
        text = hostile.said(kind)
        assert text is not None, "a text that cannot be read was learnt"
        self.figures["trained"] += 1
        check_corpus(run, text, kind, form)
        loaded = charlm.load(run, device="cpu", threads=1)
        loaded.generate(text[:50] if form is None else "", 3, seed=1)
        assert loaded.evaluate(text[:5000]).nats > 0
        shutil.rmtree(run)

    # -------------------------------------------------------------------------------------------- telling

    def _told(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns, or the ``CharlmError`` it raised, if that says what it must say."""
        try:
            done = work()
        except CharlmError as error:
            check_told(error)
            self.figures["refused"] += 1
            return error
        self.figures["succeeded"] += 1
        return done

    def command(self, *arguments: Any, stdin: bytes = b"") -> Any:
        """What a command writes on stdout, or its error."""
        self.figures["commands"] += 1
        words = [str(argument) for argument in arguments]
        streams = {"stdin": _stream(stdin), "stdout": _stream(), "stderr": io.StringIO()}
        models = {str(model.path): model.loaded for model in self.models}
        with _replaced(language_model, load=lambda path, *rest: models[str(path)]), _replaced(sys, **streams):
            result = self._told(lambda: self._command.main(words, "charlm", standalone_mode=False))
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
