"""What characters that training never saw do to a model, with and without the spellings that prepare it for them.

    python benchmarks/unknown_characters.py tinyshakespeare.txt --steps 600

Trains the same model twice on the first 90% of FILE: once as charlm does (rare characters now and then in bytes, one
character in 10,000 replaced by a stranger), once without. Then reads the rest of the text twice: as it is, and with a
stranger (an accented letter, a curly quote, Cyrillic, Chinese, an emoji) after every hundredth character. Reported
are nats per character on the clean text, on the known characters of the strewn text, and per stranger.
"""

import argparse
import json
import tempfile
from pathlib import Path

import charlm
from charlm.corpus import byte_fallback

STRANGERS = "éüñ“”—жяß中の🙂€"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--characters", type=int, default=20_000, help="of held-out text to read")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    usual = byte_fallback.UNKNOWN_INTERVAL, byte_fallback.RARE_COUNT
    for name, (rate, rare) in (("with spellings", usual), ("without", (10**18, 0))):
        byte_fallback.UNKNOWN_INTERVAL, byte_fallback.RARE_COUNT = rate, rare
        rows.append({"training": name, **measure(options)})
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'training':<18}{'clean':>10}{'known, strewn':>16}{'per stranger':>15}")
    for row in rows:
        print(f"{row['training']:<18}{row['clean']:>10.4f}{row['known, strewn']:>16.4f}{row['per stranger']:>15.2f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        trained = charlm.train(options.text, out=Path(folder) / "run", split="90/10/0", steps=options.steps)
        model = charlm.load(trained.run)
    text = options.text.read_text("utf-8")
    clean = text[round(len(text) * 0.9) :][: options.characters]
    strewn = "".join(c + (STRANGERS[i // 100 % len(STRANGERS)] if i % 100 == 99 else "") for i, c in enumerate(clean))
    plain, mixed = model.evaluate(clean), model.evaluate(strewn)
    return {
        "clean": plain.nats_per_char,
        "known, strewn": mixed.nats_per_known_char,
        "per stranger": mixed.unknown_nats / mixed.unknown_characters,
    }


if __name__ == "__main__":
    main()
