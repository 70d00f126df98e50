"""The recursions of the Numba engine: one chain at a time, in float64.

log alpha and log beta are centred at every step, so that their largest element is 0, and the
centres are summed separately in double-double: nothing grows with the number of steps. A step is a
matrix product of exponentials; only an element that comes near underflow is computed by a
log-sum-exp of its own, so hard constraints need no code of their own. docs/crf.md has the
derivation.

Throughout, factors = exp(transitions - peak), with peak the largest transition, or NaN if a
transition is NaN or +inf. reference.py says what such a score does to a sequence.
"""

from math import exp, inf, isfinite, isnan, log, nan

import numpy as np
from numba import njit

UNDERFLOW = 1e-280  # a sum above this has lost nothing that matters to underflow
WIDE_GAP = 600.0  # nats; exp(WIDE_GAP) times a count stays finite


@njit(cache=True)
def log_partition_of(x, mask, transitions, factors, peak, start, end):
    valid = np.flatnonzero(mask)
    if len(valid) == 0:
        return 0.0
    two_rows = np.empty((2, len(start)))
    high, low = _forward(x, valid, transitions, factors, peak, start, end, two_rows)
    return high + low


@njit(cache=True)
def score_of(path, x, mask, transitions, start, end):
    valid = np.flatnonzero(mask)
    if len(valid) == 0:
        return 0.0
    high, low = _gold_score(path, x, valid, transitions, start, end)
    return high + low


@njit(cache=True)
def log_likelihood_of(path, x, mask, transitions, factors, peak, start, end):
    valid = np.flatnonzero(mask)
    if len(valid) == 0:
        return 0.0
    two_rows = np.empty((2, len(start)))
    gold = _gold_score(path, x, valid, transitions, start, end)
    log_z = _forward(x, valid, transitions, factors, peak, start, end, two_rows)
    return _log_probability(gold, log_z)


@njit(cache=True)
def add_gradients(
    path,
    x,
    mask,
    transitions,
    factors,
    peak,
    start,
    end,
    weight,
    d_emissions,
    d_transitions,
    d_start,
    d_end,
):
    """Return log p of the path; write d_emissions and add to the shared gradients."""
    valid = np.flatnonzero(mask)
    n, num_tags = len(valid), len(start)
    if n == 0:
        return 0.0
    alpha = np.empty((n, num_tags))
    gold = _gold_score(path, x, valid, transitions, start, end)
    log_z = _forward(x, valid, transitions, factors, peak, start, end, alpha)
    value = _log_probability(gold, log_z)
    if value == -inf or weight == 0.0:
        return value
    if isnan(value):
        d_emissions[valid] = nan
        d_start[:] = nan
        d_end[:] = nan
        if n > 1:
            d_transitions[:] = nan
        return value
    counts = _backward(x, valid, transitions, factors, peak, end, alpha)
    for i in range(num_tags):
        for j in range(num_tags):
            d_transitions[i, j] -= weight * counts[i, j]
    for t in range(n):
        tag = path[valid[t]]
        for j in range(num_tags):
            derivative = weight * ((1.0 if j == tag else 0.0) - alpha[t, j])
            d_emissions[valid[t], j] = derivative
            if t == 0:
                d_start[j] += derivative
            if t == n - 1:
                d_end[j] += derivative
        if t > 0:
            d_transitions[path[valid[t - 1]], tag] += weight
    return value


@njit(cache=True)
def write_marginals(x, mask, transitions, factors, peak, start, end, unary, counts):
    valid = np.flatnonzero(mask)
    n, num_tags = len(valid), len(start)
    if n == 0:
        return
    alpha = np.empty((n, num_tags))
    high, _ = _forward(x, valid, transitions, factors, peak, start, end, alpha)
    if high == -inf:
        return
    if isnan(high):
        unary[valid] = nan
        if n > 1:
            counts[:] = nan
        return
    expected = _backward(x, valid, transitions, factors, peak, end, alpha)
    for t in range(n):
        for j in range(num_tags):
            unary[valid[t], j] = alpha[t, j]
    for i in range(num_tags):
        for j in range(num_tags):
            counts[i, j] = expected[i, j]


