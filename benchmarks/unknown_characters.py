"""What an unknown character costs, with and without the byte fallback in the training text that prepares for it.

    python benchmarks/unknown_characters.py tinyshakespeare.txt --steps 600

Trains the same model twice on the first 90% of FILE: as charlm does (rare characters sometimes as bytes, one character
in 10,000 replaced by an unknown one), and without byte fallback in the training text. Then evaluates both on the rest
of the text: unchanged, and with an unknown character (an accented letter, a curly quote, Cyrillic, Chinese, an emoji)
after every hundredth character.

    clean            nats per character of the unchanged text
    known            nats per known character of the text with unknown characters
    per unknown      nats per unknown character
"""

import argparse
import json
import tempfile
from pathlib import Path

import charlm
from charlm.corpus import byte_fallback

UNKNOWN_CHARACTERS = "éüñ“”—жяß中の🙂€"
INTERVAL = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="training text")
    parser.add_argument("--steps", type=int, default=600, help="steps of each training (default 600)")
    parser.add_argument("--characters", type=int, default=20_000, help="held-out characters (default 20000)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = []
    default = byte_fallback.UNKNOWN_INTERVAL, byte_fallback.RARE_COUNT
    for name, (interval, rare_count) in (("with byte fallback", default), ("without", (10**18, 0))):
        byte_fallback.UNKNOWN_INTERVAL, byte_fallback.RARE_COUNT = interval, rare_count
        rows.append({"training": name, **measure(options)})
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'training':<20}{'clean':>10}{'known':>10}{'per unknown':>14}")
    for row in rows:
        print(f"{row['training']:<20}{row['clean']:>10.4f}{row['known']:>10.4f}{row['per unknown']:>14.2f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Train once and evaluate on both texts."""
    with tempfile.TemporaryDirectory() as folder:
        trained = charlm.train(options.text, out=Path(folder) / "run", split="90/10/0", steps=options.steps)
        model = charlm.load(trained.run)
    text = options.text.read_text("utf-8")
    clean_text = text[round(len(text) * 0.9) :][: options.characters]
    clean, mixed = model.evaluate(clean_text), model.evaluate(insert_unknown_characters(clean_text))
    return {
        "clean": clean.nats_per_char,
        "known": mixed.nats_per_known_char,
        "per unknown": mixed.unknown_nats / mixed.unknown_characters,
    }


def insert_unknown_characters(text: str) -> str:
    """``text`` with an unknown character after each ``INTERVAL`` characters."""
    parts = [text[start : start + INTERVAL] for start in range(0, len(text), INTERVAL)]
    inserted = (UNKNOWN_CHARACTERS[number % len(UNKNOWN_CHARACTERS)] for number in range(len(text) // INTERVAL))
    return "".join(part + character for part, character in zip(parts, [*inserted, ""], strict=False))


if __name__ == "__main__":
    main()
