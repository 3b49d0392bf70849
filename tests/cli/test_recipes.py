from charlm.cli.recipes import differing_options, repeated_seeds


def config(seed, **training):
    return {
        "model": {"hidden": 8, "vocabulary_size": 300 + seed},
        "training": {"seed": seed, "threads": seed, **training},
    }


def test_runs_of_one_recipe():
    configs = [config(seed, lr=0.1) for seed in (1, 2, 3)]
    assert differing_options(configs) == []
    assert repeated_seeds(configs) == []


def test_what_differs():
    configs = [config(1, lr=0.1), config(2, lr=0.1), config(3, lr=0.2, clip=1.0)]
    assert differing_options(configs) == ["clip", "lr"]
    configs[1]["model"]["hidden"] = 16
    assert differing_options(configs) == ["clip", "hidden", "lr"]


def test_seeds_that_are_the_same():
    assert repeated_seeds([config(1), config(2), config(1), config(2), config(3)]) == ["1", "2"]


def test_configs_without_these_sections():
    """An exported model keeps its config; one of another origin may have less."""
    assert differing_options([{}, {"training": None}]) == []
    assert repeated_seeds([{}, {}]) == []
