"""Rows that fastText has quantized (`.ftz`): looked up in code books, only when they are needed.

Jégou et al. 2011, Product quantization for nearest neighbor search; Joulin et al. 2016,
FastText.zip (arXiv 1612.03651).
"""

from typing import NamedTuple

import numpy as np

CODES = 256  # entries of a code book


class Books(NamedTuple):
    """The code books of the parts of a row."""

    centroids: np.ndarray  # float32, those of part after part: (CODES, numbers of the part)
    size: int  # of a row
    part: int  # numbers of a part; the last may have fewer

    @property
    def num_parts(self):
        return -(-self.size // self.part)

    def decoded(self, codes):
        """Return the rows of the codes uint8 (..., parts): float32 (..., size)."""
        rows = np.empty((*codes.shape[:-1], self.size), np.float32)
        for number in range(self.num_parts):
            begin = number * self.part
            end = min(begin + self.part, self.size)
            book = self.centroids[CODES * begin : CODES * end].reshape(CODES, end - begin)
            rows[..., begin:end] = book[codes[..., number]]
        return rows


class QuantizedRows:
    """Looks like a float32 array of two dimensions; a slice of it is quantized too.

    Args:
        codes: uint8 (rows, parts).
        books: `Books` of the rows.
        norm_codes: uint8 (rows,), of the rows' lengths, or None if the rows have them.
        norm_books: `Books` of the lengths.
    """

    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, codes, books, norm_codes=None, norm_books=None):
        self.codes, self.books = codes, books
        self.norm_codes, self.norm_books = norm_codes, norm_books

    @property
    def shape(self):
        return len(self.codes), self.books.size

    def __len__(self):
        return len(self.codes)

    def __array__(self, dtype=None, copy=None):
        return self[np.arange(len(self))].astype(dtype or self.dtype, copy=False)

    def rows(self, index):
        """Return some of the rows, still quantized."""
        norms = None if self.norm_codes is None else self.norm_codes[index]
        return QuantizedRows(self.codes[index], self.books, norms, self.norm_books)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.rows(index)
        rows = self.books.decoded(self.codes[index])
        if self.norm_codes is not None:
            rows *= self.norm_books.decoded(self.norm_codes[index][..., None])
        return rows
