"""Compiled by Numba, for machines where no C++ could be compiled; on one thread.

A step takes about a millisecond, and waking Numba's threads may take ten times as long. NumPy
computes the exponentials, with vector instructions; the rest is computed in float64 whatever the
dtype, and rounded once, at the end. Functions compile on first use.
"""

from math import inf, nan

import numpy as np
from numba import njit

NO_HISTORY, ALL = np.zeros((0, 0, 0), np.int32), np.zeros((0, 0, 0), bool)


def select(step, num_candidates):
    history = NO_HISTORY if step.history is None else step.history
    allowed = ALL if step.allowed is None else step.allowed
    arrays = (step.logits, *_log_sums(step.logits), step.scores, history, allowed)
    arrays = [np.require(array, None, "CAW") for array in arrays]  # few types, so few are compiled
    return _select(*arrays, step.repetition_penalty, step.no_repeat_ngram, num_candidates)


def _log_sums(logits):
    """The largest logits m, and log Σ exp(x − m), NaN if not defined; both (batch, beams)."""
    peak = logits.max(axis=-1, keepdims=True)
    peak = np.where(np.isfinite(peak), peak, 0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        total = np.exp(logits - peak).sum(axis=-1, dtype=np.float64)
        return peak[..., 0], np.log(np.where(total < np.inf, total, np.nan))


@njit(cache=True, nogil=True)
def _select(logits, peaks, log_sums, scores, history, allowed, penalty, n, num_candidates):
    batch = len(logits)
    best = np.full((batch, num_candidates), -np.inf, logits.dtype)
    tokens = np.zeros((batch, num_candidates), np.int32)
    parents = np.zeros((batch, num_candidates), np.int32)
    for b in range(batch):
        of_beams = logits[b], peaks[b], log_sums[b], scores[b]
        of_results = best[b], tokens[b], parents[b]
        _write_best(b, *of_beams, history, allowed, penalty, n, *of_results)
    return best, tokens, parents


@njit(cache=True)
def _write_best(
    b, logits, peaks, log_sums, scores, history, allowed, penalty, n, best, tokens, parents
):
    """Write the best candidates of one sentence; `totals` keeps them sorted during the scan."""
    beams, vocabulary = logits.shape
    totals = np.full(len(best), -inf)
    factors = np.ones(vocabulary)  # multiply log probabilities; 0 where a token is ruled out
    for beam in range(beams):
        score = float(scores[beam])
        if score == -inf:
            continue
        if not score < inf or np.isnan(log_sums[beam]):
            best[:], tokens[:], parents[:] = nan, 0, 0
            return
        so_far = history[b, beam] if len(history) else history.reshape(-1)
        length = _length(so_far)
        _mark(so_far, length, penalty, n, factors)
        peak, log_sum = float(peaks[beam]), log_sums[beam]
        for token in range(vocabulary):
            factor = factors[token]
            total = score + factor * ((logits[beam, token] - peak) - log_sum)
            if not total > totals[-1] or factor == 0:
                continue
            if len(allowed) and not allowed[b % len(allowed), beam % allowed.shape[1], token]:
                continue
            place = len(totals) - 1
            while place > 0 and totals[place - 1] < total:
                totals[place] = totals[place - 1]
                tokens[place], parents[place] = tokens[place - 1], parents[place - 1]
                place -= 1
            totals[place], tokens[place], parents[place] = total, token, beam
        for i in range(length):
            factors[so_far[i]] = 1.0
    best[:] = totals


@njit(cache=True)
def _length(so_far):
    for i in range(len(so_far)):
        if so_far[i] < 0:
            return i
    return len(so_far)


@njit(cache=True)
def _mark(so_far, length, penalty, n, factors):
    """Write the penalty for each token of the history, and 0 if it would repeat an n-gram."""
    for i in range(length):
        factors[so_far[i]] = penalty
    if n == 0:
        return
    for i in range(length - (n - 1)):
        same = 0
        while same < n - 1 and so_far[i + same] == so_far[length - (n - 1) + same]:
            same += 1
        if same == n - 1:
            factors[so_far[i + n - 1]] = 0.0
