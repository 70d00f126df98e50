"""Rows of 8-bit integers: a quarter of the memory and of the file, which is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras.word2vec.arguments import shown

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import DTypeLike, NDArray

__all__ = ["EightBitRows"]

ROWS = 1 << 14  # made at a time
LARGEST = 127


class EightBitRows:
    """A matrix whose row i is `scale[i] · codes[i]`; looks like a float32 array.

    A slice of it has 8 bits too; single rows and lists of rows are float32 arrays. A number is off
    by at most half of its row's scale, which is the row's largest number divided by 127.

    Args:
        rows: array (words,) of a scale, float32, and codes, int8 (size,), as `dtype_of` says; it
            may be mapped from a file.

    Raises:
        ValueError: `rows` has another dtype.

    Example:
        >>> import numpy as np
        >>> EightBitRows.of(np.array([[1, -0.5], [0, 0]]))[[0, 1]]
        array([[ 1.      , -0.503937],
               [ 0.      ,  0.      ]], dtype=float32)
    """

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, rows: NDArray[Any]) -> None:
        if not is_of_rows(getattr(rows, "dtype", None)):
            raise ValueError(f"rows={shown(rows)} must be an array of scales and codes")
        self.rows, self.codes = rows, rows["codes"]

    @classmethod
    def of(cls, matrix: NDArray[Any]) -> EightBitRows:
        """Round a matrix; ValueError if a number is not finite."""
        if len(getattr(matrix, "shape", ())) != 2:
            raise ValueError(f"matrix={shown(matrix)} must be an array (rows, size)")
        rows = np.empty(len(matrix), dtype_of(matrix.shape[1]))
        for begin in range(0, len(matrix), ROWS):
            block = np.asarray(matrix[begin : begin + ROWS], np.float32)
            largest = np.abs(block).max(1, initial=0)
            if not np.isfinite(largest).all():
                row = begin + int(np.isfinite(largest).argmin())
                raise ValueError(f"matrix: row {row} has nan or inf; all numbers must be finite")
            scales = (largest / LARGEST).astype(np.float32)
            some = rows[begin : begin + len(block)]
            some["scale"] = scales
            divisors = np.where(scales > 0, scales, 1)[:, None]
            some["codes"] = np.clip(np.rint(block / divisors), -LARGEST, LARGEST)
        return cls(rows)

    @property
    def shape(self) -> tuple[int, int]:
        """(words, size)."""
        return self.codes.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return EightBitRows(self.rows[index])
        rows = self.rows[index]
        return rows["codes"] * np.asarray(rows["scale"])[..., None]

    def astype(self, dtype: DTypeLike, copy: bool = True) -> NDArray[Any]:
        """Return a float array."""
        return (self.codes * self.rows["scale"][:, None]).astype(dtype, copy=False)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return self.astype(dtype or self.dtype)


def dtype_of(size: int) -> np.dtype[Any]:
    """Return the dtype of a row."""
    return np.dtype([("scale", "<f4"), ("codes", "i1", (size,))])


def is_of_rows(dtype: np.dtype[Any] | None) -> bool:
    """Return whether a dtype is that of such rows, of whatever size."""
    if dtype is None or dtype.names != ("scale", "codes"):
        return False
    return dtype == dtype_of(sum(dtype["codes"].shape))
