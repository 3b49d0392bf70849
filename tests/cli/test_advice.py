"""Suggested commands work as printed: quoted for the shell, and with a program that the shell finds."""

import shlex
import sys
from pathlib import Path

import pytest

from charlm.cli.advice import shell_command


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Set how charlm was started, and whether a program of this name is on the PATH."""

    def start(argument, *original, on_path=None):
        monkeypatch.setattr(sys, "argv", [argument])
        monkeypatch.setattr(sys, "orig_argv", [*original, argument])
        monkeypatch.setenv("PATH", str(on_path or tmp_path / "empty"))

    return start


def program(folder):
    folder.mkdir()
    path = folder / "charlm"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_arguments_are_quoted(started):
    started("charlm")
    command = shell_command("generate", "--checkpoint", Path("my runs/it's"))
    assert shlex.split(command)[1:] == ["generate", "--checkpoint", "my runs/it's"]


def test_a_program_on_the_path_is_called_by_name(started, tmp_path):
    path = program(tmp_path / "bin")
    started(str(path), on_path=path.parent)
    assert shell_command("info") == "charlm info"
    link = tmp_path / "links" / "charlm"
    link.parent.mkdir()
    link.symlink_to(path)
    started(str(path), on_path=link.parent)
    assert shell_command("info") == "charlm info"


def test_a_program_that_is_not_on_the_path_is_called_by_its_path(started, tmp_path):
    started(".venv/bin/charlm")
    assert shell_command("info") == ".venv/bin/charlm info"
    started("my env/bin/charlm")
    assert shell_command("info") == "'my env/bin/charlm' info"
    other = program(tmp_path / "other")
    started(".venv/bin/charlm", on_path=other.parent)
    assert shell_command("info") == ".venv/bin/charlm info"


def test_a_module_is_run_with_the_same_python(started):
    started("site-packages/charlm/__main__.py", "python3")
    assert shell_command("info") == "python3 -m charlm info"


def test_within_another_program_the_name_is_used(started):
    started("-c", "python3")
    assert shell_command("info") == "charlm info"
