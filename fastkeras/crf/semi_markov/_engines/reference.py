"""Semi-Markov chains written to be read: one sequence, step and segment at a time, in log space.

segment[t, l, j] is the score of the segment of tag j over the steps t … t + l − 1.
"""

import numpy as np

from fastkeras.crf._engines.reference import _log_sum_exp, _nan_is_an_answer


@_nan_is_an_answer
def log_partition(chain, durations):
    log_partition = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, n in enumerate(chain.lengths):
        if n:
            segment = _segments(chain.emissions[b, :n], durations)
            ended, _ = _forward(segment, chain.transitions, chain.start_transitions)
            log_partition[b] = _log_sum_exp(ended[n] + chain.end_transitions)
    return log_partition


@_nan_is_an_answer
def marginals(chain, durations):
    batch, steps, num_tags = chain.emissions.shape
    max_length = len(durations)
    unary = np.zeros_like(chain.emissions)
    segments = np.zeros((batch, steps, max_length, num_tags), chain.emissions.dtype)
    counts = np.zeros((batch, num_tags, num_tags), chain.emissions.dtype)
    for b, n in enumerate(chain.lengths):
        if n == 0:
            continue
        segment = _segments(chain.emissions[b, :n], durations)
        ended, begun = _forward(segment, chain.transitions, chain.start_transitions)
        after, remaining = _backward(segment, chain.transitions, chain.end_transitions)
        log_z = _log_sum_exp(ended[n] + chain.end_transitions)
        if np.isneginf(log_z):
            continue  # no segmentation is possible
        for t in range(n):
            for length in range(1, min(max_length, n - t) + 1):
                scores = begun[t] + segment[t, length - 1] + after[t + length]
                segments[b, t, length - 1] = np.exp(scores - log_z)
                unary[b, t : t + length] += segments[b, t, length - 1]
            if t > 0:
                counts[b] += np.exp(ended[t][:, None] + chain.transitions + remaining[t] - log_z)
    return unary, segments, counts


@_nan_is_an_answer
def viterbi(chain, durations):
    tags = np.zeros(chain.emissions.shape[:2], np.int32)
    begins = np.zeros(chain.emissions.shape[:2], bool)
    score = np.zeros(len(chain.emissions), chain.emissions.dtype)
    for b, n in enumerate(chain.lengths):
        if n == 0:
            continue
        segment = _segments(chain.emissions[b, :n], durations)
        best = np.full((n + 1, chain.emissions.shape[2]), -np.inf, chain.emissions.dtype)
        length_of, came_from = np.zeros((2, *best.shape), int)
        begun = chain.start_transitions  # the best score with which a segment can begin at step t
        for t in range(n):
            if t > 0:
                candidates = best[t][:, None] + chain.transitions
                begun, came_from[t] = candidates.max(axis=0), candidates.argmax(axis=0)
            for length in range(1, min(len(durations), n - t) + 1):
                scores = begun + segment[t, length - 1]
                # in a tie the longer, which is found first
                length_of[t + length] = np.where(
                    scores > best[t + length], length, length_of[t + length]
                )
                best[t + length] = np.maximum(best[t + length], scores)
        score[b] = (best[n] + chain.end_transitions).max()
        if not np.isfinite(score[b]):
            continue  # no segmentation is possible, or scores of NaN or +inf have no order
        t, tag = n, (best[n] + chain.end_transitions).argmax()
        while t > 0:
            first = t - length_of[t, tag]
            tags[b, first:t], begins[b, first] = tag, True
            t, tag = first, came_from[first, tag]
    return tags, begins, score


def _segments(x, durations):
    """The scores of all segments; −inf for those that would reach beyond the end."""
    steps, num_tags = x.shape
    scores = np.full((steps, len(durations), num_tags), -np.inf, x.dtype)
    for t in range(steps):
        sums = x[t : t + len(durations)].cumsum(axis=0)
        scores[t, : len(sums)] = sums + durations[: len(sums)]
    return scores


def _forward(segment, transitions, start_transitions):
    """Log-sums of all prefixes: in ended[t, j], a segment of tag j has just ended before step t; in
    begun[t, j], a segment of tag j begins at step t.
    """
    steps, max_length, num_tags = segment.shape
    ended = np.full((steps + 1, num_tags), -np.inf, segment.dtype)
    begun = np.full((steps, num_tags), -np.inf, segment.dtype)
    begun[0] = start_transitions
    for t in range(1, steps + 1):
        lengths = range(1, min(max_length, t) + 1)
        ended[t] = _log_sum_exp(np.stack([begun[t - n] + segment[t - n, n - 1] for n in lengths]))
        if t < steps:
            begun[t] = _log_sum_exp(ended[t][:, None] + transitions)
    return ended, begun


def _backward(segment, transitions, end_transitions):
    """Log-sums of all suffixes: after[t, i], if a segment of tag i has just ended before step t;
    remaining[t, j], if a segment of tag j begins at step t.
    """
    steps, max_length, num_tags = segment.shape
    after = np.full((steps + 1, num_tags), -np.inf, segment.dtype)
    remaining = np.full((steps, num_tags), -np.inf, segment.dtype)
    after[steps] = end_transitions
    for t in reversed(range(steps)):
        lengths = range(1, min(max_length, steps - t) + 1)
        remaining[t] = _log_sum_exp(np.stack([segment[t, n - 1] + after[t + n] for n in lengths]))
        after[t] = _log_sum_exp((transitions + remaining[t]).T)
    return after, remaining
