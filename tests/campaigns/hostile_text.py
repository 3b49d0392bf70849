"""Texts that nobody would call texts, through everything that reads one.

Any Unicode, halves of characters, NUL, SentencePiece's own marks, byte-order marks, mixed line ends, control and escape
sequences, very long lines, nothing at all; right and wrong encodings, random and cut bytes, cut gzip files. Whatever
comes, a command succeeds and is exact, or ends with a ``CharlmError`` that says what to do, and leaves nothing behind.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer

import charlm
from charlm import language_model
from charlm.cli.app import app
from charlm.corpus import open_corpus
from charlm.errors import CharlmError
from charlm.recipe import Request
from charlm.runs import Texts, Where, new_run
from charlm.tokenizer import SEPARATORS

CHARLM = [sys.executable, "-m", "charlm"]
TOKENIZERS = ("char", "byte")
FORMS = tuple(SEPARATORS)
SMALL = {
    "layers": 1, "hidden": 8, "batch": 2, "bptt": 8, "steps": 2, "eval_every": 1, "threads": 1, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip
TRAININGS_SHARE = 30
"""One input in so many is trained on."""
PROMPT_MB = 100
ALLOWED_MB = 60
TOLERANCE = 1e-4
"""Relative: the same sum, taken in another order in single precision."""


def campaign(inputs: int = 10_000, prompt_mb: int = PROMPT_MB, seed: int = 0) -> dict[str, Any]:
    """``inputs`` texts in this process, some processes with odd arguments and streams, and changing files.

    Without a ``prompt_mb`` no process is started.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = _Bench(folder, seed)
        for number in range(inputs):
            bench.try_input(number)
        changed = _changing_files(folder, passes=(1, 2, 3) if prompt_mb else (2,))
        processes = _try_processes(folder, bench.models, prompt_mb) if prompt_mb else {}
    return {"inputs": inputs, **dict(bench.figures), "other_exceptions": 0, "files_changed": changed, **processes}


# ---------------------------------------------------------------------------------------------------- the inputs

ODD = [
    "\0", "\u2581", "\u2585", "\ufeff", "\ufffd", "\ufffe", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x7f",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "\u202eabc\u202c", "\u2066x\u2069", "\u200b", "\xa0", "\u3000",
    "e\u0301", "a" + "\u0300" * 40, "\u0345", "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea",
    "\U0010ffff", "<unk>", "<s>", "<0x41>", "\u2047", "---", '"', '","', "\\x1b", "</span><b>", "&amp;", "%s{}", "-",
]  # fmt: skip
LINE_ENDS = ["\n", "\r\n", "\r", "\n\n", "\r\n\r\n", "\n\r", " \n\t\n", "\r\r\n", "\n \r\n"]
HALVES = ["\ud800", "\udbff", "\udfff", "\ud83d", "\ude00", "\udc80", "\udcff", "\udcc3\udca9"]
ENCODINGS = (
    "utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252",
    "utf-7", "shift-jis", "gb18030",
)  # fmt: skip
LONG_LINE = 200_000
csv.field_size_limit(100 * LONG_LINE)


def hostile_text(draw: random.Random, halves: bool = True) -> str:
    """Some parts of any kind; with ``halves`` now and then half a character, which no encoding can write."""
    parts = [draw.choice(_PARTS)(draw) for _ in range(draw.choice([0, 1, 2, 3, 5, 8, 20]))]
    if halves and draw.random() < 0.2:
        parts.insert(draw.randint(0, len(parts)), draw.choice(HALVES))
    if draw.random() < 0.003:
        parts.insert(draw.randint(0, len(parts)), draw.choice(["a", "é ", "\0", "\u2581\r"]) * LONG_LINE)
    return "".join(parts)


def _anything(draw: random.Random) -> str:
    codes = (draw.randrange(draw.choice([0x80, 0x100, 0x3000, 0x10000, 0x110000])) for _ in range(draw.randint(1, 12)))
    return "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)


