"""The Docker image: what it is built from, and the warning about a run that would be lost with the container."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED_MEMORY = Path("/dev/shm")


def test_every_copied_file_is_in_the_build_context():
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    included = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert sources == included
    assert all((ROOT / source).exists() for source in sources)


@pytest.fixture
def folder():
    """A folder on the disk, because what is in memory is mounted."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        yield Path(name)


@pytest.fixture
def start(folder):
    """Run the entry point in an empty folder with a charlm that prints its arguments."""
    program = folder / "bin" / "charlm"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}

    def run(*arguments):
        command = ["sh", ROOT / "docker-entrypoint.sh", *arguments]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        assert result.stdout == "".join(f"{argument}|" for argument in arguments)
        return result.stderr

    return run


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("mountpoint"), reason="needs Linux and mountpoint")
def test_a_run_that_would_be_lost_is_warned_about(start, folder):
    if any(os.path.ismount(path) for path in [folder, *folder.parents][:-1]):
        pytest.skip("temporary files are in a mounted folder")
    for arguments in ([], ["a text.txt"], ["--out", "runs/new"], ["--out=/nowhere/new"], ["--resume"]):
        assert "the run will be lost with the container" in start("train", *arguments), arguments
    for arguments in (["generate"], ["--help"]):
        assert start(*arguments) == "", arguments


@pytest.mark.skipif(not os.path.ismount(SHARED_MEMORY), reason="needs a mounted folder")
def test_a_run_in_a_mounted_folder_is_kept(start):
    for arguments in (["--out", str(SHARED_MEMORY / "new")], [f"--out={SHARED_MEMORY}"]):
        assert start("train", "text.txt", *arguments) == ""
