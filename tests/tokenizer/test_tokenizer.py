import io
from collections import Counter

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.errors import DataError
from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.loading import load_tokenizer

SAMPLE = "Hello\r\n\tworld \u2585 \u2581 é 中 \0 \ufeff  x <unk> <s> <0x41> \u2047"
SCALARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
any_text = st.text(st.one_of(st.sampled_from(sorted(set(SAMPLE))), st.characters(exclude_categories=["Cs"])))


@pytest.fixture(scope="module")
def tokenizer() -> CharTokenizer:
    return CharTokenizer.build(Counter(map(ord, SAMPLE)))


@pytest.fixture(scope="module")
def oracle(tokenizer):
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())


def test_every_scalar_value_is_kept(tokenizer):
    everything = "".join(SCALARS)
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


@settings(max_examples=300)
@given(any_text)
def test_decode_inverts_encode(text):
    tokenizer = CharTokenizer.build(Counter(map(ord, SAMPLE)))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


@settings(max_examples=200)
@given(any_text, any_text)
def test_encoding_is_concat_stable(a, b):
    for tokenizer in (CharTokenizer.build(Counter(map(ord, SAMPLE))), ByteTokenizer()):
        joined = np.concatenate([tokenizer.encode(a), tokenizer.encode(b)])
        assert np.array_equal(tokenizer.encode(a + b), joined)


def test_table_look_up_equals_sentencepiece(tokenizer, oracle):
    # Without U+2581, SentencePiece's own mark for the space: the only character that the two encode differently.
    text = SAMPLE.replace("\u2581", "") + "".join(SCALARS[::97]).replace("\u2581", "")
    assert tokenizer.encode(text).tolist() == oracle.encode(text)
    assert oracle.decode(tokenizer.encode(text).tolist()) == text


@settings(max_examples=200)
@given(any_text)
def test_sentencepiece_decodes_what_we_encode(text):
    tokenizer = CharTokenizer.build(Counter(map(ord, SAMPLE)))
    oracle = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.to_bytes())
    assert oracle.decode(tokenizer.encode(text).tolist()) == text


def test_every_character_of_the_corpus_has_one_id(tokenizer):
    for character in set(SAMPLE) - {"\0", "\u2581"}:
        assert len(tokenizer.encode(character)) == 1


def test_the_same_counts_make_the_same_model():
    counts = Counter(map(ord, SAMPLE))
    backwards = dict(reversed(list(counts.items())))
    assert CharTokenizer.build(counts).to_bytes() == CharTokenizer.build(backwards).to_bytes()


@pytest.mark.parametrize("corpus", ["ab", "\n\t", "\0\u2581", " \n", "\u2585a", "中文", "\U0001f600a"])
def test_unusual_alphabets(corpus):
    tokenizer = CharTokenizer.build(Counter(map(ord, corpus)))
    assert tokenizer.decode(tokenizer.encode(corpus + SAMPLE)) == corpus + SAMPLE
    assert not tokenizer.unknown(tokenizer.encode(corpus)).any()


def test_an_alphabet_of_twenty_thousand():
    tokenizer = CharTokenizer.build({0x4E00 + i: 1 + i for i in range(20_000)})
    assert len(tokenizer.encode("丁七" * 10)) == 20


def test_unknown_characters_are_found(tokenizer):
    ids = tokenizer.encode("x\u2581\0ü中z")
    starts = tokenizer.starts_character[ids]
    assert starts.sum() == 6
    assert [bool(u) for u in tokenizer.unknown(ids)[starts]] == [False, False, False, True, False, True]


def test_encoding_chosen_characters_as_bytes_keeps_the_text(tokenizer):
    codes = np.frombuffer("Hello é中".encode("utf-32-le"), np.uint32)
    ids = tokenizer.encode_codes(codes, np.array([1, 0, 0, 0, 1, 0, 1, 1], bool))
    assert tokenizer.decode(ids) == "Hello é中"
    assert len(ids) == 8 + 1 + 2


def test_constraint_allows_just_the_characters_of_the_corpus(tokenizer):
    allowed, transitions = tokenizer.constraint()
    plain = CharTokenizer.build(Counter(map(ord, "abc")))
    assert not plain.constraint().allowed_SV[0][plain.byte_ids].any()
    ids, state = tokenizer.encode("a\u2581\0 x".replace("a", "H")), 0
    for i in ids:
        assert allowed[state, i]
        state = transitions[state, i]
    assert state == 0
    first, second, third = tokenizer.encode("\u2581")
    assert np.flatnonzero(allowed[transitions[0, first]]).tolist() == [second]
    assert np.flatnonzero(allowed[transitions[transitions[0, first], second]]).tolist() == [third]


def test_the_decoder_returns_whole_characters_only(tokenizer):
    text = "é中\U0001f600 \u2581x"
    for kind in (tokenizer, ByteTokenizer()):
        decoder, shown = kind.decoder(), []
        for i in kind.encode(text):
            shown.append(decoder.feed(np.array([i])))
        assert "".join(shown) == text
        assert all(len(piece) <= 1 for piece in shown)


def test_the_byte_tokenizer_keeps_bytes_that_are_not_text():
    tokenizer = ByteTokenizer()
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(tokenizer.encode(tokenizer.decode(every)), every)


@pytest.mark.parametrize("tokenizer_class", ["char", "byte"])
def test_lone_surrogates_are_refused_in_one_line(tokenizer, tokenizer_class):
    kind = tokenizer if tokenizer_class == "char" else ByteTokenizer()
    with pytest.raises(DataError, match="U\\+D800") as error:
        kind.encode("ab\ud800")
    assert "\n" not in str(error.value)


def test_a_loaded_tokenizer_encodes_alike(tokenizer):
    again = load_tokenizer(tokenizer.description(), tokenizer.to_bytes())
    assert again.encode(SAMPLE).tolist() == tokenizer.encode(SAMPLE).tolist()
    assert load_tokenizer({"kind": "byte"}, None).kind == "byte"


def _train_other(**options) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 50), model_writer=model, minloglevel=2, **options
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("description", "model"),
    [
        ({"kind": "word"}, b""),
        ({"kind": "char"}, None),
        ("char", b""),
        ({"kind": "char", "spelt_in_bytes": "x", "sha256": ""}, b"x"),
        ({"kind": "char", "spelt_in_bytes": [], "sha256": "0" * 64}, b"x"),
    ],
)
def test_damaged_tokenizers_are_refused(description, model):
    with pytest.raises(DataError):
        load_tokenizer(description, model)


@pytest.mark.parametrize(
    "model", [b"", b"\x80\x04pickle", _train_other(model_type="char", vocab_size=12), _train_other(vocab_size=15)]
)
def test_models_of_another_kind_are_refused(model):
    with pytest.raises(DataError):
        CharTokenizer(model)
