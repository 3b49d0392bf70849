import itertools

import numpy as np

from charlm.tokenizer.bytes import ByteTokenizer
from charlm.tokenizer.characters import CharTokenizer
from charlm.tokenizer.documents import DocumentTokenizer
from charlm.tokenizer.matching import matching_ids

OLD, NEW = (CharTokenizer.build({ord(c): 9 for c in alphabet}) for alphabet in ("abc\n", "xbcé\n"))


def test_matching_ids_have_the_same_text():
    pairs = matching_ids(OLD, NEW)
    assert len(np.unique(pairs[:, 0])) == len(np.unique(pairs[:, 1])) == len(pairs)
    assert len(pairs) == 1 + 256 + len("bc\n")
    for old, new in pairs[:, :, None]:
        assert OLD.bytes_of(old) == NEW.bytes_of(new)


def test_only_models_of_documents_share_the_boundary():
    for old, new in itertools.product((OLD, DocumentTokenizer(OLD, "lines")), (NEW, DocumentTokenizer(NEW, "files"))):
        pairs = matching_ids(old, new).tolist()
        both = old.end_id is not None and new.end_id is not None
        assert pairs == matching_ids(OLD, NEW).tolist() + [[old.end_id, new.end_id]] * both


def test_all_bytes_match():
    assert matching_ids(ByteTokenizer(), ByteTokenizer()).tolist() == [[i, i] for i in range(256)]
