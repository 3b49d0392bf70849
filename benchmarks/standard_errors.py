"""Are the standard errors of a loss true? Checked with the parts of a text, or with losses whose mean is known.

    python benchmarks/standard_errors.py tinyshakespeare.txt --checkpoint RUN [--against RUN]
    python benchmarks/standard_errors.py --synthetic

With a text: computes its losses (with --against the differences of two models' losses) and prints the standard errors
of the last tenth, from the means of blocks and from charlm. Then the text is cut into parts of several lengths:

    scatter          the standard deviation of the means of the parts: what a standard error should be

With --synthetic: losses with a known correlation, 1,000 texts of 32,768 characters of each kind. In both tables:

    blocks of 1,000, 16 blocks, charlm
                     the standard error (root mean square), and how often the 95% interval has the true mean (that of
                     the whole text, or 0): 2 standard errors for blocks of 1,000, Student's t for the others
    told             how often charlm does not call the text too short, and how often such an interval misses the mean

A part cannot know more of a text than it has, so the intervals of short parts cannot cover.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

import charlm
from charlm.evaluation.losses import stream_losses
from charlm.evaluation.standard_errors import SequenceError
from charlm.evaluation.student import t_quantile

BLOCKS = (1, 100, 1_000, 2_000, 5_000, 10_000)
PARTS = (10_000, 30_000, 100_000, 300_000)
MIN_PARTS = 10
STREAMS, WARMUP = 64, 256
TEXTS, CHARACTERS = 1_000, 32_768
HEAD = "scatter | blocks of 1,000 | 16 blocks | charlm | told |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--checkpoint", "-c", default="shakespeare", help="default: the model that comes with charlm")
    parser.add_argument("--against", help="another model: differences of losses")
    parser.add_argument("--synthetic", action="store_true", help="losses whose mean is known, instead of a text")
    options = parser.parse_args()
    if options.synthetic:
        of_synthetic_losses()
        return
    text = options.text.read_text("utf-8")
    losses = losses_of(options.checkpoint, text)
    if options.against:
        losses -= losses_of(options.against, text)
    print(f"{len(losses):,} characters, mean {losses.mean():.4f}\n")
    of_last_tenth(losses[-(len(losses) // 10) :])
    print(f"| length | parts | {HEAD}\n|---|---|---|---|---|---|---|")
    for length in PARTS:
        if (count := len(losses) // length) >= MIN_PARTS:
            parts = losses[: count * length].reshape(count, length)
            print(f"| {length:,} | {count} | {' | '.join(row(parts, losses.mean()))} |", flush=True)


def losses_of(checkpoint: str, text: str) -> np.ndarray:
    """The loss of each character."""
    model = charlm.load(checkpoint)
    ids = model.tokenizer.encode(text)
    nats = stream_losses(model.engine, model.tokenizer.start_id, ids, STREAMS, WARMUP).astype(np.float64)
    return np.add.reduceat(nats, np.flatnonzero(model.tokenizer.starts_character[ids]))


def of_last_tenth(losses: np.ndarray) -> None:
    rows = [
        (f"blocks of {size:,}", f"{error_of_blocks(losses, size):.4f}") for size in BLOCKS if size * 5 <= len(losses)
    ]
    rows.append(("16 blocks", f"{error_of_blocks(losses, len(losses) // 16):.4f}"))
    found = error_of(losses)
    rows.append(("charlm", f"{found.standard_error:.4f}{' (rough)' if found.rough else ''}"))
    print(f"| the last {len(losses):,} | standard error |\n|---|---|")
    print("".join(f"| {name} | {value} |\n" for name, value in rows))


def error_of(losses: np.ndarray):
    error = SequenceError()
    error.add(np.stack([losses, np.ones(len(losses))]))
    return error.value(losses.mean())


def error_of_blocks(losses: np.ndarray, size: int) -> float:
    means = losses[: len(losses) // size * size].reshape(-1, size).mean(axis=1)
    return means.std(ddof=1) / math.sqrt(len(means))


def row(texts: np.ndarray, true_mean: float) -> list[str]:
    """The cells of a table, for texts [texts, characters] of one kind."""
    means = texts.mean(axis=1)
    distances = np.abs(means - true_mean)
    found = [error_of(text) for text in texts]
    columns = [
        ([error_of_blocks(text, 1_000) for text in texts], 2.0),
        ([error_of_blocks(text, texts.shape[1] // 16) for text in texts], t_quantile(15)),
        ([error.standard_error for error in found], t_quantile(found[0].degrees_of_freedom)),
    ]
    cells = [
        f"{math.sqrt(np.mean(np.square(errors))):.4f}, covers {np.mean(distances <= times * np.array(errors)):.1%}"
        for errors, times in columns
    ]
    told = np.array([not error.rough for error in found])
    missed = told & (distances > [error.margin for error in found])
    return [f"{means.std(ddof=1):.4f}", *cells, f"{told.mean():.0%}, {missed.mean():.1%} missed"]


# ---------------------------------------------------------------------------------------------------- synthetic losses


def of_synthetic_losses() -> None:
    draw = np.random.default_rng(1)
    kinds: dict[str, Callable[[], np.ndarray]] = {"independent": lambda: draw.exponential(size=(TEXTS, CHARACTERS)) - 1}
    for length in (10, 100, 1_000):
        kinds[f"correlated over {length:,}"] = lambda length=length: correlated(draw, length, 0.0)
        kinds[f"correlated over {length:,}, with noise"] = lambda length=length: correlated(draw, length, 5.0)
    for length in (10, 100, 1_000):
        kinds[f"levels of {length:,}"] = lambda length=length: levels(draw, length)
    for memory in (0.1, 0.2, 0.3):
        kinds[f"long memory, d = {memory}"] = lambda memory=memory: with_memory(draw, memory)
    print(f"| losses | {HEAD}\n|---|---|---|---|---|---|")
    for name, make in kinds.items():
        print(f"| {name} | {' | '.join(row(make(), 0.0))} |", flush=True)


def correlated(draw: np.random.Generator, length: int, noise: float) -> np.ndarray:
    """An AR(1) process, whose correlation is exp(-distance / length), and independent noise."""
    weight = math.exp(-1 / length)
    level, losses = draw.normal(size=TEXTS), np.empty((CHARACTERS, TEXTS))
    for position in range(CHARACTERS):
        level = weight * level + math.sqrt(1 - weight**2) * draw.standard_normal(TEXTS)
        losses[position] = level
    return (losses + noise * draw.standard_normal(losses.shape)).T if noise else losses.T


def levels(draw: np.random.Generator, length: int) -> np.ndarray:
    """A skewed level that changes after ``length`` characters on average, and as much noise."""
    level, losses = draw.exponential(size=TEXTS) - 1, np.empty((CHARACTERS, TEXTS))
    for position in range(CHARACTERS):
        level = np.where(draw.random(TEXTS) < 1 / length, draw.exponential(size=TEXTS) - 1, level)
        losses[position] = level
    return (losses + draw.exponential(size=losses.shape) - 1).T


def with_memory(draw: np.random.Generator, memory: float) -> np.ndarray:
    """Fractional Gaussian noise (Davies and Harte 1987)."""
    exponent, lag = 2 * memory + 1, np.arange(CHARACTERS + 1.0)
    covariance = ((lag + 1) ** exponent - 2 * lag**exponent + np.abs(lag - 1) ** exponent) / 2
    spectrum = np.fft.fft(np.concatenate([covariance, covariance[-2:0:-1]])).real.clip(0)
    losses = np.empty((TEXTS, CHARACTERS))
    for number in range(TEXTS):
        waves = draw.normal(size=len(spectrum)) + 1j * draw.normal(size=len(spectrum))
        losses[number] = np.fft.fft(np.sqrt(spectrum / len(spectrum)) * waves).real[:CHARACTERS]
    return losses


if __name__ == "__main__":
    main()
