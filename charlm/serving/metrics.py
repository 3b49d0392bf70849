"""What the server counts, as text for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """How many of the observed times are at most each of some bounds."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a time."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """In the text format."""
        total = 0
        for bound, count in zip((*map(str, _SECONDS), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {total}"


class Metrics:
    """Counters since the server started. Changed in the event loop only."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        """By path and status. 499: the client went away."""
        self.prompt_characters = self.generated_characters = self.scored_characters = 0
        self.seconds, self.first_character = Histogram(), Histogram()

    def text(self, gauges: Mapping[str, int]) -> str:
        """All of them, and ``gauges``: help text and name in one key, separated by a colon."""
        lines = [*_head("requests_total", "counter", "Requests by path and status; 499: the client went away.")]
        for (path, status), count in sorted(self.requests.items()):
            lines.append(f'charlm_requests_total{{path="{path}",status="{status}"}} {count}')
        for name in ("prompt", "generated", "scored"):
            lines += _head(f"{name}_characters_total", "counter", f"Characters of complete requests, {name}.")
            lines.append(f"charlm_{name}_characters_total {getattr(self, f'{name}_characters')}")
        for key, value in gauges.items():
            name, _, words = key.partition(": ")
            lines += _head(name, "gauge", words)
            lines.append(f"charlm_{name} {value}")
        for name, histogram in (("request", self.seconds), ("first_character", self.first_character)):
            lines += _head(f"{name}_seconds", "histogram", "Seconds, from the whole request.")
            lines += histogram.lines(f"charlm_{name}_seconds")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, words: str) -> Iterator[str]:
    yield f"# HELP charlm_{name} {words}"
    yield f"# TYPE charlm_{name} {kind}"
