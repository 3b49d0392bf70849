import numpy as np
import pytest
import torch

import charlm
from charlm.checkpoint.model_parts import read_model_parts
from charlm.checkpoint.step import GRADIENTS, MODEL, open_checkpoint, save_step
from charlm.checkpoint.tensors import tensors_to_bytes
from charlm.corpus.prepared import open_corpus
from charlm.errors import DataError, UsageError
from charlm.evaluation.dynamic import (
    DECAY,
    LR,
    SEGMENT,
    Learner,
    _evenly_spaced_segments,
    _segment_losses,
    compute_gradient_rms,
    evaluate_dynamically,
    gradient_rms,
    segments,
)
from charlm.model.char_lm import CharLM

NEW = "mad dogs hate moths; " * 40
"""Words that the word salad does not have, of characters that it has."""


def network(run):
    parts = read_model_parts(open_checkpoint(run)).calibrated()
    model = CharLM(parts.config)
    model.load_weights(parts.weights)
    return model


def rms_of(run):
    checkpoint = open_checkpoint(run)
    parts = read_model_parts(checkpoint).calibrated()
    config, weights = parts.config, parts.weights
    return gradient_rms(checkpoint.path, config, weights)


def ids_of(run, text):
    return charlm.load(run, device="cpu").tokenizer.encode(text).astype(np.int64)


def learner(run, **settings):
    return Learner(network(run), rms_of(run), **settings)


def losses(run, blocks, **settings):
    tokenizer = charlm.load(run, device="cpu").tokenizer
    return np.concatenate([nats for _, nats in learner(run, **settings).losses(tokenizer, blocks)])


@pytest.mark.parametrize("changed", [SEGMENT, 2 * SEGMENT + 5, 7 * SEGMENT - 1])
def test_no_segment_is_scored_after_learning_from_it(trained_run, changed):
    """Ids at or after ``changed`` do not change any loss before it."""
    one = ids_of(trained_run, NEW)[: 8 * SEGMENT]
    other = one.copy()
    other[changed:] = np.roll(other[changed:], 3)
    first, second = losses(trained_run, [one], lr=0.01), losses(trained_run, [other], lr=0.01)
    assert np.array_equal(first[:changed], second[:changed])
    assert not np.array_equal(first[changed:], second[changed:])


def test_each_segment_is_scored_after_learning_from_those_before(trained_run):
    ids = ids_of(trained_run, NEW)[: 5 * SEGMENT]
    found = losses(trained_run, [ids])
    for segment in range(5):
        before, own = ids[: segment * SEGMENT], ids[segment * SEGMENT : (segment + 1) * SEGMENT]
        model, tokenizer = network(trained_run), charlm.load(trained_run, device="cpu").tokenizer
        learning = Learner(model, rms_of(trained_run))
        list(learning.losses(tokenizer, [before]))
        # The state depends on the weights that read each segment, so it is computed with a second learner.
        state, previous = model.initial_state(1), tokenizer.start_id
        again = Learner(network(trained_run), rms_of(trained_run))
        for start in range(0, segment * SEGMENT, SEGMENT):
            _, state = again.read(previous, ids[start : start + SEGMENT], state)
            previous = int(ids[start + SEGMENT - 1])
        nats, _ = _segment_losses(model, previous, own, state)
        assert np.allclose(nats.detach(), found[segment * SEGMENT : (segment + 1) * SEGMENT], atol=1e-5)


def test_with_a_learning_rate_of_0_it_is_the_plain_evaluation(trained_run, document_run):
    for run, text in ((trained_run, NEW), (document_run, "the cat sat\nzz\n\non a mat\n")):
        model = charlm.load(run, device="cpu", precision="fp32")
        documents = model.tokenizer.document_kind is not None
        ids = ids_of(run, text)
        if documents:
            codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
            piece = next(iter(pieces_of_lines(codes)))
            ids = model.tokenizer.encode_documents(piece.codes, piece.ends).astype(np.int64)
        plain, dynamic = model.evaluate_ids([ids]), evaluate_dynamically(learner(run, lr=0.0), model.tokenizer, [ids])
        assert dynamic.nats == pytest.approx(plain.nats, rel=1e-5)
        assert (dynamic.characters, dynamic.documents) == (plain.characters, plain.documents)
        assert dynamic.end_nats == pytest.approx(plain.end_nats, rel=1e-5)


def pieces_of_lines(codes):
    from charlm.corpus.documents import split_documents

    return split_documents([iter([codes])], "lines")


def test_the_size_of_blocks_does_not_matter(trained_run):
    ids = ids_of(trained_run, NEW)
    whole = losses(trained_run, [ids])
    pieces = [ids[start : start + 7] for start in range(0, len(ids), 7)]
    assert np.array_equal(whole, losses(trained_run, pieces))


def test_segments_end_where_documents_end():
    ids = np.arange(1, 3 * SEGMENT)
    ids[[4, 5, SEGMENT + 10]] = 0
    found = list(segments([ids], 0))
    assert np.array_equal(np.concatenate(found), ids)
    assert [len(segment) for segment in found] == [5, 1, SEGMENT, 5, SEGMENT, 2 * SEGMENT - 1 - 11 - SEGMENT]


