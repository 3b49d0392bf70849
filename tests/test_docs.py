"""The documentation: its blocks run, its links lead somewhere, and its generated parts are current.

``python tests/test_docs.py`` (``make docs``) writes the generated parts.
"""

import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from commands import CAN_FORK, CHARLM, charlm, prefork_server
from stress import table

from charlm.training.regularization import dropout_probabilities, learning_rate, weight_decay

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING, INDEX = ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "README.md"
OPTIONS, RELIABILITY = (ROOT / "docs" / "reference" / name for name in ("commands.md", "reliability.md"))
PAGES = [README, CONTRIBUTING, *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("benchmarks/*.md")),
         ROOT / "examples" / "README.md", ROOT / "data" / "README.md", ROOT / "checkpoints" / "README.md"]  # fmt: skip

IMAGES = ROOT / "docs" / "images"
PICTURES = sorted(path for path in IMAGES.iterdir() if path.suffix in (".svg", ".png"))

COMMANDS = (
    "train", "generate", "eval", "compare", "score", "classify", "neurons", "info", "runs", "plot", "export", "serve",
)  # fmt: skip
HELP, STRESS, END = "<!-- generated: help -->\n", "<!-- generated: stress tests -->\n", "<!-- end -->\n"

MAX_LINES, MAX_WIDTH, MAX_TREE_LINES = 200, 120, 30
MAX_PICTURE_BYTES = 300_000

TINY = "--steps 6 --batch 4 --bptt 16 --size tiny"
SHORTER = [
    (r"--resume --time \d+m", "--resume --steps 8"),
    (r"--time \d+m", TINY),
    (rf"--init-from (\S+) {TINY}", rf"--init-from \1 {TINY.removesuffix(' --size tiny')}"),
    (r"--steps 100000", "--steps 8"),
    (r"--steps 100010", "--steps 10"),
    (r'time="\d+m"(, size="\w+")?', 'steps=6, batch=4, bptt=16, size="tiny"'),
    (r"steps=100000", "steps=8"),
]
"""Patterns and replacements: the trainings of the pages take minutes, those of the tests few steps."""


# ------------------------------------------------------------------------------------------------ blocks that run


