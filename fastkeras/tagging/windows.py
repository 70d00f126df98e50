"""Documents that are too long for a model: overlapping windows, and their results joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras.training.arguments import integer

if TYPE_CHECKING:
    import numpy.typing as npt

    from fastkeras.typing import ArrayLike


class DocumentWindows(NamedTuple):
    """Overlapping windows of documents; made by `document_windows`.

    Attributes:
        size: the steps of a window.
        lengths: int64, (documents,).
        documents: int64, (windows,): the document of each window.
        starts: int64, (windows,): the step of the document where it begins.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import document_windows
        >>> windows = document_windows([5, 2], size=3, overlap=1)
        >>> windows.cut([[1, 2, 3, 4, 5], [6, 7]])
        array([[1, 2, 3],
               [3, 4, 5],
               [6, 7, 0]], dtype=int32)
        >>> long, short = windows.join(np.array([[1, 1, 1], [3, 3, 3], [5, 5, 0]]))
        >>> long.tolist(), short.tolist()
        ([1.0, 1.0, 2.0, 3.0, 3.0], [5.0, 5.0])

    Source: Devlin et al., 2019, whose code for SQuAD cuts documents so.
    """

    size: int
    lengths: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def cut(self, sequences: Sequence[ArrayLike], padding: float = 0) -> npt.NDArray[np.generic]:
        """The windows of the sequences, one array (windows, size, …), filled up with `padding`.

        Args:
            sequences: one for each document, of its length: tokens, labels, or vectors.
            padding: what fills the last window of a document.

        Raises:
            ValueError: the sequences have other lengths, or their dtype cannot hold `padding`.
        """
        arrays = [np.asarray(sequence) for sequence in sequences]
        if [len(array) for array in arrays] != self.lengths.tolist():
            raise ValueError(
                f"sequences must have the lengths of the documents, {self.lengths.tolist()}, got "
                f"{[len(array) for array in arrays]}"
            )
        full = [array for array in arrays if len(array)]  # np.asarray([]) is float64
        dtype = np.result_type(*full) if full else np.dtype(np.int32)
        limits = np.iinfo(np.int32)
        if dtype.kind in "iu" and all(
            limits.min <= array.min(initial=0) and array.max(initial=0) <= limits.max
            for array in full
        ):
            dtype = np.dtype(np.int32)
        if full and dtype.kind not in "fc":  # those may round it
            with np.errstate(invalid="ignore"):
                filler = np.asarray(padding).astype(dtype)
            if np.any(filler != padding):
                raise ValueError(
                    f"padding={padding!r} must be something that sequences of {dtype} can hold, "
                    f"but becomes {filler[()]!r}"
                )
        rest = full[0].shape[1:] if full else ()
        result = np.full((len(self.starts), self.size, *rest), padding, dtype)
        for row, document, start, length in zip(result, *self._each(), strict=True):
            row[:length] = arrays[document][start : start + length]
        return result

    def mask(self) -> npt.NDArray[np.bool_]:
        """Which steps of the windows are of a document, bool (windows, size)."""
        return np.arange(self.size) < np.array([*self._lengths()], int)[:, None]

    def join(self, values: ArrayLike) -> list[npt.NDArray[np.floating]]:
        """The mean over the windows that a step is in, nearer to the middle of a window more.

        Of the marginals of a CRF it is a distribution over tags; of its emissions, what one Viterbi
        over the document decodes. A step counts by its distance from the nearest end of the window
        that is not an end of the document.

        Args:
            values: numbers, shape (windows, size, …).

        Returns:
            For each document an array (steps, …), float32 or wider.

        Raises:
            ValueError: `values` has another shape.
        """
        values = np.asarray(values)
        if values.shape[:2] != (len(self.starts), self.size):
            raise ValueError(
                f"values must have shape (windows, size, …) = ({len(self.starts)}, {self.size}, …),"
                f" got {values.shape}"
            )
        dtype = np.result_type(values.dtype, np.float32)
        rest = values.shape[2:]
        sums = [np.zeros((n, *rest), dtype) for n in self.lengths]
        weights = [np.zeros(n, dtype) for n in self.lengths]
        for row, document, start, length in zip(values, *self._each(), strict=True):
            steps = np.arange(length)
            begins, ends = steps + 1, length - steps
            far = self.size
            if start > 0:
                far = np.minimum(far, begins)
            if start + length < self.lengths[document]:
                far = np.minimum(far, ends)
            weight = np.broadcast_to(far, length).astype(dtype)
            place = slice(start, start + length)
            sums[document][place] += row[:length] * weight.reshape(-1, *(1 for _ in rest))
            weights[document][place] += weight
        return [
            total / weight.reshape(-1, *(1 for _ in rest))
            for total, weight in zip(sums, weights, strict=True)
        ]

    def _lengths(self) -> Iterator[int]:
        for document, start in zip(self.documents, self.starts, strict=True):
            yield min(self.size, int(self.lengths[document] - start))

    def _each(self):
        return self.documents.tolist(), self.starts.tolist(), [*self._lengths()]


def document_windows(lengths: Sequence[int], size: int, overlap: int) -> DocumentWindows:
    """Cut documents into windows that overlap.

    Args:
        lengths: of the documents, in steps.
        size: the steps of a window, at least 1.
        overlap: how many steps two neighbouring windows share at least, below `size`. The last
            window of a document ends with it, so that it is as full as the others.

    Returns:
        A `DocumentWindows`. A document without steps has no window.

    Raises:
        ValueError: a length, `size` or `overlap` is no integer, or out of range.

    Example:
        >>> from fastkeras.tagging import document_windows
        >>> document_windows([10, 3], size=4, overlap=2).starts
        array([0, 2, 4, 6, 0])

    Source: Devlin et al., 2019, whose code for SQuAD cuts documents so.
    """
    size, overlap = integer("size", size, 1), integer("overlap", overlap, 0)
    if overlap >= size:
        raise ValueError(f"overlap={overlap} must be below size={size}")
    lengths = [integer(f"lengths[{i}]", length, 0) for i, length in enumerate(lengths)]
    documents, starts = [], []
    for document, length in enumerate(lengths):
        if length > 0:
            last = max(length - size, 0)
            of_document = [*range(0, last, size - overlap), last]
            documents += [document] * len(of_document)
            starts += of_document
    return DocumentWindows(
        size,
        np.array(lengths, np.int64).reshape(-1),
        np.array(documents, np.int64),
        np.array(starts, np.int64),
    )
