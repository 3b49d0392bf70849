"""Short form of the campaign with hostile texts."""

from campaigns import hostile_text


def test_hostile_texts():
    figures = hostile_text.campaign(inputs=300, prompt_mb=0)
    assert figures["succeeded"] > figures["refused"] > 0
    assert figures["trained"] > 0
