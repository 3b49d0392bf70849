"""The short form of the stress test of hostile texts."""

from stress import hostile_text


def test_hostile_texts_give_exact_results_or_one_line_errors():
    figures = hostile_text.run_trials(inputs=150, prompt_mb=0)
    assert figures["succeeded"] > figures["refused"] > 0
    assert figures["trained"] > 0
