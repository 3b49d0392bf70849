import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.corpus.shuffling import shuffled


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 100))
def test_a_shuffle_is_a_permutation(size, seed, epoch):
    found = shuffled(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(found), np.arange(size))
    some = np.arange(0, size, 7)
    assert np.array_equal(shuffled(some, size, seed, epoch), found[some])


def test_shuffles_look_random():
    size = 4096
    places = np.stack([shuffled(np.arange(size), size, 5, epoch) for epoch in range(200)])
    assert len({tuple(row) for row in places[:, :20]}) == 200
    correlations = [np.corrcoef(row, np.arange(size))[0, 1] for row in places]
    assert abs(np.mean(correlations)) < 0.01
    assert np.std(correlations) == pytest.approx(size**-0.5, rel=0.25)
    # The position of the first document is uniform: chi-squared over 16 bins.
    bins = np.bincount(places[:, 0] // 256, minlength=16)
    assert ((bins - 12.5) ** 2 / 12.5).sum() < 45
