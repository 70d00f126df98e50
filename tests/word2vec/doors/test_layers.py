"""Malformed arguments of the functions of the layers are refused, or do no harm."""

import numpy as np
import pytest

from word2vec.doors.malformed import BAD_INTEGERS, ERRORS, malformed

_core = pytest.importorskip("fastkeras._core", reason="nothing is compiled")


def calls_of_layers():
    one, words = np.ones((2, 2), np.float32), np.int32([[0, 2], [1, 1]])
    rows = np.ones((3, 4), np.float32)
    return {
        "pool": {"rows": rows, "words": words, "weights": one},
        "scatter": {"upstream": rows[:2], "factors": one, "words": words, "num_words": 3},
        "loss": {
            "hidden": rows[:2],
            "rows": rows,
            "bias": rows[:, 0].copy(),
            "offset": rows[:, 0].copy(),
            "words": words,
            "loss": 0,
        },
    }


@pytest.mark.parametrize("name", ["pool", "scatter", "loss"])
def test_functions_of_the_layers_check_what_they_follow(name):
    function, good = getattr(_core, f"word2vec_layers_{name}"), calls_of_layers()[name]
    function(**good, num_threads=1)
    for argument, value in [*good.items(), ("num_threads", 1)]:
        if isinstance(value, np.ndarray):
            bad = [*malformed(value), value[1:], value[..., 1:], value[:0]]
            bad = [x for x in bad if x is not None or argument not in ("bias", "offset")]
            if argument in ("weights", "factors"):
                bad.remove(None)
        else:
            bad = [x for x in BAD_INTEGERS if argument != "num_words" or x != 2**31]
        for wrong in bad:
            if (
                isinstance(wrong, np.ndarray)
                and wrong.shape == value.shape
                and _is_like(wrong, value)
            ):
                continue
            with pytest.raises(ERRORS):
                function(**{**good, "num_threads": 1, argument: wrong})
    for wrong in (3, 2**31 - 1):
        with pytest.raises(ValueError, match=r"words must be in 0\.\.2.*, got"):
            function(**{**good, "words": np.int32([[0, 2], [1, wrong]])})
    holes = {**good, "words": np.int32([[0, 2], [1, -(2**31)]])}
    if name == "loss":
        with pytest.raises(ValueError, match="words must be in"):
            function(**holes)
    else:
        function(**holes)
        holes["weights" if name == "pool" else "factors"] = None
        with pytest.raises(ValueError, match="words must be in"):  # only weights mark holes
            function(**holes)


def _is_like(array, good):
    """Whether an array has the dtype and layout of a good one, whatever its numbers."""
    in_row = array.flags.c_contiguous and array.flags.aligned
    return in_row and array.dtype == good.dtype
