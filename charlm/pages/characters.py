"""Characters as they are shown: none that acts on a terminal or reorders a line, and a name for each.

The text may come from anywhere.
"""

from __future__ import annotations

END_SIGN = "⏎"

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_BIDI_CONTROLS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SURROGATES = range(0xD800, 0xE000)
_VISIBLE = _CONTROL_PICTURES | dict.fromkeys([*range(0x80, 0xA0), *_BIDI_CONTROLS, *_SURROGATES], 0xFFFD)

_WORDS = {" ": "space", "\n": "line end", "\t": "tab"}


def visible(text: str) -> str:
    """``text`` with a visible symbol for each control character except newline and tab.

    C1 controls (U+0080 to U+009F), bidirectional controls and surrogates have no symbol and become U+FFFD.
    """
    return text.translate(_VISIBLE)


def character_name(character: str) -> str:
    """The character itself if it is visible, otherwise its name; "" is the end of the document."""
    return " ".join(map(_code_name, character)) or "end of the document"


def _code_name(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, decoded with surrogateescape
        return f"byte 0x{code - 0xDC00:02X}"
    return _WORDS.get(character) or (character if character.isprintable() else f"U+{code:04X}")
