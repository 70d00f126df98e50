"""Spans as lists, as labels, and out of the scores of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastkeras.training.arguments import number, one_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike

OVERLAPS = ("any", "nested", "none")


class Span(NamedTuple):
    """A span that was found.

    Attributes:
        start: its first step.
        end: its last step.
        kind: the number of its type, or its name.
        score: what it scored.
    """

    start: int
    end: int
    kind: Any
    score: float


def span_labels(
    spans: Sequence[Sequence[tuple[int, int, Any]]], names: Sequence[str] | None = None
) -> NDArray[np.int32]:
    """Labels for `SpanCrossentropy` and `NestedSpanScore`, from lists of spans.

    Args:
        spans: for each sequence, a list of spans (first step, last step, type).
        names: the names of the types, if the types in `spans` are names; None if they are numbers.

    Returns:
        int32, shape (sequences, largest number of spans, 3), filled up with −1.

    Raises:
        ValueError: a span ends before it begins, begins below 0, is not made of whole numbers, or
            has a type without a name; or a name is there twice.

    Example:
        >>> from fastkeras.tagging import span_labels
        >>> labels = span_labels([[(0, 3, "ORG"), (0, 1, "LOC")], []], ["LOC", "ORG"])
        >>> labels[0].tolist(), labels[1].tolist()
        ([[0, 3, 1], [0, 1, 0]], [[-1, -1, -1], [-1, -1, -1]])

    Source: Su et al., 2022, arXiv 2208.03054.
    """
    number_of = None if names is None else {name: k for k, name in enumerate(names)}
    if names is not None and number_of is not None and len(number_of) < len(names):
        raise ValueError(f"names must differ, got {list(names)}")
    labels = np.full((len(spans), max([1, *map(len, spans)]), 3), -1, np.int32)
    for row, of_sequence in zip(labels, spans, strict=True):
        for place, span in zip(row, of_sequence, strict=False):
            place[:] = _checked(span, number_of)
    return labels


def _checked(span, number_of):
    """A span as three integers, or ValueError."""
    try:
        start, end, kind = span
        numbers = [start, end, kind if number_of is None else number_of[kind]]
        first, last, number = (int(n) for n in numbers)
        is_right = 0 <= first <= last < 2**31 and number >= 0
        if not is_right or [first, last, number] != numbers:
            raise ValueError
    except (TypeError, ValueError, OverflowError, KeyError):
        names = "0, 1, 2 …" if number_of is None else list(number_of)
        raise ValueError(
            "a span must be (first step, last step, type) with 0 <= first <= last, and a type in "
            f"{names}, got {span!r}"
        ) from None
    return first, last, number


def decode_spans(
    scores: ArrayLike,
    threshold: float = 0.0,
    overlap: str = "any",
    names: Sequence[str] | None = None,
) -> list[list[Span]]:
    """The spans whose scores are above a threshold.

    Args:
        scores: float, shape (batch, num_types, steps, steps), as `GlobalPointer` returns them.
        threshold: 0, or more for fewer spans.
        overlap: which spans may share steps: "any"; "nested", where one is inside the other;
            "none". Where two may not, the one with the higher score is kept.
        names: the names of the types; None for their numbers.

    Returns:
        For each sequence a list of `Span`, in the order of their first steps; of spans that begin
        together the longest first. `end` is the last step of the span.

    Raises:
        ValueError: another shape, `overlap` is none of these, or `threshold` is no number.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import decode_spans
        >>> scores = np.full((1, 2, 4, 4), -9.0)
        >>> scores[0, 1, 0, 3], scores[0, 0, 0, 1], scores[0, 0, 1, 2] = 5.0, 3.0, 1.0
        >>> for span in decode_spans(scores, overlap="nested", names=["LOC", "ORG"])[0]:
        ...     print(span)
        Span(start=0, end=3, kind='ORG', score=5.0)
        Span(start=0, end=1, kind='LOC', score=3.0)

    Source: Su et al., 2022, arXiv 2208.03054.
    """
    from keras import ops

    scores = scores if isinstance(scores, np.ndarray) else ops.convert_to_numpy(scores)
    if scores.ndim != 4 or scores.shape[2] != scores.shape[3]:
        raise ValueError(
            f"scores must have shape (batch, num_types, steps, steps), got {scores.shape}"
        )
    if names is not None and len(names) != scores.shape[1]:
        raise ValueError(f"names must be {scores.shape[1]} names, one a type, got {list(names)}")
    one_of("overlap", overlap, OVERLAPS)
    number("threshold", threshold, "a number", lambda x: x == x)
    found = []
    for of_sequence in scores:
        kinds, starts, ends = np.nonzero(of_sequence > threshold)
        values = of_sequence[kinds, starts, ends]
        kept, may_keep = [], _Kept(overlap, scores.shape[2])
        for i in np.argsort(-values, kind="stable"):
            kind = int(kinds[i]) if names is None else names[kinds[i]]
            span = Span(int(starts[i]), int(ends[i]), kind, float(values[i]))
            if may_keep(span):
                kept.append(span)
        found.append(sorted(kept, key=lambda span: (span.start, -span.end)))
    return found


class _Kept:
    """Whether a span may be kept beside those kept before; it counts as kept from then on.

    For each step it knows the last end of the kept spans that begin there, and the first start of
    those that end there: so the time for a span does not grow with the number of those kept.
    """

    def __init__(self, overlap, steps):
        self.overlap = overlap
        self.last_end, self.first_start = np.full(steps, -1), np.full(steps, steps)
        self.is_taken = np.zeros(steps, bool)

    def __call__(self, span):
        start, end = span.start, span.end
        if self.overlap == "none":
            if self.is_taken[start : end + 1].any():
                return False
            self.is_taken[start : end + 1] = True
        if self.overlap == "nested":
            begins_inside = self.last_end[start + 1 : end + 1].max(initial=-1) > end
            ends_inside = self.first_start[start:end].min(initial=start) < start
            if begins_inside or ends_inside:
                return False
            self.last_end[start] = max(self.last_end[start], end)
            self.first_start[end] = min(self.first_start[end], start)
        return True
