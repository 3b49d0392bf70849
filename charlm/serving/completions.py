"""``POST /v1/completions``: prompts to texts, at once or as server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Generator
from typing import Any

from charlm.arguments import names_keywords
from charlm.generation.assembler import TextAssembler
from charlm.generation.sampling import uniform_generators
from charlm.generation.streams import ReadPrompt, read_prompt
from charlm.generation.texts import checked_sampling
from charlm.serving.completion_request import CompletionRequest
from charlm.serving.compute import Choice, Slices, Start
from charlm.serving.exchange import Exchange
from charlm.serving.models import ServedModel
from charlm.serving.outbox import Outbox, Piece
from charlm.serving.service import Service
from charlm.serving.tokens import Token, TokenReader, plain
from charlm.tokenizer.normalization import normalize
from charlm.tokenizer.protocol import Ids

_SECONDS_BETWEEN_EVENTS, _EVENTS_PER_SECOND = 0.04, 400
"""Of one text, and of all together. Pieces that come sooner are sent together; the first is sent at once."""


class Completions:
    """Answers the requests."""

    path = "/v1/completions"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def answer(self, exchange: Exchange, values: dict[str, Any]) -> None:
        """Answer a request with the fields ``values``. Raises ``ApiError`` and ``CharlmError``."""
        request = CompletionRequest.parse(values, self._service.limits)
        served = await self._service.models.get(request.model)
        completion = _Completion(request, served)
        async with self._service.computing(request.choices, request.stream, completion.slices) as outbox:
            await (self._stream if request.stream else self._whole)(exchange, completion, outbox)
        usage = completion.usage()
        self._service.metrics.prompt_characters += usage["prompt_tokens"]
        self._service.metrics.generated_characters += usage["completion_tokens"]

    async def _whole(self, exchange: Exchange, completion: _Completion, outbox: Outbox) -> None:
        answers = [_Answer() for _ in range(completion.request.choices)]
        async for block in outbox.blocks():
            for piece in block:
                answers[piece.choice].add(piece)
            await asyncio.sleep(0)  # a large answer must not keep the event loop to itself
        choices = [completion.choice(number, answer.joined(number)) for number, answer in enumerate(answers)]
        await exchange.send_json({**completion.head(), "choices": choices, "usage": completion.usage()})

    async def _stream(self, exchange: Exchange, completion: _Completion, outbox: Outbox) -> None:
        async for block in outbox.blocks():
            if not exchange.status:
                await exchange.begin_events()
                self._service.metrics.first_character.observe(time.monotonic() - exchange.started)
            merged: dict[int, _Answer] = {}
            for piece in block:
                merged.setdefault(piece.choice, _Answer()).add(piece)
            events = [completion.choice(number, answer.joined(number)) for number, answer in merged.items()]
            await exchange.send_events([{**completion.head(), "choices": [event]} for event in events])
            await outbox.collect(max(_SECONDS_BETWEEN_EVENTS, self._service.admission.taken / _EVENTS_PER_SECOND))
        if completion.request.include_usage:
            await exchange.send_events([{**completion.head(), "choices": [], "usage": completion.usage()}])
        await exchange.end_events()


class _Answer:
    """The pieces of one text, or some of them."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._length = 0
        self._tokens: list[Token] = []
        self._finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        self._tokens += [token._replace(character=token.character + self._length) for token in piece.tokens]
        self._texts.append(piece.text)
        self._length += len(piece.text)
        self._finish_reason = piece.finish_reason or self._finish_reason

    def joined(self, number: int) -> Piece:
        return Piece(number, "".join(self._texts), self._tokens, self._finish_reason)


