"""The fields of ``POST /v1/completions``, with the names, the types and the defaults of OpenAI's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from charlm.config import SamplingConfig
from charlm.serving.errors import ApiError
from charlm.serving.fields import MAX_INTEGER, Fields
from charlm.serving.limits import MAX_CHOICES, MAX_LOGPROBS, MAX_STOP_CHARACTERS, MAX_STOPS, MAX_VALUES, Limits

KNOWN = (
    "model", "prompt", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "echo", "logprobs", "stream",
    "stream_options", "user", "best_of", "suffix", "presence_penalty", "frequency_penalty", "logit_bias",
    "top_k", "min_p", "given",
)  # fmt: skip
"""The last three are charlm's own."""


@dataclass(frozen=True)
class CompletionRequest:
    """A checked request."""

    model: str | None
    prompts: tuple[str, ...]
    max_tokens: int
    config: SamplingConfig
    n: int
    stops: tuple[str, ...]
    seed: int | None
    echo: bool
    logprobs: int | None
    stream: bool
    include_usage: bool
    given: str | None

    @property
    def choices(self) -> int:
        """How many texts are asked for."""
        return self.n * len(self.prompts)

    @classmethod
    def parse(cls, values: dict[str, Any], limits: Limits) -> CompletionRequest:
        """Check the fields. Raises ``ApiError``: 413 for what is too long, otherwise 400."""
        fields = Fields(values, KNOWN)
        _refuse_unsupported(fields)
        request = cls(
            model=fields.text("model"),
            prompts=tuple(fields.texts("prompt", MAX_CHOICES) or [""]),
            max_tokens=fields.integer("max_tokens", min(16, limits.max_tokens), 0),
            config=SamplingConfig(
                temperature=fields.number("temperature", 1.0, 0, 1000),
                top_k=fields.integer("top_k", 0),
                top_p=fields.number("top_p", 1.0, 0, 1),
                min_p=fields.number("min_p", 0.0, 0, 1),
            ),
            n=fields.integer("n", 1, 1, MAX_CHOICES),
            stops=_stops(fields),
            seed=None if fields.get("seed") is None else fields.integer("seed", 0, 0, MAX_INTEGER),
            echo=fields.boolean("echo"),
            logprobs=None if fields.get("logprobs") is None else fields.integer("logprobs", 0, 0, MAX_LOGPROBS),
            stream=fields.boolean("stream"),
            include_usage=_include_usage(fields),
            given=fields.text("given"),
        )
        request._check(limits)
        return request

    def _check(self, limits: Limits) -> None:
        characters = sum(map(len, self.prompts))
        if characters > limits.max_input:
            raise ApiError(413, f"the prompts have {characters} characters; at most {limits.max_input} fit", "prompt")
        if self.max_tokens > limits.max_tokens:
            raise ApiError(
                400, f"max_tokens must be 0 to {limits.max_tokens} here, not {self.max_tokens}", "max_tokens"
            )
        if self.choices > MAX_CHOICES:
            raise ApiError(400, f"n times the number of prompts must be at most {MAX_CHOICES}, not {self.choices}", "n")
        values = self.choices * self.max_tokens + self.n * characters * self.echo
        values *= 1 + (self.logprobs or 0)
        if not self.stream and values > max(MAX_VALUES, limits.max_tokens + characters):
            raise ApiError(
                400, f"this asks for up to {values} characters and alternatives in one answer, and {MAX_VALUES} are "
                "allowed; ask for fewer choices, characters or logprobs, or use stream", "max_tokens",
            )  # fmt: skip


def _refuse_unsupported(fields: Fields) -> None:
    fields.only("suffix", "")
    fields.only("presence_penalty", 0, 0.0)
    fields.only("frequency_penalty", 0, 0.0)
    fields.only("logit_bias", {})
    if fields.get("best_of") is not None:
        fields.only("best_of", fields.integer("n", 1, 1, MAX_CHOICES))
    fields.text("user")


def _stops(fields: Fields) -> tuple[str, ...]:
    value = fields.get("stop")
    stops = [] if value == [] else fields.texts("stop", MAX_STOPS) or []
    if any(not stop or len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise ApiError(400, f"stop must be texts of 1 to {MAX_STOP_CHARACTERS} characters", "stop")
    return tuple(stops)


def _include_usage(fields: Fields) -> bool:
    value = fields.get("stream_options")
    if value is None:
        return False
    if not isinstance(value, dict) or not fields.boolean("stream"):
        raise ApiError(400, "stream_options must be an object, and needs stream", "stream_options")
    return Fields(value, ("include_usage", "include_obfuscation")).boolean("include_usage")