_PARTS: list[Callable[[random.Random], str]] = [
    _anything,
    lambda draw: draw.choice(ODD),
    lambda draw: draw.choice(LINE_ENDS),
    lambda draw: draw.choice(["the cat sat ", "naïve", "dogs", " 42,"]),
    lambda draw: draw.choice(" \t\n\r") * draw.randint(1, 9),
]


class Hostile(NamedTuple):
    """What a file holds, under which name and encoding, and what it says: None where that cannot be read."""

    data: bytes
    suffix: str
    encoding: str
    bytes: bytes | None
    text: str | None

    def said(self, kind: str) -> str | None:
        """The text for a tokenizer kind; bytes that are no UTF-8 are surrogate escapes."""
        if kind == "char":
            return self.text
        return None if self.bytes is None else self.bytes.decode("utf-8", "surrogateescape")


def hostile_file(draw: random.Random, repeats: int = 1) -> Hostile:
    """A text in some encoding, perhaps damaged, perhaps compressed, perhaps read as if it had another encoding."""
    written_as = draw.choice(ENCODINGS)
    data = hostile_text(draw, halves=False).encode(written_as, "replace") * repeats
    data = _damaged(data, draw) if draw.random() < 0.3 else data
    encoding = draw.choice(ENCODINGS) if draw.random() < 0.2 else written_as
    if draw.random() > 0.1:
        return Hostile(data, ".txt", encoding, data, _decoded(data, encoding))
    packed = gzip.compress(data, 1)
    if draw.random() < 0.5:
        return Hostile(packed[: draw.randrange(len(packed))], ".gz", encoding, None, None)
    return Hostile(packed, ".gz", encoding, data, _decoded(data, encoding))


def _damaged(data: bytes, draw: random.Random) -> bytes:
    place = draw.randint(0, len(data))
    return draw.choice([
        data[:place],
        data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
        data[:place] + draw.choice(["\ud83d", "\udead"]).encode("utf-8", "surrogatepass") + data[place:],
        draw.randbytes(place),
    ])  # fmt: skip


def _decoded(data: bytes, encoding: str) -> str | None:
    """What Python itself makes of ``data``, but for one byte-order mark."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(data, True)  # other than bytes.decode, it wants a mark
        text.encode("utf-8")  # UTF-7 can spell half a character
    except UnicodeError:
        return None
    drops_mark = encoding in ("utf-8-sig", "utf-16", "utf-32")
    return text if drops_mark else text.removeprefix("\ufeff")


def documents_of(text: str, form: str) -> list[str]:
    """The documents of a text with empty ones, line by line and slowly."""
    if form == "files":
        return [text]
    lines = text.split("\n")
    last = lines.pop()
    lines = [line.removesuffix("\r") for line in lines] + ([last] if last else [])
    if form == "lines":
        return lines
    return _paragraphs(text.split("\n"))


def _paragraphs(lines: list[str]) -> list[str]:
    found: list[list[str]] = [[]]
    for number, line in enumerate(lines):
        if line.strip("\t\r "):
            found[-1].append(line if number == len(lines) - 1 else line + "\n")
        elif found[-1]:
            found.append([])
    joined = ("".join(paragraph) for paragraph in found if paragraph)
    return [p.removesuffix("\n").removesuffix("\r") if p.endswith("\n") else p for p in joined]


# ---------------------------------------------------------------------------------------------------- commands in here


class Model(NamedTuple):
    """A trained model, once as the library has it and once by the folder that commands are given."""

    path: Path
    loaded: language_model.LanguageModel
    kind: str
    documents: str | None


class _Bench:
    """Models of every kind, and the command line in this process."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.figures: Counter[str] = Counter(
            dict.fromkeys(["commands", "succeeded", "refused", "trained", "scores"], 0)
        )
        self.models = [_trained(folder, kind, form) for kind in TOKENIZERS for form in (None, *FORMS)]
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
            _check_refusal(scored)
        else:
            self._check_scores(scored, model, form, text)
            if not isinstance(evaluated, CharlmError):
                _check_evaluation(json.loads(evaluated), scored, model, form, text)
            self._check_shown(draw, where, form, text, model)

    def _check_scores(self, scored: bytes, model: Model, form: str, text: str) -> None:
        rows = [json.loads(line) for line in scored.splitlines()]
        documents = documents_of(text, form)
        self.figures["scores"] += len(rows)
        assert len(rows) == len(documents), (len(rows), len(documents), form)
        if form != "files":
            assert [row["document"] for row in rows] == documents, form
        lengths = [_length(document, model.kind) + (model.documents is not None) for document in documents]
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
        text = _decoded(hostile.data, "utf-8") if model.kind == "char" else hostile.data
        if text is None:
            assert isinstance(written, CharlmError), "half a character was taken"
        elif not isinstance(written, CharlmError):
            data = text.encode() if isinstance(text, str) else text
            assert written.startswith(_beginning(data, model)), "the prompt is not repeated"
        argument = hostile_text(draw)
        written = self.command(*options, f"--prompt={argument}", *draw.choice([[], ["--samples", 2, "--json"]]))
        if not isinstance(written, CharlmError) and not written.startswith(b"{") and argument != "-":
            assert written.startswith(_beginning(argument.encode("utf-8", "surrogateescape"), model))

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
        assert (again == text) or (model.kind == "byte" and _bytes(again) == _bytes(text)), "decode(encode(x)) != x"
        evaluated = self._told(lambda: loaded.evaluate(text))
        together = list(loaded.score_documents([text, "the cat", text]))
        assert together[0].nats == _about(together[2].nats)
        if model.documents is None and not isinstance(evaluated, CharlmError):
            assert evaluated.nats == _about(-float(loaded.score(text).sum()))
            assert evaluated.nats == _about(together[0].nats)
        if len(text) < 2000:
            surprises = list(loaded.surprises(text))
            assert together[0].nats == _about(math.fsum(surprise.nats for surprise in surprises))
            assert _bytes("".join(surprise.character for surprise in surprises)) == _bytes(text)

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
                _check_refusal(trained)
            return
        text = hostile.said(kind)
        assert text is not None, "a text that cannot be read was learnt"
        self.figures["trained"] += 1
        _check_corpus(run, text, kind, form)
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


