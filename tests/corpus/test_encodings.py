"""Bytes to characters: what happens to bytes that are not valid, and whether the advice is right."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.corpus import encoding_guess
from charlm.corpus.encoding_guess import guess_encoding
from charlm.corpus.encodings import Changes, Decoding, decode_blocks
from charlm.errors import DataError, UsageError

OFFERS = ("--encoding", "--errors", "--tokenizer")


def decode(data, encoding="utf-8", cuts=(), **options):
    bounds = [0, *cuts, len(data)]
    return "".join(
        decode_blocks([data[a:b] for a, b in itertools.pairwise(bounds)], "a.txt", Decoding(encoding, **options))
    )


def message_of(data, encoding="utf-8", **options):
    with pytest.raises(DataError) as error:
        decode(data, encoding, **options)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 350
    return message


@pytest.mark.parametrize("errors", ["strict", "replace", "skip-document"])
@given(
    text=st.text(max_size=30).filter(lambda text: "\0" not in text),
    cuts=st.lists(st.integers(0, 60), max_size=3).map(sorted),
)
@settings(max_examples=100, deadline=None)
def test_valid_text_is_the_same_with_any_errors(errors, text, cuts):
    data = text.encode()
    assert decode(data, cuts=[min(cut, len(data)) for cut in cuts], errors=errors) == text.removeprefix("\ufeff")


@given(
    st.binary(max_size=40).filter(lambda data: data.count(0) < 5), st.lists(st.integers(0, 40), max_size=3).map(sorted)
)
@settings(max_examples=300, deadline=None)
def test_invalid_bytes_are_replaced_as_python_does_and_counted(data, cuts):
    changes = Changes()
    data = b"some text " * 3 + data
    bounds = [0, *(min(cut, len(data)) for cut in cuts), len(data)]
    blocks = [data[a:b] for a, b in itertools.pairwise(bounds)]
    found = "".join(decode_blocks(blocks, "a", Decoding(errors="replace"), changes))
    assert found == data.decode("utf-8", "replace")
    assert changes.replaced == found.count("\ufffd") - data.count("\ufffd".encode())


@pytest.mark.parametrize(
    "encoding", ["utf-8", "cp1252", "shift-jis", "gb18030", "utf-16-le", "utf-16", "utf-7", "ascii"]
)
def test_invalid_bytes_are_marked_in_every_encoding(encoding):
    good = "good text\n".encode(encoding)
    bad = {"utf-16-le": b"\x00\xd8a\0", "utf-16": b"\x00\xd8a\0", "utf-7": b"+\xff-"}.get(encoding, b"\x81\x81\xff\x8d")
    found = decode(good + bad, encoding, errors="skip-document")
    assert found.startswith("good text\n")
    assert any("\ud800" <= character <= "\udfff" for character in found)


@given(st.text("abé中\n", max_size=20), st.lists(st.integers(0, 40), max_size=4).map(sorted))
@settings(max_examples=200, deadline=None)
def test_the_text_before_an_invalid_byte_comes_before_the_error(text, cuts):
    data = text.encode() + b"\xff rest"
    bounds = [0, *(min(cut, len(data)) for cut in cuts), len(data)]
    blocks, found = decode_blocks([data[a:b] for a, b in itertools.pairwise(bounds)], "a.txt"), []
    with pytest.raises(
        DataError, match=rf"byte 0xFF at position {len(text.encode())}, line {text.count(chr(10)) + 1};"
    ):
        found.extend(blocks)
    assert "".join(found) == text


def test_stateful_decoders_give_the_text_before_the_error():
    for encoding, text in (("utf-16", "ab"), ("utf-7", "a é b"), ("iso2022-jp", "a日本b")):
        found, blocks = (
            [],
            decode_blocks(
                [text.encode(encoding), "c".encode(encoding)[-2:] + b"\x00\xdc\xff"], "a", Decoding(encoding)
            ),
        )
        with pytest.raises(DataError):
            found.extend(blocks)
        assert "".join(found).startswith(text)


# ---------------------------------------------------------------------------------------------------- advice

FRENCH = "Élève à l’école où ça “brûle” déjà — là-bas…\n" * 30
TEXTS = {
    ("cp1252", FRENCH), ("mac-roman", FRENCH), ("mac-roman", "café au lait\n" * 50), ("cp1252", "café au lait\n" * 50),
    ("cp1252", "emma\nolivia\nchloé\nzoë\njosé\n" * 5), ("mac-roman", "emma\nolivia\nchloé\nzoë\njosé\n" * 5),
    ("mac-roman", "schöne Löwen hören gewöhnlich höfliche Töne auf der Straße\n" * 20),
    ("mac-roman", "Die Größe der Straße ist für Mädchen schön.\n" * 40), ("cp1251", "Привет, как дела? Хорошо.\n" * 40),
    ("koi8-r", "Привет, как дела? Всё хорошо.\n" * 40), ("cp1253", "Καλημέρα κόσμε, ένα κείμενο.\n" * 40),
    ("cp1250", "Zażółć gęślą jaźń, pchnąć w tę łódź jeża lub ośm.\n" * 40),
    ("cp932", "これは日本語の文章です。\n" * 40),
    ("gb18030", "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。\n" * 40),
    ("euc-jp", "これは日本語の文章です。\n" * 40),
}  # fmt: skip


@pytest.mark.parametrize(("encoding", "text"), sorted(TEXTS), ids=lambda value: value[:10].strip())
def test_the_guess_is_the_encoding(encoding, text):
    data = text.encode(encoding)
    message = message_of(data, options=OFFERS)
    assert f"add --encoding {encoding}" in message
    assert decode(data, encoding) == text
    place = next(index for index, byte in enumerate(data) if byte >= 0x80)
    assert f"byte 0x{data[place]:02X} at position {place}, line" in message


@pytest.mark.parametrize("wrong", ["utf-8", "cp1252", "ascii"])
def test_advice_does_not_lead_from_one_wrong_encoding_to_another(wrong):
    data = FRENCH.encode("mac-roman")
    assert "add --encoding mac-roman" in message_of(data, wrong)
    assert "--encoding utf-8" not in message_of(data, wrong)


def test_utf8_is_recognized_by_its_bytes():
    assert 'if it is utf-8 ("café, naïve"), add --encoding utf-8' in message_of("café, naïve".encode() + b"\n", "ascii")
    assert "add --encoding utf-8" in message_of("žluťoučký kůň Ž ť".encode(), "cp1252")


def test_the_word_with_the_byte_is_shown_as_the_guess_reads_it():
    guess = guess_encoding("one\ntwo \x1bcafés\n".encode("latin-1"), 12, "utf-8")
    assert guess == ("cp1252", "two cafés")


def test_only_options_that_the_command_has_are_named():
    data = "café au lait\n".encode("latin-1") * 50
    noise = bytes(range(128, 256)) * 40
    for options in itertools.chain.from_iterable(itertools.combinations(OFFERS, count) for count in range(4)):
        for content in (data, noise, "hello there".encode("utf-16"), "hello".encode("utf-16-le")):
            message = message_of(content, options=options)
            assert message.partition(";")[2].strip()
            assert [option for option in OFFERS if option in message and option not in options] == []
    assert "--errors" not in message_of(data, "utf-16", errors="replace")


def test_errors_are_named_where_they_can_help():
    assert message_of(b"good\nbad\xff\n", options=("--encoding", "--errors")).endswith("; else --errors replace")


def test_the_guess_looks_at_a_bounded_part_around_the_byte(monkeypatch):
    monkeypatch.setattr(encoding_guess, "_MAX_BYTES", 2000)
    far = b"plain text\n" * 1000 + FRENCH.encode("mac-roman")
    assert "mac-roman" in message_of(far)
    assert len(encoding_guess._around(far, 11_000)) <= 2000


def test_values_that_do_not_exist():
    for options in ({"errors": "ignore"}, {"normalization": "nfd"}, {"encoding": "klingon"}):
        with pytest.raises(UsageError, match=next(iter(options.values()))):
            Decoding(**options)


@pytest.mark.parametrize(
    ("content", "hint"),
    [("hello there".encode("utf-16"), "add --encoding utf-16"), (b"abc\xe4\xb8", "position 3, line 1")],
)
def test_wrong_encodings_say_what_to_do(content, hint):
    assert hint in message_of(content)


def test_the_position_of_a_wrong_byte_is_counted_from_the_beginning():
    data = b"a" * 1023 + b"\xc3\xa9" + b"b" * 10 + b"\xff"
    with pytest.raises(DataError, match="0xFF at position 1035"):
        decode(data, cuts=[1024])


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_byte_order_mark_is_refused(encoding):
    data = "hello there, ä".encode(encoding)
    assert f"add --encoding {encoding}" in message_of(data)
    assert decode(data, encoding) == "hello there, ä"
    assert f"use {encoding[:6]}-le" in message_of(data, "utf-16")


def test_utf32_is_not_taken_for_utf16():
    assert "UTF-32" in message_of("hello".encode("utf-32"))


def test_a_text_that_is_mostly_utf8_is_not_taken_for_another_encoding():
    data = "Zoë, Léa und Bjørn".encode() * 3 + b" b\xffd " + "Zoë, Léa".encode()
    with pytest.raises(DataError, match=r"line 1; name its encoding with --encoding, or --errors replace"):
        list(decode_blocks([data], "t"))
