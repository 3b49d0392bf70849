"""Character counts to a SentencePiece model.

SentencePiece's trainer gets counts, never text. Its cost depends on the size of the alphabet only, and its treatment of
lines, spaces and normal forms cannot change a text.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

# SentencePiece would treat these as line ends, separators or its own marks unless they are user-defined symbols.
_USER_DEFINED = ("\n", "\r", "\t", "\u2585")


def train_model(counts: Mapping[str, int]) -> bytes:
    """The bytes of a character model with a piece for each key of ``counts`` (character -> occurrences)."""
    import sentencepiece

    rows = [f"{c}\t{n}" for c, n in counts.items() if c not in _USER_DEFINED and c != " "]
    # The trainer refuses an empty list; one more character in the vocabulary does no harm.
    rows = rows or ["a\t1"]
    if " " in counts:
        rows.append(f" \t{counts[' ']}")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(rows),
        model_writer=model,
        input_format="tsv",
        model_type="char",
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        byte_fallback=True,
        use_all_vocab=True,
        vocab_size=8000,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        user_defined_symbols=[c for c in _USER_DEFINED if c in counts],
        minloglevel=2,
        num_threads=1,
    )
    return model.getvalue()
