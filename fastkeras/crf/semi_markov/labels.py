"""Segmentations as one integer a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.training.arguments import integers, optional_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike

INSIDE, NO_STEP = -1, -2


def segment_labels(
    segmentations: Sequence[Sequence[tuple[int, int, int]]], max_length: int | None = None
) -> NDArray[np.int32]:
    """One integer a step, as `SemiMarkovCRF` takes segmentations.

    Args:
        segmentations: for each sequence, its segments (first step, last step, tag), which follow
            each other from step 0.
        max_length: that of the layer, to find segments that are too long for it; None: any length.

    Returns:
        int32, shape (sequences, steps of the longest): the tag of the segment that begins at the
        step; −1 inside of a segment; −2 past the end of the sequence.

    Raises:
        ValueError: segments that leave a gap or overlap, with a tag below 0, too long, or that are
            not three whole numbers; or `max_length` is out of range.

    Example:
        >>> from fastkeras.crf import semi_markov
        >>> semi_markov.segment_labels([[(0, 1, 3), (2, 2, 0)], [(0, 1, 1)]])
        array([[ 3, -1,  0],
               [ 1, -1, -2]], dtype=int32)

    Source: Sarawagi & Cohen, 2004.
    """
    optional_integer("max_length", max_length, 1)
    checked = [_checked(segments, max_length) for segments in segmentations]
    lengths = [segments[-1][1] + 1 if segments else 0 for segments in checked]
    labels = np.full((len(checked), max(lengths, default=0)), NO_STEP, np.int32)
    for row, segments in zip(labels, checked, strict=True):
        for start, end, tag in segments:
            row[start : end + 1], row[start] = INSIDE, tag
    return labels


def _checked(segments, max_length):
    """The segments of a sequence as whole numbers, or ValueError."""
    found: list[tuple[int, int, int]] = []
    for segment in segments:
        next_step = found[-1][1] + 1 if found else 0
        try:
            start, end, tag = map(int, segment)
            is_right = start == next_step <= end < 2**31 and 0 <= tag < 2**31
            if not is_right or [start, end, tag] != list(segment):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise ValueError(
                f"a segment must be (first step, last step, tag) with the first step {next_step}, "
                f"where the one before ends, and a tag >= 0, in whole numbers, got {segment!r}"
            ) from None
        if max_length is not None and end - start >= max_length:
            raise ValueError(
                f"a segment must have at most max_length = {max_length} steps, got "
                f"{(start, end, tag)}"
            )
        found.append((start, end, tag))
    return found


def segments_of(labels: ArrayLike) -> list[list[tuple[int, int, int]]]:
    """The segments of each sequence, from one integer a step.

    Args:
        labels: integers, shape (batch, steps), as `segment_labels` makes them, and a model made by
            `SemiMarkovCRF.decode` predicts.

    Returns:
        A list for each sequence: (first step, last step, tag) of its segments. Steps are counted as
        in `labels`, also where some are masked.

    Raises:
        ValueError: `labels` has another rank, or holds what is no whole number.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> semi_markov.segments_of(np.array([[3, -1, 0], [1, -1, -2]]))
        [[(0, 1, 3), (2, 2, 0)], [(0, 1, 1)]]

    Source: Sarawagi & Cohen, 2004.
    """
    labels = integers("labels", labels)
    if labels.ndim != 2:
        raise ValueError(f"labels must have shape (batch, steps), got {labels.shape}")
    found = []
    for row in labels.tolist():
        segments = []
        for t, label in enumerate(row):
            if label >= 0:
                segments.append((t, t, label))
            elif label == INSIDE and segments:
                segments[-1] = (segments[-1][0], t, segments[-1][2])
        found.append(segments)
    return found