class _Completion:
    """One request with the model that serves it: its work, and the parts of its answer."""

    def __init__(self, request: CompletionRequest, served: ServedModel) -> None:
        self.request = request
        self._served = served
        self._id, self._created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        model = served.model
        self._prefix, self._seed, self._stops = _checked(request, served)
        self._prompts = [normalize(prompt, model.tokenizer.normalization) for prompt in request.prompts]
        self._prompt_ids = [model.tokenizer.encode(prompt) for prompt in self._prompts]
        self._is_byte = model.tokenizer.kind == "byte"
        self.prompt_tokens = sum(map(self._count, self._prompts))
        self.completion_tokens = 0
        offsets = [0 if request.echo else len(prompt) for prompt in self._prompts]
        self._offsets = [offset for offset in offsets for _ in range(request.n)]

    def _count(self, text: str) -> int:
        return len(text.encode("utf-8", "surrogateescape")) if self._is_byte else len(text)

    # ------------------------------------------------------------------------------------ in the computing thread

    def slices(self, outbox: Outbox) -> Slices:
        """Read the prompts, one after another, and start the texts after each."""
        for place, (text, ids) in enumerate(zip(self._prompts, self._prompt_ids, strict=True)):
            reader = yield from self._read_tokens(ids)
            choices = [self._choice(place, sample, outbox, reader) for sample in range(self.request.n)]
            if self.request.echo:
                for choice in choices:
                    choice.put(text)
            if not self.request.max_tokens:
                for choice in choices:
                    choice.finish()
                continue
            prompt = yield from self._read_prompt(ids)
            yield Start(self._served.model, self.request.config, prompt, choices)

    def _read_tokens(self, ids: Ids) -> Generator[None, None, TokenReader | None]:
        """Read a prompt with the evaluation engine, if log-probabilities are asked for."""
        if self.request.logprobs is None:
            return None
        model = self._served.model
        reader = TokenReader(model.engine, model.tokenizer, self._served.names, self.request.logprobs)
        for block in self._prefix:
            yield from reader.skip(block)
        yield from reader.read(ids) if self.request.echo else reader.skip(ids)
        return reader

    def _read_prompt(self, ids: Ids) -> Generator[None, None, ReadPrompt]:
        model = self._served.model
        for read in read_prompt(model.generation_engine, model.tokenizer, [*self._prefix, ids]):
            prompt = ReadPrompt(*read)
            yield
        return prompt

    def _choice(self, place: int, sample: int, outbox: Outbox, reader: TokenReader | None) -> Choice:
        (generator,) = uniform_generators(self._seed, [sample])
        assembler = TextAssembler(self._served.model.tokenizer, self.request.max_tokens, self._stops)
        forked = None if reader is None else reader.fork()
        return Choice(place * self.request.n + sample, generator, assembler, outbox, forked)

    # ------------------------------------------------------------------------------------------ in the event loop

    def head(self) -> dict[str, Any]:
        """The fields of every answer and every event."""
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    def choice(self, number: int, piece: Piece) -> dict[str, Any]:
        """One of the choices, or the next piece of one. Advances the offsets, and counts."""
        offset = self._offsets[number]
        self._offsets[number] += len(piece.text)
        self.completion_tokens += self._count(piece.text)
        logprobs = None if self.request.logprobs is None else _logprobs(piece.tokens, offset)
        return {
            "index": number,
            "text": plain(piece.text),
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }

    def usage(self) -> dict[str, int]:
        """How many characters were read and generated. A prompt counts once."""
        echoed = self.prompt_tokens * self.request.n if self.request.echo else 0
        generated = self.completion_tokens - echoed
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        }


@names_keywords
def _checked(request: CompletionRequest, served: ServedModel) -> tuple[list[Ids], int, tuple[str, ...]]:
    """The ids of the condition, the seed, and the stops in the form of the model's text."""
    model = served.model
    _, seed = checked_sampling(request.max_tokens, request.config, None, request.seed)
    stops = tuple(normalize(stop, model.tokenizer.normalization) for stop in request.stops)
    return model.conditions.prefix(request.given, known=True), seed, stops


def _logprobs(tokens: list[Token], offset: int) -> dict[str, Any]:
    return {
        "tokens": [plain(token.text) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [token.alternatives for token in tokens],
        "text_offset": [offset + token.character for token in tokens],
    }