def blocks(page):
    """(language, code) of the blocks of a page that run, in order, with short trainings."""
    found = re.findall(r"<!-- tested -->\n```(\w+)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [(language, shortened(code)) for language, code in found]


def shortened(code):
    for pattern, replacement in SHORTER:
        code = re.sub(pattern, replacement, code)
    return code


TESTED = [page for page in PAGES if blocks(page)]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def make_texts(folder, text):
    """The files that the pages name."""
    lines = [f"{word}\n" for word in text.split()[:1500]]
    for name in ("corpus.txt", "more.txt", "held-out.txt", "notes.txt"):
        (folder / name).write_text(text[:6000], encoding="utf-8")
    for name in ("app.log", "today.log"):
        (folder / name).write_text("".join(lines), encoding="utf-8")
    for name in ("names.txt", "more-names.txt"):
        (folder / name).write_text("".join(f"{number} {line}" for number, line in enumerate(lines)), encoding="utf-8")
    rows = [
        f'"{line.strip()}  1",{category},2\n' for line, category in zip(lines, ["shoes", "hats"] * 750, strict=True)
    ]
    (folder / "table.csv").write_text("title,category,price\n" + "".join(rows), "utf-8")
    (folder / "latin.txt").write_text(text[:6000], encoding="cp1252")
    entries = [f"2024-01-{number % 28 + 1:02} start\n  at {line}" for number, line in enumerate(lines)]
    (folder / "service.log").write_text("".join(entries), encoding="utf-8")
    subprocess.run(["gzip", "notes.txt"], cwd=folder, check=True)
    (folder / "chapters").mkdir()
    (folder / "chapters" / "1.txt").write_text(text[:3000], encoding="utf-8")
    data = folder / "simple-examples" / "data"
    data.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        (data / f"ptb.char.{part}.txt").write_text("".join(" ".join(line) for line in lines), "utf-8")
    for name in ("enwik8", "text8"):
        (folder / name).write_text(text[:6000], encoding="utf-8")
    (folder / "program.exe").write_bytes(bytes(range(256)) * 30)
    shutil.copytree(ROOT / "checkpoints" / "shakespeare", folder / "checkpoints" / "shakespeare")


def make_environment(folder):
    """What ``make demo`` leaves: a virtual environment in .venv, with charlm in it."""
    commands = folder / ".venv" / "bin"
    venv.create(commands.parent, symlinks=True)
    if CAN_FORK:
        prefork_server().install(commands)
    else:
        (commands / "charlm").symlink_to(Path(sys.executable).with_name("charlm"))
    for name in ("pyproject.toml", "constraints.txt", "CMakeLists.txt"):
        (folder / name).touch()
    (commands.parent / ".installed").touch()
    (folder / "Makefile").write_text(shortened((ROOT / "Makefile").read_text("utf-8")), encoding="utf-8")


def run_shell(script, folder):
    """Run a script in a new shell that does not find charlm by itself."""
    path = [each for each in os.environ["PATH"].split(os.pathsep) if not (Path(each) / "charlm").exists()]
    environment = {**os.environ, "PATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1", "CHARLM_DEVICE": "cpu"}
    environment.pop("VIRTUAL_ENV", None)
    result = subprocess.run(
        ["bash", "-exo", "pipefail", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.fixture(scope="session")
def runs(text, tmp_path_factory):
    """A folder of runs for the pages that begin with another command than a training; the newest is ``corpus``."""
    folder = tmp_path_factory.mktemp("documentation")
    make_texts(folder, text)
    for words in ("names.txt --documents lines", "corpus.txt --seed 2 --out checkpoints/second", "corpus.txt"):
        result = charlm("train", *words.split(), *TINY.split(), "--device", "cpu", cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder / "checkpoints"


@pytest.mark.parametrize("page", TESTED, ids=name_of)
def test_blocks_run(page, text, tmp_path, runs, monkeypatch):
    make_texts(tmp_path, text)
    make_environment(tmp_path)
    found = blocks(page)
    if not found[0][1].startswith(("charlm train", ". .venv", "import")):
        shutil.rmtree(tmp_path / "checkpoints")
        shutil.copytree(runs, tmp_path / "checkpoints")
    # The README has to say how the shell finds charlm.
    start = "make demo\n" if page == README else ". .venv/bin/activate\n"
    for language, group in itertools.groupby(found, key=lambda block: block[0]):
        codes = [code for _, code in group]
        if language == "sh":
            run_shell(start + "".join(codes), tmp_path)
        else:
            monkeypatch.chdir(tmp_path)
            for code in codes:
                exec(compile(code, name_of(page), "exec"), {})


def test_readme_activates_the_environment_after_make_demo():
    before, _, after = README.read_text("utf-8").partition("```sh\n. .venv/bin/activate\n")
    assert "    make demo" in before
    assert after


# ------------------------------------------------------------------------------------------------ form


def prose(page):
    """The text of a page without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page):
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_index_lists_all_pages():
    index = INDEX.read_text("utf-8")
    for page in ROOT.glob("docs/*/*.md"):
        assert f"]({page.relative_to(INDEX.parent).as_posix()})" in index, page


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_short(page):
    lines = page.read_text("utf-8").splitlines()
    if page == README:
        assert len(lines) <= MAX_LINES
    else:
        lines = [line for line in lines if not line.startswith("|")]
    assert [line for line in lines if len(line) > MAX_WIDTH] == []


def test_script_makes_all_pictures(monkeypatch):
    monkeypatch.syspath_prepend(IMAGES)  # it imports the files beside it
    pictures = runpy.run_path(str(IMAGES / "make.py"))["PICTURES"]
    assert set(pictures) == {path.name for path in IMAGES.iterdir() if path.suffix in (".svg", ".png")}


@pytest.mark.parametrize("picture", PICTURES, ids=name_of)
def test_pictures_are_small_and_shown_with_an_alternative_text(picture):
    assert picture.stat().st_size <= MAX_PICTURE_BYTES
    shown = [(page, text, link) for page in PAGES for text, link in re.findall(r"!\[(.*?)\]\((.+?)\)", prose(page))]
    texts = [text for page, text, link in shown if (page.parent / link).resolve() == picture]
    assert texts
    assert all(texts)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        for target in re.findall(r"(?:^ {4}|`)make (\w+)", page.read_text("utf-8"), re.MULTILINE):
            assert f"\n{target}:" in makefile, (page, target)


def test_tree_is_that_of_the_repository():
    lines = CONTRIBUTING.read_text("utf-8").partition("    charlm/\n")[2].partition("\n\n")[0].splitlines()
    assert len(lines) < MAX_TREE_LINES
    inside = {line.split()[0] for line in lines if line.startswith(" " * 6)}
    outside = {name.strip(",") for line in lines if not line.startswith(" " * 6) for name in line.split()[:2]}
    for name in inside:
        assert (ROOT / "charlm" / name).exists(), name
    for name in {name for name in outside if name.endswith("/")}:
        assert (ROOT / name).is_dir(), name
    modules = {path.name for path in (ROOT / "charlm").glob("*.py")}
    packages = {f"{path.parent.name}/" for path in (ROOT / "charlm").glob("*/__init__.py")}
    assert modules | packages == inside


@pytest.mark.parametrize("page", [CONTRIBUTING, ROOT / "docs" / "reference" / "papers.md"], ids=name_of)
def test_files_and_names_of_the_code_exist(page):
    def file(path):
        return next((folder / path for folder in (ROOT, ROOT / "charlm") if (folder / path).is_file()), None)

    content = " ".join(page.read_text("utf-8").split())
    path = r"`([\w/.]+\.(?:py|cpp|h))`"
    assert [name for name in re.findall(path, content) if file(name) is None] == []
    named = re.findall(rf"`([\w.]+)`(?: \([^)]*\))? in {path}", content)
    words = {where: set(re.findall(r"\w+", file(where).read_text("utf-8"))) for _, where in named}
    assert [(name, where) for name, where in named if not {*name.split(".")} <= words[where]] == []


def test_examples_of_the_recipe_are_true():
    text = (ROOT / "docs" / "explanation" / "defaults.md").read_text("utf-8").replace(",", "")
    rows = re.findall(r"^\| (\d+) \| (\d+) \| [\d.]+ \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) > 3
    for characters, steps, values in rows:
        ids = int(steps) * 4096
        epochs = ids / int(characters)
        expected = [
            learning_rate("muon", 512, int(steps), epochs), weight_decay("muon", epochs),
            *dropout_probabilities("muon", int(steps), ids, epochs),
        ]  # fmt: skip
        assert [float(value) for value in values.split(" | ")] == expected


# ------------------------------------------------------------------------------------------------ generated parts


def help_of(command: str, environment: dict[str, str]) -> str:
    if CAN_FORK:
        return prefork_server().run([command, "--help"], ROOT, environment).stdout.decode()
    line = [*CHARLM, command, "--help"]
    return subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout


def generated_help() -> str:
    """The help of all commands."""
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    environment.pop("CHARLM_DEVICE", None)
    parts = []
    for command in COMMANDS:
        usage = help_of(command, environment).replace("python -m charlm", "charlm").strip()
        parts.append(f"## charlm {command}\n\n```text\n{usage}\n```\n")
    return HELP + "\n".join(parts) + END


def generated_stress_table() -> str:
    """The newest results of the stress tests."""
    return STRESS + table.table() + END


GENERATED = ((OPTIONS, HELP, generated_help), (RELIABILITY, STRESS, generated_stress_table))


@pytest.mark.parametrize(("page", "generate"), [(page, generate) for page, _, generate in GENERATED])
def test_generated_parts_are_current(page, generate):
    assert generate() in page.read_text("utf-8"), "run make docs"


def write_generated_parts():
    for page, begin, generate in GENERATED:
        before, _, rest = page.read_text("utf-8").partition(begin)
        page.write_text(before + generate() + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    write_generated_parts()