def test_it_learns_repetitions_and_leaves_the_checkpoint_unchanged(trained_run):
    model = charlm.load(trained_run, device="cpu")
    ids = ids_of(trained_run, NEW)
    before = open_checkpoint(trained_run).files[MODEL]
    assert model.evaluate_dynamically([ids]).nats < 0.9 * model.evaluate_ids([ids]).nats
    assert open_checkpoint(trained_run).files[MODEL] == before


def test_an_adapted_model_generates_what_it_has_read(trained_run):
    model = charlm.load(trained_run, device="cpu", precision="fp32")
    after = model.adapted([ids_of(trained_run, NEW * 3)])
    assert after.evaluate(NEW).nats < 0.7 * model.evaluate(NEW).nats
    assert "moths" in after.generate("mad ", 200, temperature=0.3, seed=1)
    assert "moths" not in model.generate("mad ", 200, temperature=0.3, seed=1)


def test_decay_moves_weights_towards_the_trained_weights(trained_run):
    ids = ids_of(trained_run, NEW)

    def distance(decay):
        moved, rms = network(trained_run), rms_of(trained_run)
        learning = Learner(moved, rms, decay=decay)
        list(learning.losses(charlm.load(trained_run, device="cpu").tokenizer, [ids]))
        start = network(trained_run).weights()
        # The decay is strongest where the rms is large.
        return sum(float((rms[name] * np.abs(array - start[name])).sum()) for name, array in moved.weights().items())

    assert distance(0.0) > 1.2 * distance(0.05) > 0


def test_a_step_by_hand(trained_run):
    """theta <- theta - lr clip(g / (rms + eps)) + decay (theta_0 - theta) rms / mean(rms), twice."""
    rms = rms_of(trained_run)
    mean = np.concatenate([array.ravel() for array in rms.values()]).mean()
    model, by_hand = network(trained_run), network(trained_run)
    start = by_hand.weights()
    learning, state, previous = Learner(model, rms), model.initial_state(1), 0
    for segment in np.split(ids_of(trained_run, NEW)[: 2 * SEGMENT], 2):
        weights = dict(by_hand.named_parameters())
        loss = _segment_losses(by_hand, previous, segment, state)[0].mean()
        gradients = torch.autograd.grad(loss, list(weights.values()))
        _, state = learning.read(previous, segment, state)
        previous = int(segment[-1])
        moved = {}
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            theta = weight.detach().numpy()
            pull = np.minimum(DECAY * rms[name] / mean, 1.0) * (start[name] - theta)
            step = np.clip(gradient.numpy() / (rms[name] + 0.1 * mean), -10, 10)
            moved[name] = theta - LR * step + pull
        by_hand.load_weights(moved)
    for name, array in model.weights().items():
        assert np.allclose(array, by_hand.weights()[name], atol=2e-6)


def test_the_best_step_has_the_gradients_and_they_are_reproducible(trained_run):
    stored = rms_of(trained_run)
    again = compute_gradient_rms(network(trained_run), open_corpus(trained_run / "corpus"), count=37)
    assert GRADIENTS in open_checkpoint(trained_run, names=[GRADIENTS]).files
    assert set(stored) == set(again)
    assert all(np.allclose(stored[name], again[name], rtol=1e-4, atol=1e-8) for name in stored)


def test_gradients_by_hand(trained_run):
    corpus, model = open_corpus(trained_run / "corpus"), network(trained_run)
    segments = list(_evenly_spaced_segments(corpus, 5))
    squares = []
    for before, ids in segments:
        model.zero_grad()
        with torch.no_grad():
            _, state = _segment_losses(model, corpus.tokenizer.start_id, before, model.initial_state(1))
        _segment_losses(model, int(before[-1]), ids, state)[0].mean().backward()
        squares.append(model.decoder.bias.grad.numpy() ** 2)
    expected = np.sqrt(np.mean(squares, axis=0))
    assert np.allclose(compute_gradient_rms(model, corpus, 5)["decoder.bias"], expected, rtol=1e-4)


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e30])
def test_impossible_sizes_of_gradients_are_refused(trained_run, tmp_path, factor):
    checkpoint = open_checkpoint(trained_run)
    rms = {name: (array + 1e8) * np.float32(factor) for name, array in rms_of(trained_run).items()}
    path = save_step(tmp_path, 1, {**checkpoint.files, GRADIENTS: tensors_to_bytes(rms)})
    with pytest.raises(DataError, match=r"gradients\.safetensors"):
        charlm.load(path, device="cpu").evaluate_dynamically([np.arange(50)])


def test_without_gradients_and_corpus_the_error_says_what_to_do(trained_run, tmp_path):
    checkpoint = open_checkpoint(trained_run)
    alone = save_step(tmp_path, 1, checkpoint.files)
    with pytest.raises(DataError, match="use the run it came from"):
        charlm.load(alone, device="cpu").evaluate_dynamically([np.arange(50)])


def test_an_ensemble_cannot_learn(trained_run):
    model = charlm.load(trained_run, device="cpu")
    for work in (model.ensemble([model, model]).adapted, model.ensemble([model]).evaluate_dynamically):
        with pytest.raises(UsageError, match="single model"):
            work([np.arange(50)])


def test_non_finite_gradients_move_nothing(trained_run):
    learning = learner(trained_run)
    with torch.no_grad():
        learning._weights[0][3] = torch.nan
    others = learning._weights[1].clone()
    learning.read(0, np.full(SEGMENT, 3), learning._model.initial_state(1))
    assert torch.equal(learning._weights[1], others)
