import pytest
import torch

from charlm.config import TrainingConfig
from charlm.system.cores import cores
from charlm.training.threads import use_threads


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr("charlm.system.cores.cores", lambda: 8)
    monkeypatch.setattr("charlm.training.threads.cores", lambda: 8)
    monkeypatch.setattr("charlm.training.threads._reduced", None)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def used(batch, threads=None):
    use_threads(TrainingConfig(batch=batch, threads=threads))
    return torch.get_num_threads()


def test_a_small_batch_does_not_limit_the_next_training():
    torch.set_num_threads(6)
    assert [used(batch) for batch in (32, 8, 4, 12, 32)] == [6, 2, 1, 3, 6]


def test_threads_that_were_set_in_between_are_the_new_maximum():
    torch.set_num_threads(6)
    assert used(8) == 2
    torch.set_num_threads(4)
    assert used(32) == 4


def test_the_number_that_is_given_is_used_up_to_the_cores():
    assert [used(4, threads) for threads in (1, 3, 99)] == [1, 3, 8]
    assert cores() >= 1
