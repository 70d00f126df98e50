"""Sequences of different lengths in one array, compared with loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras.seq2seq import sequence_padding


@given(
    sequences=st.lists(st.lists(st.integers(-5, 5), max_size=5), max_size=4),
    length=st.none() | st.integers(0, 7),
    side=st.sampled_from(("right", "left")),
)
def test_one_axis(sequences, length, side):
    padded = sequence_padding(sequences, length, value=9, side=side)
    longest = max(map(len, sequences), default=0) if length is None else length
    assert padded.shape == (len(sequences), longest)
    for row, sequence in zip(padded.tolist(), sequences, strict=True):
        kept = sequence[:longest]
        rest = [9] * (longest - len(kept))
        assert row == (kept + rest if side == "right" else rest + kept)


@given(
    sequences=st.lists(
        st.lists(st.lists(st.integers(1, 5), max_size=3), max_size=3), min_size=1, max_size=3
    )
)
def test_two_axes(sequences):
    padded = sequence_padding(sequences, axes=2)
    for b, sequence in enumerate(sequences):
        for i, part in enumerate(sequence):
            assert padded[b, i, : len(part)].tolist() == part
    assert (padded != 0).sum() == sum(len(part) for sequence in sequences for part in sequence)
    lengths = sequence_padding(sequences, (2, 4), axes=2)
    assert lengths.shape == (len(sequences), 2, 4)


def test_the_axes_behind_and_the_dtype_stay():
    arrays = [np.ones((2, 3), "f4"), np.ones((0, 3), "f4"), np.ones((4, 3), "f4")]
    padded = sequence_padding(arrays, value=-1)
    assert padded.shape == (3, 4, 3) and padded.dtype == np.float32
    assert (padded[1] == -1).all() and (padded[0, 2:] == -1).all() and (padded[0, :2] == 1).all()
    assert sequence_padding([]).shape == (0, 0)
    assert sequence_padding([[], [1.5]]).tolist() == [[0], [1.5]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"side": "post"}, r"^side='post' must be 'right' or 'left'"),
        ({"axes": 0}, r"^axes=0 must be an integer of at least 1"),
        ({"lengths": -1}, r"^lengths=\[-1\] must be integers of at least 0"),
        ({"lengths": 1.5}, r"^lengths=\[1\.5\] must be integers"),
        ({"axes": 2}, r"^sequences must have the axes to be padded, 1 more at 1"),
        ({"sequences": [np.ones((1, 2)), np.ones((1, 3))]}, r"^sequences must agree on the axes"),
    ),
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        sequence_padding(**{"sequences": [[1, 2]], **arguments})