def _trained(folder: Path, kind: str, form: str | None) -> Model:
    text, run = folder / "plain.txt", folder / f"{kind}-{form}"
    draw = random.Random(1)
    words = ["the", "cat", "sat,", "naïve", "42", "\u2581\0", "a\tb", "\r\n\r\n", "dogs\n"]
    text.write_text(" ".join(draw.choice(words) for _ in range(2000)), newline="", encoding="utf-8")
    charlm.train(text, out=run, tokenizer=kind, documents=None if form == "files" else form, **SMALL)
    if form == "files":  # a single file makes no splits
        shutil.rmtree(run)
        for number in range(20):
            (folder / "plain").mkdir(exist_ok=True)
            (folder / "plain" / f"{number}.txt").write_text("the cat sat\n" * (number + 1))
        charlm.train(folder / "plain", out=run, tokenizer=kind, documents=form, **SMALL)
    return Model(run, charlm.load(run, device="cpu", threads=1), kind, form)


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


def check_told(error: CharlmError) -> None:
    """Raises unless the error is one line that says what is wrong and what to do."""
    said = str(error)
    assert error.exit_code in (2, 65, 66), (error.exit_code, said)
    assert "\n" not in said, f"more than one line: {said!r}"
    _, semicolon, advice = said.partition(";")
    assert semicolon and advice.strip(), f"no advice: {said!r}"


_FAIR_REFUSALS = (
    "is empty", "no character", "zero in every second", "begins with the mark of", "one distinct character",
    "too few to learn from", "--documents",
)  # fmt: skip


def _check_refusal(error: CharlmError) -> None:
    """A text that can be decoded is refused for a few reasons only."""
    assert any(reason in str(error) for reason in _FAIR_REFUSALS), f"refused without need: {error}"


def _about(value: float) -> Any:
    return _About(value)


class _About(float):
    """A number that equals its neighbours."""

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=TOLERANCE, abs_tol=1e-4)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _length(text: str, kind: str) -> int:
    return len(text) if kind == "char" else len(_bytes(text))


def _beginning(prompt: bytes, model: Model) -> bytes:
    return prompt if model.documents is None else prompt.removesuffix(b"\n").removesuffix(b"\r")


