"""Short forms of the campaigns against disks: power cuts, calls that fail, numbers that are none."""

from campaigns import disk, divergence, power


def test_power_cuts():
    figures = power.campaign(states=120)
    assert figures["acknowledged_lost"] == figures["corrupt_loaded"] == 0
    assert figures["states"] >= 120


def test_calls_that_fail():
    figures = disk.campaign(every=25, mount=False)
    assert figures["previous_lost"] == figures["left_half_made"] == figures["ends_that_differ"] == 0
    assert figures["ends_with_74"] > 0


def test_numbers_that_are_none():
    figures = divergence.campaign(trials=1)
    assert figures["poisoned_steps"] > 100
    assert figures["weights_changed_by_them"] == 0
    assert figures["rollbacks"] == 4
