"""The methods of a ``LanguageModel`` that show its states: vectors of texts, activations of cells, cells that follow.

Shapes: N texts, H width of a layer.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from charlm.arguments import check_integer, check_text, check_texts
from charlm.config import ModelConfig
from charlm.corpus.documents import split_documents
from charlm.corpus.trained_table import ModelConditions
from charlm.engine import Engine, StateEngine
from charlm.errors import UsageError
from charlm.evaluation.losses import ProgressCallback, no_progress
from charlm.evaluation.neurons import PROBES, Neuron, Probe, find_neurons, probed_documents, probed_streams
from charlm.evaluation.scoring import document_texts
from charlm.evaluation.states import activations, embed
from charlm.tokenizer.normalization import normalize
from charlm.tokenizer.protocol import Tokenizer, code_points


class ModelStates:
    """The base class of ``LanguageModel``."""

    tokenizer: Tokenizer
    config: ModelConfig
    conditions: ModelConditions

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The engine for evaluation and scoring."""

    def embed(
        self, texts: Iterable[str], pooling: Literal["last", "mean"] = "last", given: str | None = None
    ) -> NDArray[np.float32]:
        """A vector for each text, [N, H], where H is ``config.embedding``, the width of the last layer.

        "last" is the hidden state of the last layer after the last character, "mean" the mean over the characters.
        Each text is read from the initial state; hundreds are read side by side. Raises ``UsageError`` for an
        ensemble, for another ``pooling``, and if ``texts`` is one string.
        """
        if pooling not in ("last", "mean"):
            raise UsageError(f"pooling must be last or mean, not {pooling!r:.40}")
        before = np.concatenate([np.array([self.tokenizer.start_id]), *self.conditions.prefix(given)])
        pairs = ((before, self.tokenizer.encode(self._normal(text))) for text in check_texts("texts", texts))
        return embed(self._state_engine(), self.config.embedding, pairs, pooling == "mean")

    def activations(self, text: str, layer: int = -1, given: str | None = None) -> NDArray[np.float32]:
        """tanh of the cell state of one layer after each character of ``text``, [len(text), width of the layer].

        Layers count from 0; -1 is the last. With the byte tokenizer, after each byte. Raises ``UsageError`` for an
        ensemble, and for a layer that the model does not have.
        """
        rows = [*self.activation_rows(text, layer, given)]
        width = self.config.layer_widths()[layer][1]
        return np.stack(rows) if rows else np.zeros((0, width), np.float32)

    def activation_rows(self, text: str, layer: int = -1, given: str | None = None) -> Iterator[NDArray[np.float32]]:
        """The rows of ``activations`` one by one, for a long text."""
        check_text("text", text)
        layers = self.config.layers
        if not isinstance(layer, int) or not -layers <= layer < layers:
            raise UsageError(f"layer must be 0 to {layers - 1}, or negative from the last, not {layer!r:.40}")
        ids = self.tokenizer.encode(self._normal(text))
        return activations(self._state_engine(), self.tokenizer, ids, layer, self.conditions.prefix(given))

    def activations_of(self, text: str, layer: int, cell: int, given: str | None = None) -> Iterator[tuple[str, float]]:
        """Each character of ``text``, in its normal form, with the activation of one cell after it.

        Raises ``UsageError`` as ``activations`` does, and for a cell that the layer does not have.
        """
        rows = self.activation_rows(text, layer, given)
        width = self.config.layer_widths()[layer][1]
        if not 0 <= cell < width:
            raise UsageError(f"layer {layer} has the cells 0 to {width - 1}, not {cell}")
        normal, in_bytes = self._normal(text), self.tokenizer.kind == "byte"
        counts = (len(c.encode("utf-8", "surrogateescape")) if in_bytes else 1 for c in normal)
        return (
            (character, float(next(itertools.islice(rows, count - 1, None))[cell]))
            for character, count in zip(normal, counts, strict=True)
        )

    def find_neurons(
        self,
        texts: str | Iterable[str],
        probes: Mapping[str, Probe] = PROBES,
        top: int = 5,
        given: str | None = None,
        progress: ProgressCallback = no_progress,
    ) -> list[Neuron]:
        """For each probe the ``top`` cells whose activations follow it best, the best first.

        A probe is a function from a text to one number for each of its characters; ``PROBES`` are inside quotes,
        position in the line, upper case and depth of parentheses. Cells are chosen on the first half of a text and
        their correlations measured on the second: of a text, or of documents every second one. A model of documents
        splits a text into documents as in its training. Raises ``UsageError`` for an ensemble, and for a probe that
        does not return a number per character.
        """
        check_integer("top", top, 1)
        engine, before = self._state_engine(), self.conditions.prefix(given)
        if self.tokenizer.document_kind is None:
            parts = [texts] if isinstance(texts, str) else check_texts("texts", texts)
            probed = [each for text in parts for each in probed_streams(self.tokenizer, self._normal(text), probes)]
        else:
            parts = self._split(texts) if isinstance(texts, str) else check_texts("texts", texts)
            probed = list(probed_documents(self.tokenizer, map(self._normal, parts), before, probes))
        return find_neurons(engine, probed, list(probes), top, progress)

    def _split(self, text: str) -> Iterator[str]:
        """The documents of a text."""
        tokenizer, normal = self.tokenizer, self._normal(text)
        assert tokenizer.document_kind is not None, "a model of documents"
        codes = tokenizer.encode(normal) if tokenizer.kind == "byte" else code_points(normal)
        pieces = split_documents([iter([codes])], tokenizer.document_kind, start=tokenizer.document_start)
        return (document for _, document in document_texts(tokenizer, pieces))

    def _state_engine(self) -> StateEngine:
        engine = self.engine
        if not isinstance(engine, StateEngine):
            raise UsageError("an ensemble has no states of its own; use one of its members")
        return engine

    def _normal(self, text: str) -> str:
        return normalize(text, self.tokenizer.normalization)
