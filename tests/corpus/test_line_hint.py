import random

import pytest

from charlm.corpus.line_hint import looks_like_lines
from charlm.corpus.preparation import prepare
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.text import open_source

DRAW = random.Random(5)
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "dogs", "run", "who", "why", "times", "Indeed", "42"]


def sentences(count, end="\n"):
    return "".join(" ".join(DRAW.choice(WORDS) for _ in range(DRAW.randint(9, 20))) + end for _ in range(count))


TEXTS = {
    "names": ("".join(f"{DRAW.choice(WORDS)}{DRAW.choice(WORDS)}\n" for _ in range(300)), True),
    "a log": ("".join(f"2024-01-{n % 28 + 1:02} 10:{n % 60:02} {sentences(1)}" for n in range(300)), True),
    "paragraphs": (sentences(300), False),
    "verses with blank lines": ("the cat sat on\na mat and saw\n\n" * 100, False),
    "one long line": (sentences(300, " "), False),
    "few lines": ("emma\nolivia\n" * 20, False),
}


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("name", TEXTS)
def test_only_texts_of_lines_get_the_hint(tmp_path, name, kind):
    text, expected = TEXTS[name]
    (tmp_path / "text.txt").write_text(text)
    source = open_source([str(tmp_path / "text.txt")])
    assert looks_like_lines(prepare(tmp_path / "corpus", source, kind)) == expected
    documents = DocumentOptions("lines")
    assert not looks_like_lines(prepare(tmp_path / "documents", source, kind, documents=documents))