def _check_evaluation(evaluated: dict[str, Any], scored: bytes, model: Model, form: str, text: str) -> None:
    rows = [json.loads(line) for line in scored.splitlines()]
    if form != (model.documents or "files"):
        return
    if model.documents is None:
        assert evaluated["characters"] == _length(text, model.kind)
    else:  # a document without a character has a score, but is none that is evaluated
        rows = [row for row in rows if row["characters"] > 1]
        assert evaluated["documents"] == len(rows)
    assert evaluated["characters"] == sum(row["characters"] for row in rows)
    nats = evaluated["nats_per_char"] * evaluated["characters"]
    assert nats == _about(-math.fsum(row["log_probability"] for row in rows)), "the scores do not make the evaluation"


def _check_corpus(run: Path, text: str, kind: str, form: str | None) -> None:
    """What was held out is, character by character, in the text."""
    corpus = open_corpus(run / "corpus")
    held = {name: corpus.ids(name).read(0, corpus.sizes[name].ids) for name in ("valid", "test")}
    if form is None:
        codes = text if kind == "char" else _bytes(text)
        begin = round(len(codes) * 0.6)
        decoded = "".join(corpus.tokenizer.decode(ids) for ids in held.values())
        assert _bytes(decoded) == _bytes(codes[begin:]) if kind == "char" else _bytes(decoded) == codes[begin:]
        return
    expected = Counter(_bytes(document) for document in documents_of(text, form) if document)
    found: Counter[bytes] = Counter()
    for ids in held.values():
        ends = np.flatnonzero(ids == corpus.tokenizer.end_id)
        found.update(_bytes(corpus.tokenizer.decode(part)) for part in np.split(ids, ends + 1) if len(part))
    assert found <= expected, "a held-out document is not in the text"
    total = sum(corpus.sizes[name].documents for name in ("train", "valid", "test"))
    assert total == sum(expected.values()), (total, sum(expected.values()))


# ---------------------------------------------------------------------------------------------------- changing files


def _into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda path: path.unlink(),
    "grown": lambda path: path.write_bytes(path.read_bytes() + "\nand more, ünlike before\n".encode() * 500),
    "half a character more": lambda path: path.write_bytes(path.read_bytes() + b"\xc3"),
    "cut": lambda path: os.truncate(path, 3000),
    "emptied": lambda path: os.truncate(path, 0),
    "another": lambda path: path.write_text("αβγδ εζηθ\n" * 3000, encoding="utf-8"),
    "a folder": _into_folder,
}


def _changing_files(folder: Path, passes: Sequence[int]) -> int:
    """Texts that change, grow or go while each of the three passes reads them."""
    count = 0
    for change in CHANGES:
        for at in passes:
            for form in (None, "lines"):
                _train_on_changing(folder, change, at, form)
                count += 1
    return count


def _train_on_changing(folder: Path, change: str, at: int, form: str | None) -> None:
    path, run = folder / "changing.txt", folder / "changed" / "run"
    path.write_text("".join(f"line {number} of a text\n" for number in range(2000)))
    passed = [0]

    def progress(characters: int) -> None:
        passed[0] += 1
        if passed[0] == at:
            CHANGES[change](path)

    texts = Texts([str(path)], documents=form)
    wishes = {name: value for name, value in SMALL.items() if name not in ("device", "precision")}
    try:
        with new_run(texts, Request(**wishes), Where(run, None, "cpu", "fp32", progress)) as prepared:
            for _ in prepared.trainer.events():
                pass
    except CharlmError as error:
        check_told(error)
        assert not run.parent.exists(), f"{change}: a run that failed was left behind"
    except Exception as error:
        raise AssertionError(f"{change} in pass {at}, documents {form}: {error!r}") from error
    else:
        charlm.load(run, device="cpu", threads=1).generate("", 3, seed=1)
        shutil.rmtree(run.parent)
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------- processes


