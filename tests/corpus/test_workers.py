import random
import threading
import time

import pytest

from charlm.corpus.encodings import Decoding
from charlm.corpus.preparation import prepare
from charlm.corpus.splitting import DocumentOptions
from charlm.corpus.tables import TableOptions, open_table
from charlm.corpus.text import open_source
from charlm.corpus.workers import Workers


def test_results_come_in_order_from_few_items_at_a_time():
    taken, finished, held = [], [], []

    def items():
        for number in range(12):
            taken.append(number)
            held.append(len(taken) - len(finished))
            yield number

    def work(number):
        time.sleep(0.01 * (number % 3 == 0))  # so that later items are ready first
        return number

    with Workers(3) as workers:
        for result in workers.map(work, items()):
            finished.append(result)
    assert finished == list(range(12))
    assert max(held) <= 3 + 2


def test_functions_with_a_state_are_called_in_order_in_another_thread():
    calls, threads = [], set()

    def add(number):
        time.sleep(0.005 * (number % 2))
        calls.append(number)
        threads.add(threading.current_thread())
        return number

    with Workers(3) as workers:
        assert list(workers.map_in_order(add, workers.map(abs, range(8)))) == calls == list(range(8))
    assert len(threads) == 1
    assert threading.current_thread() not in threads


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_is_raised_in_its_place_and_ends_what_was_begun(count):
    done, ended = [], []

    def work(number):
        if number == 2:
            raise ValueError("two")
        return number

    def until_unwanted(unwanted):
        begun = time.monotonic()
        while not unwanted():
            assert time.monotonic() < begun + 10
            time.sleep(0.001)
        ended.append(True)

    def run():
        with Workers(count) as workers:
            workers.begin(until_unwanted)
            for result in workers.map(work, range(9)):
                done.append(result)

    with pytest.raises(ValueError, match="two"):
        run()
    assert done == [0, 1]
    assert ended == [True] * (count > 1)  # with one thread it never began
    assert not corpus_threads()


def corpus_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("corpus")]


# ------------------------------------------------------------------------------------------------ files


RANDOM = random.Random(1)
ASCII = "".join(RANDOM.choice("abcdefg  \n") for _ in range(20_000)) + "\n\nthe end"
MIXED = "".join(RANDOM.choice("aé日😀  \n") for _ in range(8_000)) + "".join(map(chr, range(0x400, 0x460)))
INVALID = MIXED.encode()[:9_000] + b"\xff\n" + MIXED.encode()[9_000:]
TABLE = "name\tkind\n" + "".join(f"{'é' * (n % 7)}{n}\t{'red' if n % 3 else 'blü'}\n" for n in range(2_000))
ROWS = DocumentOptions("rows", conditional=True)

KINDS = {
    "ASCII": (ASCII, {}),
    "mixed": (MIXED, {}),
    "bytes": (MIXED, {"kind": "byte"}),
    "lines": (MIXED, {"documents": DocumentOptions("lines")}),
    "paragraphs": (ASCII, {"documents": DocumentOptions("blank-lines"), "kind": "byte"}),
    "distinct": (ASCII, {"documents": DocumentOptions("lines", distinct=True)}),
    "replaced": (INVALID, {"decoding": Decoding(errors="replace")}),
    "skipped": (INVALID, {"decoding": Decoding(errors="skip-document"), "documents": DocumentOptions("lines")}),
    "normalized": (MIXED, {"decoding": Decoding(normalization="nfkc")}),
    "table": (TABLE, {"table": TableOptions("name", "\t", "kind"), "documents": ROWS}),
    "validation text": (ASCII, {"valid": MIXED}),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_no_file_depends_on_the_number_of_threads(tmp_path, monkeypatch, name):
    content, options = KINDS[name][0], dict(KINDS[name][1])
    monkeypatch.setattr("charlm.corpus.blocks.BLOCK_BYTES", 701)  # cuts characters of two, three and four bytes
    monkeypatch.setattr("charlm.corpus.byte_fallback.UNKNOWN_INTERVAL", 300)
    path, valid = tmp_path / "text", tmp_path / "valid"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    others = {"valid": valid} if valid.write_text(options.pop("valid", "")) else {}
    table, decoding = options.pop("table", None), options.pop("decoding", None)
    found = []
    for threads in (1, 2, 3):
        folder, read = tmp_path / str(threads), []
        source = open_table([str(path)], table) if table else open_source([str(path)], decoding=decoding)
        texts = {split: open_source([str(other)]) for split, other in others.items()}
        prepare(folder, source, others=texts, threads=threads, progress=read.append, **options)
        found.append(({file.name: file.read_bytes() for file in folder.iterdir()}, sum(read)))
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]["train.ids"]) > 10_000


def test_an_interruption_leaves_no_thread(tmp_path):
    (tmp_path / "text").write_text(ASCII * 300)

    def interrupt(characters):
        raise KeyboardInterrupt

    source = open_source([str(tmp_path / "text")])
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "corpus", source, threads=3, progress=interrupt)
    assert not corpus_threads()
