"""``LanguageModel``: a checkpoint made usable. It writes text, measures text, and never prints.

Nothing here needs torch; the engine does what it needs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.step import CONFIG, Checkpoint, open_checkpoint
from charlm.config import ModelConfig, SamplingConfig, from_dict
from charlm.corpus.documents import Piece, split_documents
from charlm.corpus.hashing import DocumentHasher
from charlm.engine import Engine, create_engine
from charlm.engine.ensemble import Ensemble
from charlm.errors import DataError, UsageError
from charlm.evaluation.comparison import difference
from charlm.evaluation.losses import exact_losses
from charlm.evaluation.measure import evaluate, evaluate_together
from charlm.evaluation.metrics import Evaluation
from charlm.evaluation.scoring import Scored, Surprise, ids_of, score_documents, surprises
from charlm.generation.sampling import uniform_sources
from charlm.generation.streams import Stream
from charlm.generation.text import Text
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer, code_points

_BLOCK = 1 << 20
_SAMPLES_AT_ONCE = 256


def load(path: str | Path, device: str = "auto", precision: str = "auto", threads: int | None = None) -> LanguageModel:
    """Open a run (at its best step) or one of its steps.

    ``precision`` "auto" measures in fp32 and writes in the fastest precision that cost at most 0.001 nats per character
    when the checkpoint was made; "fp32", "bf16" and "int8" do both in that. Raises ``MissingInputError``,
    ``DataError`` for a checkpoint that fails its checks, ``UsageError`` for a device that this machine lacks.
    """
    return LanguageModel.from_checkpoint(open_checkpoint(Path(path)), device, precision, threads)


def _precision_costs(checkpoint: Checkpoint) -> dict[str, float]:
    costs = checkpoint.config.get("precision_costs")
    if not isinstance(costs, dict):
        return {}
    return {name: float(cost) for name, cost in costs.items() if type(cost) in (int, float)}


class LanguageModel:
    """A trained model with its tokenizer. Make one with ``charlm.load``."""

    def __init__(self, make_engine: Callable[[str], Engine], tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
        """``make_engine`` gives an engine for "measuring" or for "writing"."""
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.config = from_dict(ModelConfig, checkpoint.config.get("model"), str(checkpoint.path / CONFIG))
        self.members: tuple[LanguageModel, ...] = (self,)
        """The models whose probabilities are averaged: itself alone, but in an ensemble."""
        self._make_engine = functools.cache(make_engine)
        self._choices: tuple[str, str, int | None] = ("auto", "auto", None)

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: str = "auto", precision: str = "auto", threads: int | None = None
    ) -> LanguageModel:
        """A model on ``device`` from an opened checkpoint; errors as in ``load``."""
        return cls._made(checkpoint, read_model_parts(checkpoint), (device, precision, threads))

    @classmethod
    def _made(cls, checkpoint: Checkpoint, parts: ModelParts, choices: tuple[str, str, int | None]) -> LanguageModel:
        device, precision, threads = choices

        def make_engine(purpose: str) -> Engine:
            wanted = "fp32" if precision == "auto" and purpose == "measuring" else precision
            return create_engine(parts.config, parts.weights, device, wanted, threads, _precision_costs(checkpoint))

        model = cls(make_engine, parts.tokenizer, checkpoint)
        model._choices = choices
        return model

    def with_weights(self, weights: dict[str, NDArray[np.float32]]) -> LanguageModel:
        """The same model with other weights of the same names and shapes."""
        return self._made(self.checkpoint, ModelParts(self.config, self.tokenizer, weights), self._choices)

    @classmethod
    def ensemble(cls, members: Sequence[LanguageModel]) -> LanguageModel:
        """One model that gives the mean of the probabilities of ``members``; ``checkpoint`` is that of the first.

        Raises ``DataError`` unless all have the same tokenizer, ``UsageError`` where there is none.
        """
        if not members:
            raise UsageError("an ensemble needs a model; give one or more")
        first = members[0]
        for other in members[1:]:
            _refuse_unlike(first, other)

        def make_engine(purpose: str) -> Engine:
            return Ensemble([member._make_engine(purpose) for member in members])

        model = cls(make_engine, first.tokenizer, first.checkpoint)
        model.members = tuple(members)
        return model

    @property
    def engine(self) -> Engine:
        """What measures."""
        return self._make_engine("measuring")

    @property
    def writing_engine(self) -> Engine:
        """What writes."""
        return self._make_engine("writing")

    def generate(
        self,
        prompt: str | Iterable[str] = "",
        length: int = 500,
        *,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: str | None = None,
        seed: int | None = None,
    ) -> str:
        """``length`` new characters after ``prompt`` (which is not repeated), fewer where ``stop`` would come.

        A model of documents writes one, and ends where it ends; ``prompt`` is its beginning.
        The same seed gives the same text; without one it is different each time. Raises ``UsageError`` for sampling
        options without meaning and ``DataError`` for half characters in the prompt.
        """
        config = SamplingConfig(temperature, top_k, top_p, min_p)
        return "".join(self.stream(prompt, length, config, stop=stop, seed=seed))

    def stream(
        self,
        prompt: str | Iterable[str] = "",
        length: int = 500,
        config: SamplingConfig | None = None,
        *,
        stop: str | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """The same, in pieces as they are made. A prompt longer than memory may come in pieces, too."""
        return self._written(prompt, length, config or SamplingConfig(), stop, seed)

    def samples(
        self,
        count: int | None,
        prompt: str = "",
        length: int = 500,
        config: SamplingConfig | None = None,
        *,
        stop: str | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """``count`` texts (None: no end of them) after one prompt, many at a time. ``stream`` writes the first."""
        seed, config = _seed(seed), config or SamplingConfig()
        waiting = iter(range(count) if count is not None else itertools.count())
        numbers = list(itertools.islice(waiting, _SAMPLES_AT_ONCE))
        texts = {number: Text(self.tokenizer, length, stop) for number in numbers}
        pieces = dict.fromkeys(numbers, "")
        stream = self._stream(prompt, config, seed, numbers)
        wanted = 0  # the sample that is yielded next; others wait for it
        while texts:
            ids_NB = stream.draw(max(1, *(texts[number].missing for number in numbers)))
            for number, ids in zip(numbers, ids_NB.T, strict=True):
                pieces[number] += texts[number].feed(ids)
            going_on = [row for row, number in enumerate(numbers) if texts[number].missing]
            new = list(itertools.islice(waiting, len(numbers) - len(going_on)))
            if len(going_on) < len(numbers):
                stream.replace(np.array(going_on, np.int64), uniform_sources(seed, new))
            numbers = [*(numbers[row] for row in going_on), *new]
            texts.update({number: Text(self.tokenizer, length, stop) for number in new})
            pieces.update(dict.fromkeys(new, ""))
            while wanted in texts and not texts[wanted].missing:
                yield pieces.pop(wanted) + texts.pop(wanted).rest()
                wanted += 1

    def _written(
        self, prompt: str | Iterable[str], length: int, config: SamplingConfig, stop: str | None, seed: int | None
    ) -> Iterator[str]:
        text = Text(self.tokenizer, length, stop)
        stream = self._stream(prompt, config, _seed(seed), range(1))
        while text.missing:
            if piece := text.feed(stream.draw(text.missing)[:, 0]):
                yield piece
        if rest := text.rest():
            yield rest

    def _stream(self, prompt: str | Iterable[str], config: SamplingConfig, seed: int, numbers: Sequence[int]) -> Stream:
        pieces = [prompt] if isinstance(prompt, str) else prompt
        ids = (self.tokenizer.encode(part) for piece in pieces for part in _parts(piece))
        return Stream(self.writing_engine, self.tokenizer, ids, config, uniform_sources(seed, numbers))

    def evaluate(self, text: str, window: int | None = None) -> Evaluation:
        """How well the model predicts ``text``: one exact pass, or with ``window`` the mean over cold windows.

        A model of documents finds them in ``text`` as it was trained: lines, or what blank lines part, or one.
        """
        codes = (self._codes(part) for part in _parts(text))
        if isinstance(self.tokenizer, DocumentTokenizer):
            pieces = split_documents([codes], self.tokenizer.document_kind)
            return self.evaluate_ids(itertools.starmap(self.tokenizer.encode_documents, pieces), window)
        return self.evaluate_ids((self.tokenizer.encode_codes(part) for part in codes), window)

    def _codes(self, text: str) -> Codes:
        """``text`` as the tokenizer's codes: code points, or bytes."""
        return self.tokenizer.encode(text) if self.tokenizer.kind == "byte" else code_points(text)

    def evaluate_ids(
        self,
        blocks: Iterable[Ids],
        window: int | None = None,
        progress: Callable[[int], None] = lambda predictions: None,
    ) -> Evaluation:
        """The same for ids that come in blocks of any size, for texts larger than memory; of documents with their ends.

        Raises ``UsageError`` for a ``window`` over documents, which are read from their beginnings in any case.
        """
        return evaluate(self.engine, self.tokenizer, blocks, window, progress)

    def evaluate_members(
        self,
        blocks: Iterable[Ids],
        window: int | None = None,
        progress: Callable[[int], None] = lambda predictions: None,
    ) -> tuple[Evaluation, list[Evaluation]]:
        """The same, and beside it the evaluation of each of ``members``, for which nothing is read twice."""
        engines = [member.engine for member in self.members]
        return evaluate_together(engines, self.tokenizer, blocks, window, progress)

    def score(self, text: str) -> NDArray[np.float64]:
        """The log-probability in nats of each character of ``text``, given all before it; [len(text)].

        With the byte tokenizer, of each byte.
        """
        blocks = (self.tokenizer.encode(part) for part in _parts(text))
        pieces = list(exact_losses(self.engine, self.tokenizer, blocks))
        if not pieces:
            return np.zeros(0)
        ids = np.concatenate([ids for ids, _ in pieces])
        nats = np.concatenate([nats for _, nats in pieces]).astype(np.float64)
        log_probabilities: NDArray[np.float64] = np.add.reduceat(-nats, np.nonzero(self._starts(ids))[0])
        return log_probabilities

    def score_documents(self, documents: Iterable[str]) -> Iterator[Scored]:
        """A score for each document, in constant memory; thousands are read side by side.

        Each is read from a fresh state, and by a model of documents its end is predicted, too.
        """
        for together in self.score_pieces(self._piece(text) for text in documents):
            yield from together

    def score_pieces(self, pieces: Iterable[Piece], at_once: bool = False) -> Iterator[list[Scored]]:
        """The same for documents found in a text, in lists as they are done; see ``scoring.score_documents``."""
        return score_documents(self.engine, self.tokenizer, pieces, at_once)

    def _piece(self, text: str) -> Piece:
        codes = self._codes(text)
        return Piece(codes, np.full(1, len(codes), np.int64))

    def fingerprint(self, text: str) -> int:
        """64 bits of a document, as ``Corpus.fingerprints`` has them of those that were learnt."""
        return int(DocumentHasher().update(self._piece(text))[0])

    def surprises(self, text: str, alternatives: int = 5) -> Iterator[Surprise]:
        """How unexpected each character of one document was, and which others were likely in its place."""
        ids, _ = ids_of(self.tokenizer, *self._piece(text))
        return surprises(self.engine, self.tokenizer, ids, alternatives)

    def _starts(self, ids: Ids) -> NDArray[np.bool_]:
        return self.tokenizer.starts_character[ids]

    def describe(self) -> dict[str, Any]:
        """What config.json says of the checkpoint, and what runs it here."""
        return {**self.checkpoint.config, "path": str(self.checkpoint.path), "engine": self.writing_engine.name}


def _refuse_unlike(first: LanguageModel, other: LanguageModel) -> None:
    """Raise ``DataError`` unless both have the same tokenizer."""
    if first.tokenizer.description() == other.tokenizer.description():
        return
    why = difference(first.tokenizer, other.tokenizer) or "their vocabularies differ"
    documents = first.tokenizer.document_kind or other.tokenizer.document_kind
    # The seed shuffles documents into the parts, and the vocabulary is that of the training part.
    options = "--split, --tokenizer, --documents and --seed" if documents else "--split and --tokenizer"
    raise DataError(
        f"{first.checkpoint.path} and {other.checkpoint.path} cannot be averaged: {why}; name models that were trained "
        f"on one text with the same {options}"
    )


def _parts(text: str) -> Iterator[str]:
    return (text[start : start + _BLOCK] for start in range(0, len(text), _BLOCK))


def _seed(seed: int | None) -> int:
    if seed is not None and not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be 0 to 2^63-1, not {seed}")
    return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] >> 1) if seed is None else seed
