from charlm.training.budget import compared_ids
from charlm.training.validation_text import ValidationText


class CountingEngine:
    """Reads ids and predicts nothing; counts the ids that are predicted."""

    name = "counting"

    def __init__(self):
        self.read = 0

    def initial_state(self, batch):
        return batch

    def gather(self, parts):
        return sum(len(rows) for _, rows in parts)

    def losses(self, inputs_TB, targets_TB, state):
        self.read += targets_TB.size
        return 0.0 * targets_TB.astype("float32"), state


def test_evaluations_read_the_first_ids_and_compare_precisions_on_fewer(corpus):
    count = corpus.sizes["valid"].ids
    whole, part = ValidationText(corpus), ValidationText(corpus, 500)
    assert (len(whole.ids), len(part.ids)) == (count, 500)
    assert (part.ids == whole.ids[:500]).all()
    assert compared_ids(1 << 17) == 1 << 14
    assert compared_ids(1 << 14) == 1 << 11
    assert compared_ids(1) == 32
    for text, expected in ((whole, count), (part, compared_ids(500))):
        engine = CountingEngine()
        assert text.precision_loss(engine) == 0.0
        assert engine.read == expected


def test_documents_are_read_whole(document_corpus):
    part = ValidationText(document_corpus, 200)
    assert 0 < len(part.ids) <= 200
    assert part.ids[-1] == document_corpus.tokenizer.end_id
