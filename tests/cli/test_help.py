"""Help, completion, and mistakes that are told before torch is loaded."""

import os
import subprocess
import sys

import pytest

from charlm.config import AVERAGES, OPTIMIZERS, SCHEDULES
from charlm.training.options import SIZES

PROGRAM = """
import sys
sys.argv = ["charlm", *sys.argv[1:]]
from charlm.cli.app import main
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""


def run(*words, **variables):
    environment = {**os.environ, "COLUMNS": "100", **variables}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=environment, check=True
    )


def test_every_option_of_train_has_a_group():
    shown = run("train", "--help").stdout
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Arguments:", "Text:", "Limit:", "Run:", "Machine:", "Model:", "Training:"]
    assert "--bptt-jitter" in shown


@pytest.mark.parametrize(
    ("option", "choices"),
    [("size", tuple(SIZES)), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("average", AVERAGES)],
)
def test_tab_completes_choices(option, choices):
    for begun in ("", choices[1][:2]):
        words = f"charlm train --{option} {begun}"
        shown = run(_CHARLM_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="3").stdout.split()
        assert tuple(shown[:-2]) == tuple(choice for choice in choices if choice.startswith(begun))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing.txt"], 66, "missing.txt does not exist"),
        (["{text}", "--valid", "missing.txt"], 66, "missing.txt does not exist"),
        (["{text}", "--optimizer", "lion"], 2, "must be one of muon, adamw, adam, sgd, rmsprop, not 'lion'"),
        (["{text}", "--size", "xl"], 2, "must be one of tiny, small, medium, large, huge, not 'xl'"),
        (["{text}", "--time", "10"], 2, "--time '10' has no unit; write 10s, 10m or 10h"),
        (["{text}", "--time", "10m", "--steps", "5"], 2, "give only one of --epochs, --steps and --time"),
        (["{text}", "--epochs", "-1"], 2, "must be above 0"),
        (["{text}", "--documents", "lines", "--state-reset", "0.1"], 2, "no effect on documents"),
        (["--lr", "1"], 2, "no text given"),
        (["{text}", "--split", "90"], 2, "--split '90' must be two or three percentages"),
        (["{text}", "--documents", "words"], 2, "not 'words'"),
        (["{text}", "--precision", "fp9"], 2, "not 'fp9'"),
        (["{text}", "--device", "gpu"], 2, "--device 'gpu' is not a device"),
        (["{text}", "--init-from", "missing"], 66, "missing does not exist"),
        (["{text}", "--out", "{text}"], 73, "exists and is not a run"),
        (["--resume", "--out", "missing"], 66, "missing does not exist"),
        (["--resume", "--lr", "1"], 2, "--lr cannot change when a run is resumed"),
    ],
)
def test_a_wrong_training_is_refused_before_torch_is_loaded(words, code, message, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("words\n" * 100)
    result = run("train", *(word.format(text=text) for word in words))
    assert message in result.stderr
    assert result.stdout == f"{code} False\n"
