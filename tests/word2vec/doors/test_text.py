"""Malformed blocks of text and words are refused, and threads may share a counter."""

import threading

import numpy as np
import pytest

from word2vec.doors.malformed import BAD_INTEGERS, ERRORS, malformed

_core = pytest.importorskip("fastkeras._core", reason="nothing is compiled")


@pytest.mark.parametrize("block", [None, "text", 3, bytearray(b"a b"), np.zeros(3, np.uint8)])
def test_blocks_of_text_are_bytes(block):
    counter, encoder = _core.WordCounter(), _core.WordEncoder(b"ab", np.int64([1, 2]))
    for call in counter.add, encoder.encode:
        with pytest.raises(TypeError):
            call(block)
        for threads in BAD_INTEGERS:
            with pytest.raises(ERRORS):
                call(b"a b\n", threads)
        call(b"")
        call(b"\0\xff\n\n \xff")
    for number in BAD_INTEGERS[4:]:
        with pytest.raises(ERRORS):
            counter.words(number)
        with pytest.raises(ERRORS):
            counter.drop(number)
    assert counter.words(-(2**63))[0] == b"\0\xff\n\xff"
    counter.drop(2**63 - 1)
    assert len(counter) == 0


def test_ends_of_words_are_checked():
    good = np.int64([1, 2, 2, 4])
    _core.WordEncoder(b"abcd", good)
    for bad in malformed(good):
        with pytest.raises(ERRORS):
            _core.WordEncoder(b"abcd", bad)
    for ends in ([5], [-1], [2, 1], [2**62], [-(2**63)], [1, 2**63 - 1]):
        with pytest.raises(ValueError, match="ends must ascend"):
            _core.WordEncoder(b"abcd", np.int64(ends))
    assert _core.WordEncoder(b"", np.zeros(0, np.int64)).encode(b"a b\n").tolist() == []


def test_several_threads_may_use_one_counter_and_one_encoder():
    counter, encoder = _core.WordCounter(), _core.WordEncoder(b"ab", np.int64([1, 2]))
    block = b"a b c\n" * 5000
    ids = []

    def use():
        for _ in range(20):
            counter.add(block, 2)
            len(counter)
            ids.append(len(encoder.encode(block, 2)))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    words, counts = counter.words(1)
    assert words == b"a\nb\nc" and counts.tolist() == [400_000] * 3
    assert sum(ids) == 4 * 20 * 15_000
