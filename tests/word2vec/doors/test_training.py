"""Malformed tables, matrices and numbers of a training are refused, or do no harm."""

import numpy as np
import pytest

from word2vec.doors.malformed import BAD_INTEGERS, ERRORS, malformed

_core = pytest.importorskip("fastkeras._core", reason="nothing is compiled")

WORDS, SIZE, ROWS = 5, 16, 7


def tables():
    return {
        "keep": np.full(WORDS, 2**32 - 1, np.uint32),
        "noise": np.stack([np.full(WORDS, 2**31), np.arange(WORDS)[::-1]], 1).astype(np.uint32),
        "logit_offsets": np.zeros(WORDS, np.float32),
        "path_starts": np.arange(WORDS + 1),
        "path_nodes": np.arange(WORDS, dtype=np.int32),
        "path_signs": np.ones(WORDS, np.float32),
        "bag_starts": np.arange(WORDS + 1),
        "bag_rows": np.arange(WORDS, dtype=np.int32) + ROWS - WORDS,
    }


def arguments():
    return {
        "ids": np.int32([0, 1, 2, -1, 3, 4, 4, 0, 1, -1]),
        "begin": 0,
        "end": 10,
        "input": np.full((ROWS, SIZE), 0.1, np.float32),
        "output": np.full((ROWS, SIZE), 0.1, np.float32),
        "tables": _core.Word2VecTables(**tables()),
        "objective": 0,
        "loss": 0,
        "shared_negatives": True,
        "exact_cbow": True,
        "exact_subwords": True,
        "shrink_windows": True,
        "window": 2,
        "negative": 3,
        "key": 7,
        "learning_rate": 0.1,
        "learning_rate_slope": 0.0,
        "num_threads": 1,
        "deterministic": False,
    }


@pytest.mark.parametrize("name", tables())
def test_tables_are_checked(name):
    good = tables()
    for bad in malformed(good[name]):
        with pytest.raises(ERRORS):
            _core.Word2VecTables(**{**good, name: bad})
    for size in (1, WORDS - 1, WORDS + 7):  # an empty table means that there is none
        with pytest.raises(ValueError, match=r"must|lack|ascend"):
            _core.Word2VecTables(
                **{**good, name: np.resize(good[name], (size, *good[name].shape[1:]))}
            )


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("noise", (0, 1), WORDS),
        ("noise", (4, 1), 2**32 - 1),
        ("path_nodes", 2, -1),
        ("path_nodes", 4, -(2**31)),
        ("bag_rows", 0, -5),
        ("path_starts", 0, 1),
        ("path_starts", 0, -1),
        ("path_starts", 2, 5),
        ("path_starts", 3, -(2**62)),
        ("path_starts", 3, 2**62),
        ("path_starts", 5, 6),
        ("bag_starts", 2, 1),  # an empty bag has no mean
        ("bag_starts", 5, 2**63 - 1),
    ],
)
def test_numbers_in_tables_are_checked(name, at, value):
    bad = tables()
    bad[name][at] = value
    with pytest.raises(ValueError, match=name.partition("_")[0]):
        _core.Word2VecTables(**bad)


def test_the_good_call_trains():
    for loss in range(4):
        for objective in range(2):
            good = arguments()
            loss_of, predictions, words = _core.word2vec_train(
                **{**good, "loss": loss, "objective": objective}
            )
            assert np.isfinite(loss_of) and predictions > 0 and words == 8


@pytest.mark.parametrize("name", ["ids", "input", "output"])
def test_arrays_of_a_training_are_checked(name):
    good = arguments()
    for bad in malformed(good[name]):
        with pytest.raises(ERRORS):
            _core.word2vec_train(**{**good, name: bad})


@pytest.mark.parametrize(
    "bad",
    [
        {"input": np.ones((ROWS - 1, SIZE), "f4")},
        {"output": np.ones((WORDS - 1, SIZE), "f4")},
        {"output": np.ones((ROWS, SIZE * 2), "f4")},
        {"input": np.ones((ROWS, 15), "f4"), "output": np.ones((ROWS, 15), "f4")},
        {"input": np.ones((ROWS, 0), "f4"), "output": np.ones((ROWS, 0), "f4")},
        {"input": np.ones((0, SIZE), "f4")},
        {"ids": np.int32([0, WORDS, -1])},
        {"ids": np.int32([0, 2**31 - 1, -1])},
        {"begin": 11},
        {"begin": 5, "end": 4},
        {"end": 11},
        {"objective": 2},
        {"loss": 4},
        {"window": 0},
        {"negative": 2**31 - 1},
        {"negative": 2**31 - 2, "window": 2**31 - 1},
        {"learning_rate": np.nan},
        {"learning_rate_slope": np.inf},
        {"tables": None},
        {"tables": ()},
        *({"loss": 1, "tables": name} for name in ("path_starts", "path_nodes")),
        {"loss": 0, "tables": "noise"},
        {"loss": 2, "tables": "logit_offsets"},
        *({"loss": 3, "tables": name} for name in ("noise", "path_starts")),
        *(
            {name: value}
            for name in ("begin", "end", "objective", "loss", "window", "negative", "num_threads")
            for value in BAD_INTEGERS
        ),
    ],
)
def test_numbers_of_a_training_are_checked(bad):
    good = arguments()
    before = good["input"].copy()
    if isinstance(bad.get("tables"), str):
        lacking = tables()
        for name in lacking:
            if name.partition("_")[0] == bad["tables"].partition("_")[0]:
                lacking[name] = lacking[name][:0]
        bad = {**bad, "tables": _core.Word2VecTables(**lacking)}
    with pytest.raises(ERRORS):
        _core.word2vec_train(**{**good, **bad})
    np.testing.assert_array_equal(good["input"], before)


def test_matrices_that_are_read_only_or_overlap():
    good = arguments()
    good["input"].setflags(write=False)
    with pytest.raises(ValueError, match="writable"):
        _core.word2vec_train(**good)
    both = np.ones((2 * ROWS, SIZE), np.float32)
    with pytest.raises(ValueError, match="must not share memory"):
        _core.word2vec_train(**{**arguments(), "input": both[:ROWS], "output": both[1 : ROWS + 1]})
    with pytest.raises(ValueError, match="must not share memory"):
        _core.word2vec_train(
            **{**arguments(), "input": both, "ids": both.reshape(-1).view("i4")[:9]}
        )


def test_ids_outside_of_the_slice_end_a_sentence():
    """They are read only as far as windows reach; an id that is not a word ends a window."""
    one, other = arguments(), arguments()
    one["ids"] = np.int32([2**31 - 1, 1, 2, 3, 99, 1])
    other["ids"] = np.int32([-1, 1, 2, 3, -1, 1])
    for good in one, other:
        good.update(begin=1, end=4, window=3)
    assert _core.word2vec_train(**one) == _core.word2vec_train(**other)
    np.testing.assert_array_equal(one["input"], other["input"])


def test_windows_and_rates_at_the_ends_of_their_ranges():
    for window in (2**31 - 1, 2**31 - 2, 1025):
        for shrink in (False, True):
            for deterministic in (False, True):
                good = arguments()
                good.update(window=window, shrink_windows=shrink, deterministic=deterministic)
                _, predictions, words = _core.word2vec_train(**good)
                assert words == 8 and (shrink or predictions == 3 * 2 + 5 * 4)
