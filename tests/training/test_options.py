import inspect
import subprocess
import sys
import typing

import numpy as np
import pytest

import charlm
from charlm.config import TrainingConfig
from charlm.errors import DataError, UsageError, keyword_message
from charlm.training import options as module
from charlm.training.keywords import takes_options
from charlm.training.options import ResumeOptions, TrainingOptions, check_options, check_type, definitions


def test_every_option_has_a_type_and_a_help():
    for name, (kinds, option) in definitions(TrainingOptions).items():
        assert set(kinds) <= {int, float, str}, name
        assert option.help.endswith("."), name
    assert definitions(ResumeOptions).keys() < definitions(TrainingOptions).keys()


def test_types_agree_with_the_configuration():
    hints = typing.get_type_hints(TrainingConfig)
    for name, (kinds, _) in definitions(TrainingOptions).items():
        if name in hints and name != "save_every":
            assert kinds == tuple(
                kind for kind in typing.get_args(hints[name]) or (hints[name],) if kind is not type(None)
            )


def test_the_options_import_nothing_heavy():
    code = "import sys, charlm.training.options; sys.exit(sum(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_are_checked_by_type():
    assert check_options({"lr": 1, "steps": np.int64(3), "size": None}, TrainingOptions, "train") == {
        "lr": 1,
        "steps": 3,
    }
    assert type(check_type("lr", np.float32(0.5), (float,))) is float
    assert check_type("save_every", 100, (str, int)) == 100
    for name, value, words in [
        ("lr", "foo", "--lr must be a number, not 'foo'"),
        ("lr", True, "--lr must be a number, not True"),
        ("steps", 1.5, "--steps must be an integer, not 1.5"),
        ("time", 3, "--time must be a string such as '10m', not 3"),
        ("save_every", 1.5, "--save-every must be a string such as '20s' or an integer, not 1.5"),
    ]:
        with pytest.raises(UsageError) as caught:
            check_options({name: value}, TrainingOptions, "train")
        assert str(caught.value) == words
    with pytest.raises(UsageError, match=r"train\(\) has no option 'colour'; it has ar, average"):
        check_options({"colour": None}, TrainingOptions, "train")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("--lr must be above 0", "lr must be above 0"),
        ("give only one of --epochs, --steps and --time", "give only one of epochs, steps and time"),
        ("choose a smaller --batch, --save-every or --size", "choose a smaller batch, save_every or size"),
        (
            "damaged; run charlm train FILE --lr 1, or leave out --lr",
            "damaged; run charlm train FILE --lr 1, or leave out lr",
        ),
        ("go on with it by --resume --lr 1, or name another", "go on with it by --resume --lr 1, or name another"),
        ("a--lr.txt and /x/--lr are files (--lr)", "a--lr.txt and /x/--lr are files (lr)"),
    ],
)
def test_messages_name_keywords(message, expected):
    assert keyword_message(message) == expected


def test_a_decorated_function_shows_its_options_and_names_them_in_errors():
    @takes_options(ResumeOptions)
    def work(run, *, device=None, **options):
        """Work."""
        raise DataError("use another --device, or fewer --steps")

    assert list(inspect.signature(work).parameters) == ["run", "device", *definitions(ResumeOptions)]
    assert "save_every: Steps" in work.__doc__
    with pytest.raises(DataError, match="use another device, or fewer steps"):
        work("x")


def test_the_python_functions_show_every_option():
    for function, kind in ((charlm.train, TrainingOptions), (charlm.resume, ResumeOptions)):
        parameters = inspect.signature(function).parameters
        assert parameters.keys() >= definitions(kind).keys()
        assert not [p for p in parameters.values() if p.kind is p.VAR_KEYWORD]
        assert "--" not in function.__doc__.replace("charlm train --resume", "")
    assert module.command_line_name("save_every") == "--save-every"
