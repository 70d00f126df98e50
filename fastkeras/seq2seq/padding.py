"""Sequences of different lengths in one array."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.training.arguments import number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray


def sequence_padding(
    sequences: Sequence[Any],
    lengths: int | Sequence[int] | None = None,
    value: float = 0,
    axes: int = 1,
    side: str = "right",
) -> NDArray[Any]:
    """Pad arrays, or nested lists, to one size along their first axes, and stack them.

    Args:
        sequences: arrays, or nested lists, equal in all axes after the padded ones.
        lengths: the size of each padded axis, one number for all or one for each; None for the
            largest that occurs. Longer sequences are cut at their end.
        value: the padding value.
        axes: how many axes are padded.
        side: "right" or "left", where the padding goes.

    Returns:
        An array, (batch, *lengths, …), of the common dtype of all sequences.

    Raises:
        ValueError: the sequences differ in their number of axes, or an argument is out of range.

    Example:
        >>> from fastkeras.seq2seq import sequence_padding
        >>> sequence_padding([[1, 2, 3], [4]])
        array([[1, 2, 3],
               [4, 0, 0]])
        >>> sequence_padding([[[1, 2], [3, 4]], [[5]]], axes=2).shape
        (2, 2, 2)

    Source: bert4keras, `snippets.sequence_padding`, whose `seq_dims` is `axes`.
    """
    if side not in ("right", "left"):
        raise ValueError(f"side={side!r} must be 'right' or 'left'")
    if isinstance(axes, bool) or not isinstance(axes, (int, np.integer)) or axes < 1:
        raise ValueError(f"axes={axes!r} must be an integer of at least 1")
    number("value", value, "a number", lambda value: True)
    sequences = list(sequences)
    sizes = np.array([_sizes(s, axes) for s in sequences], int).reshape(-1, axes)
    if lengths is None:
        lengths = sizes.max(axis=0, initial=0)
    lengths = np.broadcast_to(lengths, (axes,))
    if lengths.dtype.kind not in "iu" or (lengths < 0).any():
        raise ValueError(f"lengths={lengths.tolist()} must be integers of at least 0")
    leaves = [leaf for sequence in sequences for leaf in _leaves(sequence, axes - 1)]
    # an empty [] says nothing about the axes
    filled = [leaf for leaf in leaves if leaf.size or leaf.ndim > 1] or leaves
    shapes = {leaf.shape[1:] for leaf in filled}
    if len(shapes) > 1:
        raise ValueError(
            f"sequences must agree on the axes behind the first {axes}, got {sorted(shapes)}"
        )
    dtype = np.result_type(*(leaf.dtype for leaf in filled)) if filled else np.dtype(int)
    padded = np.full((len(sequences), *lengths, *(shapes.pop() if shapes else ())), value, dtype)
    for row, sequence in zip(padded, sequences, strict=True):
        _write(row, sequence, axes, side)
    return padded


def _write(row, sequence, axes, side):
    size = min(len(sequence), len(row))
    first = 0 if side == "right" else len(row) - size
    if axes == 1:
        if size:
            row[first : first + size] = sequence[:size]
        return
    for i in range(size):
        _write(row[first + i], sequence[i], axes - 1, side)


def _sizes(sequence, axes):
    """The largest size of each padded axis."""
    if not hasattr(sequence, "__len__"):
        raise ValueError(f"sequences must have the axes to be padded, {axes} more at {sequence!r}")
    if axes == 1:
        return [len(sequence)]
    inner = [_sizes(part, axes - 1) for part in sequence]
    return [len(sequence), *np.max(inner, axis=0, initial=0).tolist()] if inner else [0] * axes


def _leaves(sequence, axes):
    if axes == 0:
        return [np.asarray(sequence)]
    return [leaf for part in sequence for leaf in _leaves(part, axes - 1)]