@njit(cache=True)
def best_path(x, mask, transitions, peak, start, end, tags):
    """Write the best tags at the valid steps and return their score.

    No pointers are kept, only scores: on the way back, the same additions find the predecessor.
    """
    valid = np.flatnonzero(mask)
    n, num_tags = len(valid), len(start)
    if n == 0:
        return 0.0
    if not is_sound(x, valid, peak, start, end):
        return unsound_score(x, valid, transitions, start, end)
    best = np.empty((n, num_tags))
    for t in range(n):
        for j in range(num_tags):
            best[t, j] = start[j] if t == 0 else -inf
        if t > 0:
            for i in range(num_tags):
                for j in range(num_tags):
                    best[t, j] = max(best[t, j], best[t - 1, i] + transitions[i, j])
        for j in range(num_tags):
            best[t, j] += x[valid[t], j]
    tag, score = _first_largest(best[n - 1], end)
    tags[valid[n - 1]] = tag
    for t in range(n - 1, 0, -1):
        tag, _ = _first_largest(best[t - 1], transitions[:, tag])
        tags[valid[t - 1]] = tag
    return score


@njit(cache=True)
def is_sound(x, valid, peak, start, end):
    """Return whether no score that the sequence uses is NaN or +inf."""
    sound = len(valid) == 1 or not isnan(peak)
    for j in range(len(start)):
        sound &= start[j] < inf and end[j] < inf
    for t in valid:
        for j in range(len(start)):
            sound &= x[t, j] < inf
    return sound


@njit(cache=True)
def unsound_score(x, valid, transitions, start, end):
    """Return the best score of a sequence that is not sound: NaN if any is met, or +inf."""
    num_tags = len(start)
    best, before = start.copy(), np.empty(num_tags)
    for t in range(len(valid)):
        if t > 0:
            best, before = before, best
            best[:] = -inf
            for i in range(num_tags):
                for j in range(num_tags):
                    best[j] = _larger_or_nan(best[j], before[i] + transitions[i, j])
        for j in range(num_tags):
            best[j] += x[valid[t], j]
    score = -inf
    for j in range(num_tags):
        score = _larger_or_nan(score, best[j] + end[j])
    return score


@njit(cache=True)
def _larger_or_nan(a, b):
    return b if b > a or isnan(b) else a


@njit(cache=True)
def _forward(x, valid, transitions, factors, peak, start, end, alpha):
    """Return log Z as (high, low); leave centred log alpha of step t in alpha[t % len(alpha)]."""
    if not is_sound(x, valid, peak, start, end):
        return nan, nan
    num_tags = len(start)
    exps, row = np.empty(num_tags), start
    high, low = 0.0, 0.0
    for t in range(len(valid)):
        previous, row = row, alpha[t % len(alpha)]
        if t == 0:
            row[:] = start
        else:
            _propagate(previous, transitions, factors, peak, exps, row)
        for j in range(num_tags):
            row[j] += x[valid[t], j]
        centre = _recentre(row)
        if centre == -inf:
            return -inf, 0.0
        high, low = _add(high, low, centre)
    return _add(high, low, _log_sum_exp(row, end))


@njit(cache=True)
def _backward(x, valid, transitions, factors, peak, end, alpha):
    """Turn log alpha of all steps into the marginals, in place; return the expected counts.

    Each step is normalised by its own sum, so no error is carried from step to step. At least one
    sequence must be possible.
    """
    num_tags = len(end)
    transposed, factors_transposed = transitions.T.copy(), factors.T.copy()
    products = np.zeros((num_tags, num_tags))  # sums of exponentials; times factors: counts
    counts = np.zeros((num_tags, num_tags))
    beta, rest, exps = end.copy(), np.empty(num_tags), np.empty(num_tags)
    _recentre(beta)
    for t in range(len(valid) - 1, -1, -1):
        log_normaliser = _log_sum_exp(alpha[t], beta)
        if t < len(valid) - 1:  # rest and exps still belong to step t + 1
            _count_pairs(alpha[t], transitions, peak, rest, exps, log_normaliser, products, counts)
        total = 0.0
        for j in range(num_tags):
            alpha[t, j] = exp(alpha[t, j] + beta[j] - log_normaliser)
            total += alpha[t, j]
            rest[j] = beta[j] + x[valid[t], j]
        for j in range(num_tags):
            alpha[t, j] /= total
        if t > 0:
            _recentre(rest)
            _propagate(rest, transposed, factors_transposed, peak, exps, beta)
    return counts + products * factors if len(valid) > 1 else counts  # 0 times NaN would be NaN


