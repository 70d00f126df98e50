"""The nearest of many vectors, by blocks of products of which only the best are kept."""

import numpy as np

from fastkeras.word2vec.arguments import floats

ROWS, QUERIES = 1 << 13, 1 << 10  # of one matrix product: 32 MiB of scores
INSERTED = 1024  # best ones at most that the compiled part keeps, one insertion after the other
SHORT = 16  # numbers in a row
GROUP = 64  # scores, of which `_floor` looks only at the highest


def unit_rows(matrix):
    """Return the rows scaled to length 1; rows of zeros stay."""
    matrix = floats("matrix", matrix, None)
    if not matrix.ndim:
        raise ValueError(f"matrix={matrix} must have one dimension at least")
    return matrix * inverse(np.linalg.norm(matrix, axis=-1, keepdims=True))


def inverse(norms):
    """Return 1 / norms, and 1 for those that are 0."""
    return 1 / np.where(norms > 0, norms, 1)


def blocks(matrix, dtype):
    """Yield `(first row, rows)` of a matrix, as arrays of this dtype.

    Short rows are without gaps between them: else OpenBLAS rounds the product with one vector in
    another way, and vectors would have other cosines than their copies.
    """
    order = "C" if matrix.shape[1] <= SHORT else "K"
    for begin in range(0, len(matrix), ROWS):
        yield begin, np.asarray(matrix[begin : begin + ROWS], dtype, order)


def norms_of(matrix):
    """Return the Euclidean length of each row."""
    norms = np.empty(len(matrix), np.result_type(matrix.dtype, np.float32))
    for begin, block in blocks(matrix, norms.dtype):
        norms[begin : begin + len(block)] = np.linalg.norm(block, axis=1)
    return norms


def cosines(matrix, norms, unit):
    """Return the cosine of each row with each of some vectors of length 1: (vectors, rows)."""
    found = np.empty((len(unit), len(matrix)), norms.dtype)
    unit = unit.astype(norms.dtype)
    for begin, block in blocks(matrix, norms.dtype):
        end = begin + len(block)
        found[:, begin:end] = unit @ block.T * inverse(norms[begin:end])
    return found


def nearest(matrix, norms, unit, topn, excluded=None):
    """Return the rows with the highest cosines.

    Args:
        matrix: (words, size).
        norms: (words,), the lengths of its rows.
        unit: (queries, size), of length 1, in the dtype of the norms.
        topn: how many for each query, at most `words`.
        excluded: for each query, rows to leave out.

    Returns:
        `(rows, cosines)`: int64 and float arrays (queries, topn), the nearest first, and of equal
        ones the first. Where too few are left, the cosines are −inf.
    """
    best = np.full((len(unit), topn), -np.inf, unit.dtype)
    best_rows = np.zeros(best.shape, np.int64)
    if not topn:  # there are no rows
        return best_rows, best
    keep = _keeper(topn)
    for first in range(0, len(unit), QUERIES):
        part = slice(first, first + QUERIES)
        without = () if excluded is None else excluded[part]
        for begin, block in blocks(matrix, unit.dtype):
            scores = unit[part] @ block.T
            for query, rows in enumerate(without):
                rows = np.asarray(rows, np.int64) - begin
                scores[query, rows[(rows >= 0) & (rows < len(block))]] = -np.inf
            scales = inverse(norms[begin : begin + len(block)])
            keep(scores, scales, begin, best[part], best_rows[part])
    for query in np.flatnonzero(np.isneginf(best[:, -1])):
        left = np.isneginf(best[query])  # rows that were left out are all that is left
        without = np.unique(np.asarray(excluded[query], np.int64))
        without = without[(without >= 0) & (without < len(matrix))]
        best_rows[query, left] = without[: left.sum()]
    return best_rows, best


def _keeper(topn):
    """Return `keep(scores, scales, begin, best, best_rows)`, which updates the best in place."""
    try:
        from fastkeras._core import word2vec_keep_best
    except ImportError:
        return _keep_best
    return word2vec_keep_best if topn <= INSERTED else _keep_best


def _keep_best(scores, scales, begin, best, best_rows):
    """`_core.word2vec_keep_best` in NumPy, for machines without the compiled part."""
    topn = best.shape[1]
    scores *= scales
    floor = np.maximum(_floor(scores, topn), best[:, -1:])
    # Only the few columns that are good enough for some query need to be sorted.
    columns = np.flatnonzero((scores >= floor).any(0))
    scores = np.concatenate([best, scores[:, columns]], 1)
    columns = np.broadcast_to(columns + begin, (len(best), len(columns)))
    rows = np.concatenate([best_rows, columns], 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :topn]
    best[:] = np.take_along_axis(scores, order, 1)
    best_rows[:] = np.take_along_axis(rows, order, 1)


def _floor(scores, topn):
    """Return for each query a score that at least `topn` of its scores reach, or −inf."""
    groups = scores.shape[1] // GROUP
    if groups < topn:
        return np.full((len(scores), 1), -np.inf, scores.dtype)
    maxima = scores[:, : groups * GROUP].reshape(len(scores), GROUP, groups).max(1)
    return np.partition(maxima, -topn)[:, -topn, None]
