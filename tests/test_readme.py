"""The README is true: its commands run, its tree is the tree, its options are the options.

``python tests/test_readme.py`` (``make readme``) rewrites the generated part.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from commands import prefork_server
from stress import table

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
COMMANDS = ("train", "generate", "eval", "compare", "score", "info", "export")
BEGIN, STRESS, END = "<!-- generated: make readme -->\n", "<!-- generated: stress tests -->\n", "<!-- end -->\n"
# A reader has ten minutes, a test has not: budgets are cut short, everything else runs as it stands.
SHORTER = [
    (r"--time \d+m", "--steps 6 --batch 4 --bptt 16 --size tiny"),
    (r"--init-from (\S+) --steps 6 --batch 4 --bptt 16 --size tiny", r"--init-from \1 --steps 6 --batch 4 --bptt 16"),
    (r"--steps 100000", "--steps 8"),
    (r'time="\d+m"', "steps=6, batch=4, bptt=16"),
]


def generated_help() -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    environment.pop("CHARLM_DEVICE", None)
    parts = []
    for command in COMMANDS:
        shown = subprocess.run(
            [sys.executable, "-m", "charlm", command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        usage = shown.stdout.replace("python -m charlm", "charlm").strip()
        parts.append(f"```text\n{usage}\n```\n")
    return BEGIN + "\n".join(parts) + END


def generated_stress_table() -> str:
    return STRESS + table.table() + END


def blocks(language):
    return re.findall(rf"<!-- tested -->\n```{language}\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


def shortened(code):
    for pattern, replacement in SHORTER:
        code = re.sub(pattern, replacement, code)
    return code


def make_texts(folder, text):
    for name in ("corpus.txt", "more.txt", "held-out.txt", "notes.txt"):
        (folder / name).write_text(text[:6000], encoding="utf-8")
    (folder / "names.txt").write_text("".join(f"{word}\n" for word in text.split()[:1500]), encoding="utf-8")
    subprocess.run(["gzip", "notes.txt"], cwd=folder, check=True)
    (folder / "chapters").mkdir()
    (folder / "chapters" / "1.txt").write_text(text[:3000], encoding="utf-8")
    (folder / "program.exe").write_bytes(bytes(range(256)) * 30)
    shutil.copytree(ROOT / "checkpoints" / "shakespeare", folder / "checkpoints" / "shakespeare")


def test_the_commands_run(tmp_path, text):
    make_texts(tmp_path, text)
    prefork_server().install(tmp_path, patterns=("train*", "*--adapt*", "*--dynamic*"))  # those that import torch
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CHARLM_DEVICE": "cpu"}
    commands = [line for block in blocks("sh") for line in shortened(block).splitlines() if line.strip()]
    assert len(commands) >= 15
    for command in commands:
        result = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    assert (tmp_path / "checkpoints" / "corpus").is_dir()


def test_the_python_runs(tmp_path, text, monkeypatch, capsys):
    make_texts(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    exec(compile(shortened(code), "README.md", "exec"), {})
    assert "Once upon" not in capsys.readouterr().out  # the prompt is not repeated by the library


def test_the_options_are_those_of_the_commands():
    assert generated_help() in README.read_text("utf-8"), "run make readme"


def test_stress_table_shows_newest_results():
    assert generated_stress_table() in README.read_text("utf-8"), "run make readme"


def test_the_tree_is_the_tree():
    tree = README.read_text("utf-8").partition("## The tree")[2].partition("## All options")[0]
    for path in (ROOT / "charlm").rglob("*.py"):
        if path.name != "__init__.py":
            assert path.name in tree, path
    for name in re.findall(r"[a-z_]+\.py", tree):
        assert list((ROOT / "charlm").rglob(name)), name


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^ {4}make (\w+)", README.read_text("utf-8"), re.MULTILINE):
        assert f"\n{target}:" in makefile


if __name__ == "__main__":
    for begin, generated in ((STRESS, generated_stress_table()), (BEGIN, generated_help())):
        before, _, rest = README.read_text("utf-8").partition(begin)
        README.write_text(before + generated + rest.partition(END)[2], encoding="utf-8")
