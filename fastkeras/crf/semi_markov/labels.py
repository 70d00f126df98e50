"""Segmentations as one integer a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.training.arguments import optional_integer

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
        ValueError: segments that leave a gap or overlap, with a tag below 0, or too long; or
            `max_length` is out of range.

    Example:
        >>> from fastkeras.crf import semi_markov
        >>> semi_markov.segment_labels([[(0, 1, 3), (2, 2, 0)], [(0, 1, 1)]])
        array([[ 3, -1,  0],
               [ 1, -1, -2]], dtype=int32)

    Source: Sarawagi & Cohen, 2004.
    """
    optional_integer("max_length", max_length, 1)
    lengths = [max((end + 1 for _, end, _ in of), default=0) for of in segmentations]
    labels = np.full((len(segmentations), max(lengths, default=0)), NO_STEP, np.int32)
    for row, segments in zip(labels, segmentations, strict=True):
        next_step = 0
        for start, end, tag in segments:
            if start != next_step or end < start or tag < 0:
                raise ValueError(
                    f"a segment must be (first step, last step, tag) with the first step "
                    f"{next_step}, where the one before ends, and a tag >= 0, got "
                    f"{(start, end, tag)}"
                )
            if max_length is not None and end - start >= max_length:
                raise ValueError(
                    f"a segment must have at most max_length = {max_length} steps, got "
                    f"{(start, end, tag)}"
                )
            row[start : end + 1], row[start] = INSIDE, tag
            next_step = end + 1
    return labels


def segments_of(labels: ArrayLike) -> list[list[tuple[int, int, int]]]:
    """The segments of each sequence, from one integer a step.

    Args:
        labels: integers, shape (batch, steps), as `segment_labels` makes them, and a model made by
            `SemiMarkovCRF.decode` predicts.

    Returns:
        A list for each sequence: (first step, last step, tag) of its segments. Steps are counted as
        in `labels`, also where some are masked.

    Raises:
        ValueError: `labels` has another rank.

    Example:
        >>> import numpy as np
        >>> from fastkeras.crf import semi_markov
        >>> semi_markov.segments_of(np.array([[3, -1, 0], [1, -1, -2]]))
        [[(0, 1, 3), (2, 2, 0)], [(0, 1, 1)]]

    Source: Sarawagi & Cohen, 2004.
    """
    labels = np.asarray(labels)
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
