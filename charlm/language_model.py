"""``LanguageModel``: a checkpoint ready to use. It generates text, evaluates and scores text, and never prints.

Importing this module does not import torch. The engine and dynamic evaluation do, if they need it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from charlm.arguments import check_integer, check_path, check_text, check_texts, names_keywords
from charlm.checkpoint.model_parts import ModelParts, read_model_parts
from charlm.checkpoint.shipped import find_checkpoint
from charlm.checkpoint.step import CONFIG, Checkpoint, open_checkpoint
from charlm.config import DEFAULT_TEMPERATURE, ModelConfig, SamplingConfig, from_dict
from charlm.corpus.documents import split_documents
from charlm.corpus.hashing import DocumentHasher
from charlm.corpus.pieces import Piece
from charlm.corpus.trained_table import ModelConditions, TrainedTable
from charlm.engine import Engine, check_engine_options, create_engine
from charlm.engine.ensemble import Ensemble
from charlm.errors import UsageError
from charlm.evaluation.by_value import evaluate_by_value
from charlm.evaluation.characters import CharacterScores, Word, joined, score_characters, score_words
from charlm.evaluation.classification import Classified, classify_documents
from charlm.evaluation.comparison import check_same_tokenizer
from charlm.evaluation.losses import ProgressCallback, exact_losses, no_progress
from charlm.evaluation.measure import evaluate, evaluate_together
from charlm.evaluation.metrics import Evaluation
from charlm.evaluation.model_states import ModelStates
from charlm.evaluation.percentiles import Percentiles, checkpoint_percentiles
from charlm.evaluation.scoring import Scored, Surprisal, encode_documents, score_documents, surprisals
from charlm.generation.texts import checked_sampling, sample_texts, stream_text
from charlm.tokenizer.normalization import Normalizer, normalize
from charlm.tokenizer.protocol import Codes, Ids, Tokenizer, code_points

if TYPE_CHECKING:
    from charlm.evaluation.dynamic import Learner
    from charlm.model.char_lm import CharLM

_BLOCK_CHARACTERS = 1 << 20
"""How much of a text is encoded at a time."""

_EngineOptions = tuple[str, str, int | None]
"""Device, precision and threads, as ``load`` takes them."""

Purpose = Literal["evaluation", "generation"]
"""What an engine is for. They may differ in precision."""


@names_keywords
def load(path: str | Path, device: str = "auto", precision: str = "auto", threads: int | None = None) -> LanguageModel:
    """Open a run (at its best step), one of its steps, or by name a model that comes with charlm ("shakespeare").

    ``precision`` "auto" evaluates in fp32 and generates in the fastest precision that loses at most 0.001 nats per
    character, as measured when the checkpoint was saved; "fp32", "bf16" and "int8" apply to both. Raises
    ``MissingInputError``, ``DataError`` for a checkpoint that fails its checks, ``UsageError`` for an invalid argument
    or a device that this machine does not have.
    """
    return open_model(check_path("path", path), str(device), precision, threads)


def open_model(path: Path, device: str = "auto", precision: str = "auto", threads: int | None = None) -> LanguageModel:
    """``load``, with errors that name the options of the command line."""
    check_engine_options(device, precision, threads)
    return LanguageModel.from_checkpoint(open_checkpoint(find_checkpoint(path)), device, precision, threads)


class LanguageModel(ModelStates):
    """A trained model with its tokenizer, or an ensemble of several. Create one with ``charlm.load``.

    It can be pickled, copied and passed to other processes: its path and the arguments of ``load`` travel, and the copy
    reads the checkpoint again. A model that is not that of a checkpoint, such as an adapted one, cannot.
    """

    def __init__(
        self,
        make_engine: Callable[[Purpose], Engine],
        tokenizer: Tokenizer,
        checkpoint: Checkpoint,
        members: Sequence[LanguageModel] = (),
    ) -> None:
        """``make_engine`` is called once for each purpose, when an engine is first needed."""
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.config = from_dict(ModelConfig, checkpoint.config.get("model"), str(checkpoint.path / CONFIG))
        self.table = TrainedTable.of(checkpoint.config, str(checkpoint.path / CONFIG))
        """The table that it was trained on; None for a model of plain text."""
        self.conditions = ModelConditions(self.table, tokenizer)
        self.members: tuple[LanguageModel, ...] = tuple(members)
        """The models whose probabilities an ensemble averages; empty for a single model."""
        self._make_engine = make_engine
        self._engines: dict[Purpose, Engine] = {}
        self._weights: dict[str, NDArray[np.float32]] | None = None
        self._options: _EngineOptions = ("auto", "auto", None)
        self._is_saved = True

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, device: str = "auto", precision: str = "auto", threads: int | None = None
    ) -> LanguageModel:
        """A model from an opened checkpoint; arguments and errors as in ``load``."""
        return cls._from_parts(checkpoint, read_model_parts(checkpoint).calibrated(), (device, precision, threads))

    @classmethod
    def _from_parts(cls, checkpoint: Checkpoint, parts: ModelParts, options: _EngineOptions) -> LanguageModel:
        def make_engine(purpose: Purpose) -> Engine:
            device, precision, threads = options
            if precision == "auto" and purpose == "evaluation":
                precision = "fp32"
            return create_engine(parts.config, parts.weights, device, precision, threads, checkpoint.precision_costs())

        model = cls(make_engine, parts.tokenizer, checkpoint)
        model._weights, model._options = parts.weights, options
        return model

    def with_weights(self, weights: dict[str, NDArray[np.float32]]) -> LanguageModel:
        """The same model with other weights of the same names and shapes."""
        model = self._from_parts(self.checkpoint, ModelParts(self.config, self.tokenizer, weights), self._options)
        model._is_saved = False
        return model

    @classmethod
    def ensemble(cls, members: Sequence[LanguageModel]) -> LanguageModel:
        """An ensemble, which predicts the mean of the members' probabilities. Its ``checkpoint`` is the first member's.

        Raises ``DataError`` unless all have the same tokenizer, ``UsageError`` without a member.
        """
        if not isinstance(members, Sequence) or not all(isinstance(member, cls) for member in members):
            raise UsageError(f"members must be a list of models that charlm.load opened, not {members!r:.60}")
        if not members:
            raise UsageError("an ensemble needs a model; give one or more")
        first = members[0]
        for other in members[1:]:
            check_same_tokenizer([(model.tokenizer, model.checkpoint.path) for model in (first, other)])

        def make_engine(purpose: Purpose) -> Engine:
            return Ensemble([member._engine_for(purpose) for member in members])

        return cls(make_engine, first.tokenizer, first.checkpoint, members)

    def __reduce__(self) -> tuple[Callable[..., LanguageModel], tuple[Any, ...]]:
        """For ``pickle`` and ``copy``. Raises ``UsageError`` for a model that is not that of a checkpoint."""
        if self.members:
            return LanguageModel.ensemble, (self.members,)
        if not self._is_saved or not self.checkpoint.path.is_dir():
            raise UsageError("this model is not saved as a checkpoint, so it cannot be copied; use it where it is")
        return load, (self.checkpoint.path.absolute(), *self._options)

    def __repr__(self) -> str:
        if self.members:
            return f"LanguageModel.ensemble({list(self.members)})"
        facts = [
            repr(str(self.checkpoint.path)),
            f"step {self.checkpoint.step}",
            f"{self.config.parameter_count():,} parameters",
            f"{self.tokenizer.kind} tokenizer",
        ]
        if self.tokenizer.document_kind is not None:
            facts.append(f"documents ({self.tokenizer.document_kind})")
        facts += [f"{purpose}: {engine.name}" for purpose, engine in sorted(self._engines.items())]
        return f"LanguageModel({', '.join(facts)})"

    @property
    def engine(self) -> Engine:
        """The engine for evaluation and scoring."""
        return self._engine_for("evaluation")

    @property
    def generation_engine(self) -> Engine:
        """The engine for generation."""
        return self._engine_for("generation")

    def _engine_for(self, purpose: Purpose) -> Engine:
        if purpose not in self._engines:
            self._engines[purpose] = self._make_engine(purpose)
        return self._engines[purpose]

    def describe(self) -> dict[str, Any]:
        """The config.json of the checkpoint, its path, and the engine that generates."""
        return {**self.checkpoint.config, "path": str(self.checkpoint.path), "engine": self.generation_engine.name}

    # ------------------------------------------------------------------------------------------------ generation

    def generate(
        self,
        prompt: str | Iterable[str] = "",
        length: int = 500,
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: str | None = None,
        seed: int | None = None,
        given: str | None = None,
    ) -> str:
        """Generate ``length`` characters after ``prompt``, or fewer if ``stop`` is generated.

        Neither the prompt nor ``stop`` is returned.

        A model of documents continues the document that ``prompt`` begins, up to its end at most. One with conditions
        needs the condition's value, ``given``. The same ``seed`` gives the same text; without one each text is
        different. Raises ``UsageError`` for invalid arguments and ``DataError`` for a lone surrogate in the prompt.
        """
        config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        return "".join(self.stream(prompt, length, config, stop=stop, seed=seed, given=given))

    def stream(
        self,
        prompt: str | Iterable[str] = "",
        length: int = 500,
        config: SamplingConfig | None = None,
        *,
        stop: str | None = None,
        seed: int | None = None,
        given: str | None = None,
    ) -> Iterator[str]:
        """The text of ``generate`` in pieces, as they are generated. A prompt larger than memory may come in pieces.

        Without ``config`` the settings are the defaults of ``generate``.
        """
        config, seed = checked_sampling(length, config, stop, seed)
        ids = self._prompt_ids(prompt, given)
        engine, stop = self.generation_engine, self._stop(stop)
        return stream_text(engine, self.tokenizer, ids, length, config, stop=stop, seed=seed)

    def samples(
        self,
        count: int | None,
        prompt: str = "",
        length: int = 500,
        config: SamplingConfig | None = None,
        *,
        stop: str | None = None,
        seed: int | None = None,
        given: str | None = None,
    ) -> Iterator[str]:
        """``count`` texts (None: endless) that continue one prompt, many in parallel. The first is ``stream``'s."""
        config, seed = checked_sampling(length, config, stop, seed)
        ids, engine = self._prompt_ids(prompt, given), self.generation_engine
        return sample_texts(engine, self.tokenizer, ids, length, config, count=count, stop=self._stop(stop), seed=seed)

    def _stop(self, stop: str | None) -> str | None:
        return None if stop is None else self._normalized(stop)

    def _prompt_ids(self, prompt: str | Iterable[str], given: str | None) -> Iterator[Ids]:
        pieces = iter([prompt]) if isinstance(prompt, str) else check_texts("prompt", prompt)
        pieces = Normalizer(self.tokenizer.normalization).blocks(pieces)
        ids = (self.tokenizer.encode(block) for piece in pieces for block in _text_blocks(piece))
        return itertools.chain(self.conditions.prefix(given, known=True), ids)

    # ------------------------------------------------------------------------------------------------ evaluation

    def evaluate(self, text: str, window: int | None = None, given: str | None = None) -> Evaluation:
        """How well the model predicts ``text``: one exact pass, or windows of ``window`` ids from the initial state.

        A model of documents splits ``text`` into documents as in its training: at line ends, at blank lines, or not at
        all. For a model with conditions, ``given`` is that of every document. Raises ``UsageError`` for an invalid
        ``window``, and for any with documents; ``DataError`` for a text that is too short or cannot be encoded.
        """
        check_text("text", text)
        codes = (self._codes(block) for block in _text_blocks(self._normalized(text)))
        tokenizer, kind = self.tokenizer, self.tokenizer.document_kind
        if kind is None:
            self.conditions.prefix(given)
            return self.evaluate_ids(map(tokenizer.encode_codes, codes), window)
        pieces = split_documents([codes], kind, start=tokenizer.document_start)
        documents = self.conditions.added(pieces, given)
        return self.evaluate_ids((tokenizer.encode_documents(p.codes, p.ends) for p in documents), window)

    def evaluate_ids(
        self, blocks: Iterable[Ids], window: int | None = None, progress: ProgressCallback = no_progress
    ) -> Evaluation:
        """``evaluate`` for ids in blocks of any size, also for texts larger than memory.

        The ids of documents include their end markers. ``progress`` is called with the number of ids read since its
        last call.
        """
        if window is not None:
            check_integer("window", window, 1, "a number of ids, 1 or more")
        return evaluate(self.engine, self.tokenizer, blocks, window, progress)

    def evaluate_members(
        self, blocks: Iterable[Ids], window: int | None = None, progress: ProgressCallback = no_progress
    ) -> tuple[Evaluation, list[Evaluation]]:
        """``evaluate_ids`` for an ensemble, and the evaluation of each member; each member reads the text once.

        Raises ``UsageError`` for a model that is not an ensemble.
        """
        if not self.members:
            raise UsageError("a single model has no members; use evaluate_ids")
        engines = [member.engine for member in self.members]
        return evaluate_together(engines, self.tokenizer, blocks, window, progress)

    def evaluate_by_value(
        self, blocks: Iterable[Ids], progress: ProgressCallback = no_progress
    ) -> tuple[Evaluation, dict[str | None, Evaluation]]:
        """``evaluate_ids`` for a model with conditions, and the evaluation of the documents with each value.

        None stands for the values that the training text does not have. Raises ``UsageError`` for other models.
        """
        return evaluate_by_value(self.engine, self.tokenizer, blocks, self.conditions.counts(), progress)

    def evaluate_dynamically(self, blocks: Iterable[Ids], progress: ProgressCallback = no_progress) -> Evaluation:
        """``evaluate_ids`` with a copy of the model that learns from the text as it reads it; see ``dynamic``.

        Runs on the CPU in fp32. Raises ``DataError`` if the checkpoint has neither the gradients of its training nor
        its corpus, ``UsageError`` for an ensemble.
        """
        from charlm.evaluation import dynamic

        _, learner = self._copy_and_learner()
        return dynamic.evaluate_dynamically(learner, self.tokenizer, blocks, progress)

    def adapted(self, blocks: Iterable[Ids], progress: ProgressCallback = no_progress) -> LanguageModel:
        """A copy of the model, trained on a text, which is given as ``blocks`` of ids.

        Errors as in ``evaluate_dynamically``.
        """
        network, learner = self._copy_and_learner()
        for ids, _ in learner.losses(self.tokenizer, blocks):
            progress(len(ids))
        return self.with_weights(network.weights())

    def _copy_and_learner(self) -> tuple[CharLM, Learner]:
        from charlm.evaluation import dynamic

        if self._weights is None:
            raise UsageError("an ensemble cannot learn from a text; use a single model")
        rms = dynamic.gradient_rms(self.checkpoint.path, self.config, self._weights)
        network = dynamic.make_network(self.config, self._weights)
        return network, dynamic.Learner(network, rms)

    # ------------------------------------------------------------------------------------------------ scoring

    def score(self, text: str, given: str | None = None) -> NDArray[np.float64]:
        """The log-probability in nats of each character of ``text``, given all before it; [len(text)].

        With the byte tokenizer, of each byte; with a normal form, of each character of the normalized text. ``text`` is
        treated as one unfinished document: no end marker is scored.
        """
        check_text("text", text)
        prefix = self.conditions.prefix(given)
        blocks = (self.tokenizer.encode(block) for block in _text_blocks(self._normalized(text)))
        pieces = list(exact_losses(self.engine, self.tokenizer.start_id, itertools.chain(prefix, blocks)))
        before = sum(map(len, prefix))
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for ids, _ in pieces)])[before:]
        if not len(ids):
            return np.zeros(0)
        nats = np.concatenate([nats for _, nats in pieces]).astype(np.float64)[before:]
        starts = np.flatnonzero(self.tokenizer.starts_character[ids])
        log_probabilities: NDArray[np.float64] = np.add.reduceat(-nats, starts)
        return log_probabilities

    def score_documents(self, documents: Iterable[str], given: str | Iterable[str] | None = None) -> Iterator[Scored]:
        """A score for each document, in constant memory; thousands are read in a batch.

        Each is read from the initial state. A model of documents also predicts the end of each. For a model with
        conditions, ``given`` is that of all documents, or as many as documents. Raises ``UsageError`` if ``documents``
        is one string.
        """
        texts = check_texts("documents", documents)
        pieces = self.conditions.added((self._piece(text) for text in texts), given)
        return itertools.chain.from_iterable(self.score_pieces(pieces))

    def score_pieces(self, pieces: Iterable[Piece], at_once: bool = False) -> Iterator[list[Scored]]:
        """``score_documents`` for pieces of a split text, in lists; see ``scoring.score_documents``."""
        return score_documents(self.engine, self.tokenizer, pieces, at_once)

    def percentiles(self) -> Percentiles:
        """How unusual documents are, from held-out ones: kept in the checkpoint, else measured on the run's corpus.

        Raises ``MissingInputError`` where the checkpoint has neither, and where the corpus has no held-out documents.
        """
        return checkpoint_percentiles(self.checkpoint, self.engine, self.tokenizer)

    def classify(self, texts: Iterable[str]) -> Iterator[Classified]:
        """The most probable condition of each text, with the probabilities of all; see ``classification``.

        For a model with conditions. Raises ``UsageError`` for other models, and if ``texts`` is one string.
        """
        checked = check_texts("texts", texts)
        return itertools.chain.from_iterable(self.classify_pieces(self._piece(text) for text in checked))

    def classify_pieces(self, pieces: Iterable[Piece]) -> Iterator[list[Classified]]:
        """``classify`` for pieces of a split text, in lists."""
        return classify_documents(self.engine, self.tokenizer, pieces, self.conditions.counts())

    def surprisals(self, text: str, alternatives: int = 5, given: str | None = None) -> Iterator[Surprisal]:
        """The surprisal of each character of one document, with the most likely alternatives.

        ``given`` is its condition, for a model with conditions.
        Raises ``UsageError`` for a negative number of alternatives.
        """
        check_integer("alternatives", alternatives)
        piece = self._piece(text)
        ids, _ = encode_documents(self.tokenizer, piece.codes, piece.ends)
        return surprisals(self.engine, self.tokenizer, ids, alternatives, self.conditions.prefix(given))

    def score_characters(self, text: str, given: str | None = None) -> CharacterScores:
        """Surprisal in bits, entropy and rank of each character of one document, with its end marker if it has one.

        ``given`` is its condition, for a model with conditions.
        """
        return joined(self.character_pieces(text, given))

    def score_words(self, text: str, given: str | None = None) -> list[Word]:
        """The surprisal in bits of each word of one document: the sum of that of its characters."""
        return [*score_words(self.character_pieces(text, given))]

    def character_pieces(self, text: str, given: str | None = None) -> Iterator[CharacterScores]:
        """``score_characters`` in pieces, for a long text."""
        piece = self._piece(text)
        ids, _ = encode_documents(self.tokenizer, piece.codes, piece.ends)
        return score_characters(self.engine, self.tokenizer, ids, self.conditions.prefix(given))

    def fingerprint(self, text: str) -> int:
        """64 bits that identify a document; ``Corpus.fingerprints`` has those of the training documents."""
        return int(DocumentHasher().update(self._piece(text))[0])

    def _piece(self, text: str) -> Piece:
        check_text("text", text)
        codes = self._codes(self._normalized(text))
        return Piece(codes, np.full(1, len(codes), np.int64))

    def _normalized(self, text: str) -> str:
        return normalize(text, self.tokenizer.normalization)

    def _codes(self, text: str) -> Codes:
        """What the tokenizer encodes: code points, or bytes."""
        return self.tokenizer.encode(text) if self.tokenizer.kind == "byte" else code_points(text)


def _text_blocks(text: str) -> Iterator[str]:
    return (text[start : start + _BLOCK_CHARACTERS] for start in range(0, len(text), _BLOCK_CHARACTERS))
