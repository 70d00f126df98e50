"""Several paths of one chain, compiled by Numba: drawn from the distribution, or the best k.

In float64. `factors` and `peak` are those of recursions.py.
"""

from math import exp, inf, isfinite, nan

import numpy as np
from numba import njit

from fastkeras.crf._engines.numba.recursions import UNDERFLOW, _forward, is_sound, unsound_score


@njit(cache=True)
def draw_paths(x, mask, transitions, factors, peak, start, end, uniforms, tags):
    """Write one path for each row of `uniforms`; write nothing if no path is possible."""
    valid = np.flatnonzero(mask)
    n, num_tags = len(valid), len(start)
    if n == 0:
        return
    alpha = np.empty((n, num_tags))
    high, _ = _forward(x, valid, transitions, factors, peak, start, end, alpha)
    if not isfinite(high):
        return
    into, factors_into = transitions.T.copy(), factors.T.copy()  # a row for each tag after
    exps, sums = np.empty(num_tags), np.empty(num_tags)
    following = np.empty(len(tags), np.int64)
    for t in range(n - 1, -1, -1):
        for i in range(num_tags):
            exps[i] = exp(alpha[t, i])
        for row in range(len(tags)):
            total = 0.0
            if t < n - 1:
                for i in range(num_tags):
                    total += exps[i] * factors_into[following[row], i]
                    sums[i] = total
            if total < UNDERFLOW:
                after = end if t == n - 1 else into[following[row]]
                total = _cumulate(alpha[t], after, sums)
            following[row] = np.searchsorted(sums, uniforms[row, valid[t]] * total, side="right")
            tags[row, valid[t]] = following[row]


@njit(cache=True)
def best_paths(x, mask, transitions, peak, start, end, tags, scores):
    """Write the best len(tags) paths and their scores; if there are fewer, the rest stays as it is.

    `best` holds for each step and tag the scores of the best paths that end there, in order, and
    `origins` the tag and rank that each came from, as tag · k + rank.
    """
    valid = np.flatnonzero(mask)
    n, num_tags, k = len(valid), len(start), len(tags)
    if n == 0:
        scores[0] = 0.0
        return
    if not is_sound(x, valid, peak, start, end):
        scores[0], scores[1:] = unsound_score(x, valid, transitions, start, end), nan
        return
    best, before = np.full((num_tags, k), -inf), np.empty((num_tags, k))
    origins = np.empty((n, num_tags, k), np.int64)
    next_rank = np.empty(num_tags, np.int64)
    best[:, 0] = start
    for j in range(num_tags):
        best[j, 0] += x[valid[0], j]
    for t in range(1, n):
        best, before = before, best
        for j in range(num_tags):
            _merge(before, transitions[:, j], x[valid[t], j], best[j], origins[t, j], next_rank)
    complete, last = np.empty(k), np.empty(k, np.int64)
    _merge(best, end, 0.0, complete, last, next_rank)
    for rank in range(k):
        if complete[rank] == -inf:
            return
        scores[rank] = complete[rank]
        origin = last[rank]
        for t in range(n - 1, -1, -1):
            tag = origin // k
            tags[rank, valid[t]] = tag
            if t > 0:
                origin = origins[t, tag, origin % k]


@njit(cache=True)
def _merge(before, added, score, best, origins, next_rank):
    """Merge the sorted rows of `before` into one; in a tie the lowest row comes first."""
    num_tags, k = before.shape
    next_rank[:] = 0
    for rank in range(k):
        row, largest = 0, -inf
        for i in range(num_tags):
            if next_rank[i] < k and before[i, next_rank[i]] + added[i] + score > largest:
                row, largest = i, before[i, next_rank[i]] + added[i] + score
        best[rank] = largest
        origins[rank] = row * k + next_rank[row]
        if largest == -inf:
            best[rank:] = -inf
            return
        next_rank[row] += 1


@njit(cache=True)
def _cumulate(scores, more_scores, sums):
    """Write the sums of exp(scores + more_scores), relative to the largest; return the last."""
    peak = (scores + more_scores).max()
    total = 0.0
    for i in range(len(scores)):
        total += exp(scores[i] + more_scores[i] - peak)
        sums[i] = total
    return total
