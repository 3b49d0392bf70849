"""``POST /v1/score``: documents to log-probabilities, and the surprisal of each character."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.evaluation.scoring import Surprisal
from charlm.serving.compute import Slices
from charlm.serving.errors import ApiError
from charlm.serving.exchange import Exchange
from charlm.serving.fields import Fields
from charlm.serving.limits import MAX_LOGPROBS, MAX_VALUES, Limits
from charlm.serving.models import ServedModel
from charlm.serving.service import Service
from charlm.serving.tokens import plain
from charlm.tokenizer.normalization import normalize

MAX_DOCUMENTS = 1000
_CHARACTERS_IN_A_SLICE = 256


@dataclass(frozen=True)
class ScoreRequest:
    """A checked request."""

    model: str | None
    documents: tuple[str, ...]
    given: tuple[str | None, ...]
    alternatives: int
    per_character: bool

    @classmethod
    def parse(cls, values: dict[str, Any], limits: Limits) -> ScoreRequest:
        """Check the fields. Raises ``ApiError``: 413 for what is too long, otherwise 400."""
        fields = Fields(values, ("model", "input", "given", "alternatives", "per_character"))
        documents = fields.texts("input", MAX_DOCUMENTS)
        if documents is None:
            raise ApiError(400, "input is missing: a text, or a list of texts", "input")
        given: list[str | None] = [*(fields.texts("given", MAX_DOCUMENTS) or [])] or [None]
        if len(given) not in (1, len(documents)):
            raise ApiError(400, f"given must be one text, or {len(documents)}: one for each document", "given")
        given = given * len(documents) if len(given) == 1 else given
        alternatives = fields.integer("alternatives", 0, 0, MAX_LOGPROBS)
        characters = sum(map(len, documents))
        if characters > limits.max_input:
            raise ApiError(413, f"the documents have {characters} characters; at most {limits.max_input} fit", "input")
        if characters * (1 + alternatives) > max(MAX_VALUES, limits.max_input):
            raise ApiError(413, "these are too many alternatives in one answer; ask for fewer", "alternatives")
        per_character = fields.boolean("per_character", True)
        return cls(fields.text("model"), tuple(documents), tuple(given), alternatives, per_character)


class Scores:
    """Answers the requests."""

    path = "/v1/score"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, exchange: Exchange, values: dict[str, Any]) -> None:
        """Answer a request with the fields ``values``. Raises ``ApiError`` and ``CharlmError``."""
        request = ScoreRequest.parse(values, self._service.limits)
        served = await self._service.models.get(request.model)
        results = list[dict[str, Any]]()
        async with self._service.computing(1, False, lambda outbox: _slices(request, served, results)) as outbox:
            async for _ in outbox.blocks():
                pass
        await exchange.send_json({"object": "list", "model": served.name, "data": results})
        self._service.metrics.scored_characters += sum(map(len, request.documents))


def _slices(request: ScoreRequest, served: ServedModel, results: list[dict[str, Any]]) -> Slices:
    """Score the documents, in the computing thread."""
    for index, (document, given) in enumerate(zip(request.documents, request.given, strict=True)):
        surprisals = list[Surprisal]()
        for number, each in enumerate(_surprisals(request, served, document, given)):
            surprisals.append(each)
            if number % _CHARACTERS_IN_A_SLICE == _CHARACTERS_IN_A_SLICE - 1:
                yield None
        results.append({"index": index, **_summary(served, document, surprisals)})
        if request.per_character:
            results[-1]["characters"] = [_character(each, request.alternatives) for each in surprisals]
        yield None


def _surprisals(request: ScoreRequest, served: ServedModel, document: str, given: str | None) -> Iterator[Surprisal]:
    return served.model.surprisals(document, request.alternatives, given)


def _summary(served: ServedModel, document: str, surprisals: list[Surprisal]) -> dict[str, Any]:
    tokenizer = served.model.tokenizer
    ids = tokenizer.encode(normalize(document, tokenizer.normalization))
    unknown = int(np.count_nonzero(tokenizer.unknown(ids) & tokenizer.starts_character[ids]))
    nats = math.fsum(each.nats for each in surprisals)
    bits = nats / math.log(2)
    return {
        "nats": nats,
        "bits": bits,
        "count": len(surprisals),
        "unknown": unknown,
        "bits_per_char": bits / max(1, len(surprisals)),
    }


def _character(each: Surprisal, alternatives: int) -> dict[str, Any]:
    values: dict[str, Any] = {"text": plain(each.character), "bits": each.nats / math.log(2)}
    if alternatives:
        values["alternatives"] = [[plain(name), probability] for name, probability in each.alternatives]
    return values
