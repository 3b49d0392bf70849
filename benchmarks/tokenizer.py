"""How fast text becomes ids: charlm's table look-up compared with SentencePiece and a Python dictionary.

    python benchmarks/tokenizer.py FILE... [--rounds 5] [--json]

A vocabulary is built for each file (UTF-8), and all contenders encode the file with it. The script checks that their
ids agree. The figures are MB of UTF-8 per second, medians over the rounds.

    charlm             CharTokenizer.encode, on blocks of 1 MB
    sentencepiece      SentencePieceProcessor.encode with charlm's tokenizer.model, on the same blocks, one thread
    sentencepiece_2    its batch mode with two threads; each block is cut into 16 parts, so that both have work
    dictionary         [ids[character] for character in block]
    charlm_gain        charlm's figure / the best of the others
    same_ids           whether all four give the same ids
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import sentencepiece
from common import MB, make_parser, report, seconds_per_call, take_turns

from charlm.corpus.blocks import read_blocks
from charlm.corpus.encodings import decode_blocks
from charlm.tokenizer.characters import NOT_PIECES, CharTokenizer

Encoder = Callable[[], list[Any]]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="texts in UTF-8")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    arguments = parser.parse_args()
    report(arguments, [measure(file, arguments.rounds) for file in arguments.files])


def measure(file: Path, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    blocks = list(decode_blocks(read_blocks(file), str(file)))
    counts = Counter(chain.from_iterable(blocks))
    if any(chr(code) in counts for code in NOT_PIECES):
        raise SystemExit(f"{file} contains NUL or U+2581, which SentencePiece cannot represent; use another file")
    encoders = make_encoders(CharTokenizer.build({ord(c): n for c, n in counts.items()}), blocks)
    size = sum(len(block.encode()) for block in blocks) / MB
    seconds = take_turns({name: lambda work=work: seconds_per_call(work) for name, work in encoders.items()}, rounds)
    speeds = {name: size / median(values) for name, values in seconds.items()}
    return {
        "file": file.name,
        "mb": size,
        "characters_known": len(counts),
        **speeds,
        "charlm_gain": speeds["charlm"] / max(speed for name, speed in speeds.items() if name != "charlm"),
        "same_ids": same_ids(encoders.values()),
    }


def make_encoders(tokenizer: CharTokenizer, blocks: list[str]) -> dict[str, Encoder]:
    """The contenders by name. Each encodes all of ``blocks`` and returns the ids in parts."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    part = max(1, max(map(len, blocks)) // 16)
    parts = [block[start : start + part] for block in blocks for start in range(0, len(block), part)]
    ids = dict(tokenizer.characters)
    return {
        "charlm": lambda: [tokenizer.encode(block) for block in blocks],
        "sentencepiece": lambda: [processor.encode(block) for block in blocks],
        "sentencepiece_2": lambda: processor.encode(parts, num_threads=2),
        "dictionary": lambda: [[ids[character] for character in block] for block in blocks],
    }


def same_ids(encoders: Iterable[Encoder]) -> bool:
    """Whether all ``encoders`` give the same ids, regardless of how they are split into parts."""
    first, *others = (np.concatenate([np.asarray(part, np.int64) for part in encode()]) for encode in encoders)
    return all(np.array_equal(first, other) for other in others)


if __name__ == "__main__":
    main()