def _try_processes(folder: Path, models: list[Model], prompt_mb: int) -> dict[str, Any]:
    """Arguments, locales and streams that only a process of its own can have."""
    trials = _Processes(folder, {(model.kind, model.documents): model.path for model in models})
    trials.arguments()
    trials.locales()
    trials.closed_streams()
    trials.full_disk()
    trials.reader_gone()
    return {"processes": trials.count, "prompt_mb": prompt_mb, **_long_prompt(trials.models["char", None], prompt_mb)}


class _Processes:
    """Commands as processes. Each must end with an expected code and say one line at most."""

    def __init__(self, folder: Path, models: dict[tuple[str, str | None], Path]) -> None:
        self.count = 0
        self.models = models
        self._folder = folder / "processes"
        self._folder.mkdir()
        self._text = self._folder / "text.txt"
        self._text.write_text("the cat sat on a mat\n" * 300)
        self._written = ["generate", "-c", models["char", None], "-n", "5", "--seed", "1", "-p"]

    def expect(self, codes: Sequence[int], *arguments: Any, shell: str = "", **options: Any) -> bytes:
        """Run a command, perhaps with the redirections ``shell``; what it wrote on stdout."""
        self.count += 1
        words = [*map(os.fsencode, [*CHARLM, *(str(a) if isinstance(a, Path) else a for a in arguments)])]
        command = ["bash", "-c", f'"$@" {shell}', "bash", *words] if shell else words
        options = {"stdin": subprocess.DEVNULL, **options} if "input" not in options else options
        options = {"env": {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}, **options}
        result = subprocess.run(command, cwd=self._folder, capture_output=True, check=False, timeout=120, **options)
        said = result.stderr.decode("utf-8", "surrogateescape")
        assert result.returncode in codes, (words, shell, result.returncode, said)
        assert "Traceback" not in said and "Exception ignored" not in said, (words, shell, said)
        if result.returncode:
            assert len(re.findall("^charlm: ", said, re.MULTILINE)) <= 1, (words, shell, said)
            assert said.count("\n") <= 1 or "--highlight" in arguments, (words, shell, said)
            assert not re.search(r"[\0-\x08\x0b-\x1f\x7f]", said), f"the error steers the terminal: {said!r}"
        return result.stdout

    def arguments(self) -> None:
        for prompt in (b"ab\xff", b"\xed\xa0\x80", b"\xe4\xb8", b"caf\xe9"):
            self.expect([65], *self._written, prompt)
            taken = self.expect([0], "generate", "-c", self.models["byte", None], "-n", "5", "-p", prompt)
            assert taken.startswith(prompt), (prompt, taken)
        self.expect([65], *self._written, "x", "--stop", b"\xff", "-p", b"\xff")
        for name in (
            b"no\xffsuch",
            b"two\nlines",
            b"\x1b[31mred",
            "\u202eevil".encode(),
            b"n" * 5000,
            b"a" * 255,
            b" ",
        ):
            for command in ("train", "eval", "score"):
                model = [] if command == "train" else ["-c", self.models["char", None]]
                self.expect([66], command, *model, "--", name)
            self.expect([66, 74], *self._written, "x", "-c", name)
        for name in (b"odd\xff", b"two\nlines", b"\x1b[31m", b"-rf", "\u202eevil".encode(), b"%s{}", b"a" * 200, b" "):
            self._odd_name(name)

    def _odd_name(self, name: bytes) -> None:
        """A file of this name is read and learnt, and the run of that name opens."""
        shutil.copy(self._text, self._folder / os.fsdecode(name))
        quick = ["--steps", "2", "--layers", "1", "--hidden", "8", "--device", "cpu", "--json", "--quiet"]
        self.expect([0], "eval", "-c", self.models["char", None], "--", name)
        self.expect([0], "score", "-c", self.models["char", None], "--", name)
        trained = json.loads(self.expect([0], "train", *quick, "--", name))
        self.expect([0], "generate", "-c", os.fsencode(trained["run"]), "-n", "3")
        self.expect([0], "train", "--resume", "--steps", "3", "--out", os.fsencode(trained["run"]), "--quiet")
        self.expect([0], "info", "-c", os.fsencode(trained["run"]))
        shutil.rmtree(self._folder / "checkpoints")
        (self._folder / os.fsdecode(name)).unlink()

    def locales(self) -> None:
        plain = self.expect([0], *self._written, "naïve ☃")
        for variables in (
            {"LANG": "C"}, {"LC_ALL": "C"}, {"LANG": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"},
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        ):  # fmt: skip
            # Where Python takes the locale's ASCII at its word, what is no ASCII in an argument is refused.
            deaf = variables.get("LC_ALL") == "C" and variables.get("PYTHONUTF8") == "0"
            said = self.expect([65] if deaf else [0], *self._written, "naïve ☃", env=variables)
            assert deaf or said == plain, variables
            piped = self.expect([0], *self._written[:-1], input="naïve ☃".encode(), env=variables)
            assert piped == plain, variables
            for command in (["--help"], ["eval", self._text, "-c", self.models["char", None]], ["train", "nö"]):
                self.expect([0, 66], *command, env=variables)

    def closed_streams(self) -> None:
        where = ["-c", self.models["char", None]]
        quick = ["--steps", "2", "--layers", "1", "--hidden", "8", "--device", "cpu", "--out"]
        for number, closed in enumerate(("<&-", ">&-", "2>&-", "<&- >&- 2>&-")):
            run = self._folder / f"closed-{number}"
            self.expect([0], "generate", *where, "-n", "5", "-p", "x", shell=closed)
            self.expect([0], "generate", *where, "-n", "5", shell=closed)
            self.expect([0], "eval", self._text, *where, shell=closed)
            self.expect([65], "eval", "-", *where, shell="<&- " + closed)
            self.expect([0], "score", *where, shell=closed)
            self.expect([0], "train", self._text, *quick, run, shell=closed)
            self.expect([0], "generate", "-c", run, "-n", "5")
            self.expect([65], "train", "-", *quick, self._folder / "never", shell="<&- " + closed)
            assert not (self._folder / "never").exists()

    def full_disk(self) -> None:
        where = ["-c", self.models["char", None]]
        for command in (
            ["--help"], ["--version"], ["generate", "--help"], ["generate", *where, "-p", "x"], ["info", *where],
            ["generate", *where, "--samples", "3"], ["generate", *where, "--json"], ["eval", self._text, *where],
            ["eval", self._text, *where, "--json"], ["score", self._text, *where],
            ["score", self._text, *where, "--csv"],
            ["score", self._text, *where, "--html", "-"], ["score", self._text, *where, "--highlight"],
        ):  # fmt: skip
            self.expect([0, 74], *command, shell=">/dev/full")

    def reader_gone(self) -> None:
        where = ["-c", self.models["char", None]]
        for command in (
            ["--help"], ["generate", *where, "-p", "x", "-n", "9999"], ["info", *where], ["eval", self._text, *where],
            ["score", self._text, *where, "--documents", "lines"],
        ):  # fmt: skip
            # Typer's own output, the help, ends with 1.
            self.expect([0, 1] if command == ["--help"] else [0], *command, shell="| exec 0<&-; exit ${PIPESTATUS[0]}")


_PEAK = """
import sys
from charlm.cli.app import main
try:
    main()
except SystemExit as end:
    status = open("/proc/self/status").read()
    print(end.code, next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), file=sys.stderr)
"""


def _long_prompt(model: Path, prompt_mb: int) -> dict[str, float]:
    """Peak resident memory for a prompt of ``prompt_mb`` and for one of 100 kB, both through a pipe."""
    peaks = [_peak_mb(model, size) for size in (100_000, prompt_mb * 1_000_000)]
    assert peaks[1] - peaks[0] < ALLOWED_MB, peaks
    return {"peak_short_prompt_mb": round(peaks[0], 1), "peak_long_prompt_mb": round(peaks[1], 1)}


def _peak_mb(model: Path, size: int) -> float:
    command = [sys.executable, "-c", _PEAK, "generate", "-c", str(model), "--length", "1", "--threads", "1"]
    block = ("the naïve cat sat, \u2581\n" * 5000).encode()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        for _ in range(max(1, size // len(block))):
            process.stdin.write(block)
        process.stdin.close()
        code, peak = process.stderr.read().split()
    assert code == b"0", code
    return int(peak) / 1000
