import pytest
import torch

from charlm.errors import OutOfMemoryError, UsageError
from charlm.system import devices

CPU = torch.device("cpu")


def test_auto_is_a_device_of_this_machine():
    assert torch.zeros(1, device=devices.choose_device("auto")).sum() == 0
    assert devices.choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["tpu", "cuda:99", "", "meta", "cpu:x"])
def test_other_devices_are_refused(name):
    with pytest.raises(UsageError, match="--device"):
        devices.choose_device(name)


def test_precision_is_the_given_or_the_faster_one(monkeypatch):
    assert devices.choose_precision("fp32", CPU) == "fp32"
    assert devices.choose_precision("bf16", CPU) == "bf16"
    for gain, precision in ((0.3, "fp32"), (2.1, "bf16")):
        monkeypatch.setattr(devices, "_bfloat16_gain", lambda gain=gain: gain)
        assert devices.choose_precision("auto", CPU) == precision
    with pytest.raises(UsageError, match="--precision"):
        devices.choose_precision("fp8", CPU)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_errors_end_with_advice(error):
    with pytest.raises(OutOfMemoryError, match="choose less"), devices.memory_errors("choose less"):
        raise error


def test_other_errors_are_raised_unchanged():
    with pytest.raises(RuntimeError, match="shapes"), devices.memory_errors("choose less"):
        raise RuntimeError("shapes do not match")