@njit(cache=True)
def _propagate(scores, transitions, factors, peak, exps, out):
    """out[j] = log Σ_i exp(scores[i] + transitions[i, j]), for centred scores; fills exps."""
    num_tags = len(scores)
    out[:] = 0.0
    for i in range(num_tags):
        exps[i] = exp(scores[i])
        if exps[i] > 0.0:
            for j in range(num_tags):
                out[j] += exps[i] * factors[i, j]
    for j in range(num_tags):
        if out[j] > UNDERFLOW:
            out[j] = log(out[j]) + peak
        else:
            out[j] = _log_sum_exp(scores, transitions[:, j])


@njit(cache=True)
def _count_pairs(alpha, transitions, peak, rest, exps, log_normaliser, products, counts):
    """Add p(i, j) = exp(alpha[i] + transitions[i, j] + rest[j] − log_normaliser) of one step."""
    num_tags = len(alpha)
    gap = peak - log_normaliser
    if gap < WIDE_GAP:
        for i in range(num_tags):
            scale = exp(alpha[i] + gap)
            if scale > 0.0:
                for j in range(num_tags):
                    products[i, j] += scale * exps[j]
    else:
        for i in range(num_tags):
            for j in range(num_tags):
                counts[i, j] += exp(alpha[i] + transitions[i, j] + rest[j] - log_normaliser)


@njit(cache=True)
def _recentre(scores):
    """Subtract the largest score and return it; if all scores are −inf, change nothing."""
    centre = scores.max()
    if centre > -inf:
        for j in range(len(scores)):
            scores[j] -= centre
    return centre


@njit(cache=True)
def _log_sum_exp(scores, more_scores):
    """Return log Σ_i exp(scores[i] + more_scores[i]); −inf if all are −inf."""
    _, peak = _first_largest(scores, more_scores)
    if peak == -inf:
        return -inf
    total = 0.0
    for i in range(len(scores)):
        total += exp(scores[i] + more_scores[i] - peak)
    return log(total) + peak


@njit(cache=True)
def _first_largest(scores, more_scores):
    """Return the index and the value of the largest sum, in a tie the first."""
    index, largest = 0, -inf
    for i in range(len(scores)):
        if scores[i] + more_scores[i] > largest:
            index, largest = i, scores[i] + more_scores[i]
    return index, largest


@njit(cache=True)
def _gold_score(path, x, valid, transitions, start, end):
    """Return the score of the path as (high, low)."""
    previous = path[valid[0]]
    high, low = start[previous], 0.0
    for t in range(len(valid)):
        tag = path[valid[t]]
        if t > 0:
            high, low = _add(high, low, transitions[previous, tag])
        high, low = _add(high, low, x[valid[t], tag])
        previous = tag
    return _add(high, low, end[previous])


@njit(cache=True)
def _log_probability(gold, log_z):
    """Subtract the two double-double sums before they are rounded to one number."""
    if isnan(log_z[0]):
        return nan
    if gold[0] == -inf:
        return -inf
    high, low = _add(gold[0], gold[1] - log_z[1], -log_z[0])
    return min(high + low, 0.0)  # above 0 by rounding only


@njit(cache=True)
def _add(high, low, term):
    """Return (high, low) + term without the rounding error of the sum (Knuth's two-sum)."""
    total = high + term
    if not isfinite(total):
        return total, 0.0
    rounded = total - high
    return total, low + ((high - (total - rounded)) + (term - rounded))
