"""Models that come with charlm are found by name, unless a path of that name exists."""

from pathlib import Path

import pytest

import charlm
from charlm.checkpoint.shipped import SHIPPED, find_checkpoint
from charlm.errors import MissingInputError


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_is_found_by_its_name(name):
    assert (find_checkpoint(Path(name)) / "model.safetensors").is_file()
    assert charlm.load(name).checkpoint.path.name == name


def test_a_path_comes_first():
    Path("shakespeare").mkdir()
    assert find_checkpoint(Path("shakespeare")) == Path("shakespeare")


@pytest.mark.parametrize("path", ["runs/shakespeare", "/shakespeare", "."])
def test_other_paths_are_kept(path):
    assert find_checkpoint(Path(path)) == Path(path)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(MissingInputError, match=r"^goethe does not exist; .*\(shakespeare\)"):
        charlm.load("goethe")
