"""Malformed arguments of the functions that search and read vectors are refused."""

import numpy as np
import pytest

from word2vec.doors.malformed import BAD_INTEGERS, ERRORS, malformed

_core = pytest.importorskip("fastkeras._core", reason="nothing is compiled")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_best_of_a_block_are_checked(dtype):
    good = {
        "scores": np.ones((3, 70), dtype),
        "scales": np.ones(70, dtype),
        "first_row": 0,
        "best": np.full((3, 2), -np.inf, dtype),
        "best_rows": np.zeros((3, 2), np.int64),
    }
    _core.word2vec_keep_best(**good)
    np.testing.assert_array_equal(good["best_rows"], [[0, 1]] * 3)
    for name in ("scores", "scales", "best", "best_rows"):
        for bad in malformed(good[name]):
            with pytest.raises(ERRORS):
                _core.word2vec_keep_best(**{**good, name: bad})
    for name in ("best", "best_rows"):
        read_only = good[name].copy()
        read_only.flags.writeable = False
        with pytest.raises(ValueError, match="must be writable"):
            _core.word2vec_keep_best(**{**good, name: read_only})
    none = {"best": np.zeros((3, 0), dtype), "best_rows": np.zeros((3, 0), np.int64)}
    with pytest.raises(ValueError, match="at least 1"):
        _core.word2vec_keep_best(**{**good, **none})
    for bad in BAD_INTEGERS:
        if bad not in (2**31, 2**62):  # rows are 64-bit
            with pytest.raises(ERRORS):
                _core.word2vec_keep_best(**{**good, "first_row": bad})


def test_rows_of_files_are_checked():
    good = {
        "block": b"a 1 2\nb 3 4\n",
        "rows": np.zeros((2, 2), np.float32),
        "is_text": True,
        "longest_word": 9,
        "num_threads": 1,
    }
    assert _core.word2vec_read_rows(**good)[:3] == (b"a\nb\n", 2, 12)
    for bad in malformed(good["rows"]):
        if bad is None or np.shape(bad) != (1, 2):  # fewer rows are read
            with pytest.raises(ERRORS):
                _core.word2vec_read_rows(**{**good, "rows": bad})
    for name, values in {
        "block": ["text", None, 3],
        "longest_word": [-1, None, 2**70],
        "num_threads": BAD_INTEGERS,
        "rows": [np.zeros((2, 0), np.float32)],
    }.items():
        for bad in values:
            with pytest.raises(ERRORS):
                _core.word2vec_read_rows(**{**good, name: bad})
    none = np.zeros((0, 2), np.float32)
    for is_text in (True, False):
        for block in (b"", b"\n", b"a", b" ", b"a 1 2\n"):
            call = {**good, "block": block, "rows": none, "is_text": is_text}
            assert _core.word2vec_read_rows(**call)[1] == 0
