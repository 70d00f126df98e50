"""Semi-Markov chains composed of keras.ops: one scan over the steps, differentiable at any order.

The scan carries the open segments, by the number of steps that they have so far: each step adds its
emissions to all of them and begins a new one, so the sum over a segment is never a difference of
two large sums. −inf is a finite floor, as in crf/_engines/keras/recursions.py.
"""

from functools import wraps
from typing import Any, NamedTuple

from keras import ops

from fastkeras.crf._engines.keras.eager import of_no_steps
from fastkeras.crf._engines.keras.recursions import FLOOR, IMPOSSIBLE, log_sum_exp, scan
from fastkeras.crf.chain import check_values
from fastkeras.crf.semi_markov._engines import reference

INFINITY = float("inf")


def _engine_function(function):
    """Check what depends on values, where there are values; loops over nothing are left out."""

    @wraps(function)
    def checked(chain, durations):
        check_values(chain)
        shape = chain.emissions.shape
        if 0 in shape and None not in shape:
            return of_no_steps(function.__name__, chain, durations, engine=reference)
        return function(chain, durations)

    return checked


@_engine_function
def log_partition(chain, durations):
    chain = _time_major(chain, durations)
    ended, _, shift, _ = _sweep(chain, log_sum_exp)
    log_z = log_sum_exp(ended[-1] + chain.end, axis=-1) + shift[-1]
    return _settle(log_z, chain.lengths)


@_engine_function
def marginals(chain, durations):
    chain = _time_major(chain, durations)
    x, durations, lengths = chain.x, chain.durations, chain.lengths
    ended, begun, shift, _ = _sweep(chain, log_sum_exp)
    # what follows a step is what precedes it in the reversed sequence
    mirrored = chain._replace(
        x=_mirror(x, lengths),
        transitions=ops.transpose(chain.transitions),
        start=chain.end,
        end=chain.start,
    )
    remaining, after, shift_after, _ = _sweep(mirrored, log_sum_exp)
    log_z = log_sum_exp(ended[-1] + chain.end, axis=-1) + shift[-1]
    possible = _settle(log_z, lengths) != -INFINITY

    steps, max_length = ops.shape(x)[0], durations.shape[0]
    t = ops.arange(steps, dtype="int32")[:, None]
    segment, segments, unary = ops.zeros_like(x), [], ops.zeros_like(x)
    for length in range(1, max_length + 1):
        segment = segment + _shifted(x, length - 1)
        fits = (t + length <= lengths) & possible
        # the place of step t + length in the reversed sequence
        mirror = ops.clip(lengths - t - length, 0, steps)
        rest = ops.take_along_axis(after, mirror[..., None], axis=0)
        rest_shift = ops.take_along_axis(shift_after, mirror, axis=0)
        scores = begun[:-1] + segment + durations[length - 1] + rest
        scores = scores + (shift[:-1] + rest_shift - log_z)[..., None]
        segments.append(ops.where(fits[..., None], _probability(scores), 0))
        for offset in range(length):
            unary = unary + _shifted(segments[-1], -offset)
    mirror = ops.clip(lengths - t, 0, steps)
    rest = ops.take_along_axis(remaining, mirror[..., None], axis=0)
    rest_shift = ops.take_along_axis(shift_after, mirror, axis=0)
    pairs = ended[:-1][..., None] + chain.transitions + rest[:, :, None, :]
    pairs = pairs + (shift[:-1] + rest_shift - log_z)[..., None, None]
    inside = (t > 0) & (t < lengths) & possible
    counts = ops.sum(ops.where(inside[..., None, None], _probability(pairs), 0), axis=0)
    segments = ops.transpose(ops.stack(segments, axis=2), (1, 0, 2, 3))
    return ops.transpose(unary, (1, 0, 2)), segments, counts


@_engine_function
def viterbi(chain, durations):
    chain = _time_major(chain, durations)
    ended, _, shift, best_lengths = _sweep(chain, ops.max)
    into, lengths = ops.transpose(chain.transitions), chain.lengths
    t = ops.arange(ops.shape(chain.x)[0], dtype="int32")
    final = ended[-1] + chain.end

    def backwards(carry, inputs):  # from the last step of a segment to its first
        tag, left = carry
        ended, best_lengths, t = inputs
        came_from = ops.cast(ops.argmax(ended + ops.take(into, tag, axis=0), axis=-1), "int32")
        new_tag = ops.where((left == 0) & (t < lengths - 1), came_from, tag)
        length = ops.take_along_axis(best_lengths, new_tag[:, None], axis=1)[:, 0]
        new_left = ops.where(left == 0, length, left) - 1
        valid = t < lengths
        carry = ops.where(valid, new_tag, tag), ops.where(valid, new_left, left)
        return carry, (ops.where(valid, new_tag, 0), valid & (new_left == 0))

    tag = ops.cast(ops.argmax(final, axis=-1), "int32")
    outputs = (tag, tag == 0)
    inputs = (ended[1:], best_lengths, t)
    _, (tags, begins) = scan(backwards, (tag, tag * 0), inputs, outputs, reverse=True)
    score = _settle(ops.max(final, axis=-1) + shift[-1], lengths)
    possible = ((score > -INFINITY) & (score < INFINITY))[:, None]
    return ops.where(possible, ops.transpose(tags), 0), possible & ops.transpose(begins), score


class _TimeMajor(NamedTuple):
    """A chain with finite scores, the floor in place of −inf."""

    x: Any  # (steps, batch, num_tags)
    transitions: Any  # (num_tags, num_tags)
    durations: Any  # (max_length, num_tags)
    lengths: Any  # int32 (batch,)
    start: Any  # (num_tags,)
    end: Any  # (num_tags,)


def _time_major(chain, durations):
    emissions = ops.convert_to_tensor(chain.emissions)
    lengths = ops.convert_to_tensor(chain.lengths, dtype="int32")
    scores = (chain.transitions, durations, chain.start_transitions, chain.end_transitions)
    transitions, durations, start, end = (
        _floored(ops.convert_to_tensor(score, dtype=emissions.dtype)) for score in scores
    )
    x = ops.transpose(emissions, (1, 0, 2))
    valid = ops.arange(ops.shape(x)[0], dtype="int32")[:, None] < lengths
    x = _floored(ops.where(valid[..., None], x, 0))
    return _TimeMajor(x, transitions, durations, lengths, start, end)


def _sweep(chain, join):
    """Return ended and begun, (steps + 1, batch, num_tags), relative to shift, (steps + 1, batch).

    Also the lengths of the best segments that end with each step, (steps, batch, num_tags). Rows
    past the end of a sequence repeat its last row.
    """
    x, durations = chain.x, chain.durations
    t = ops.arange(ops.shape(x)[0], dtype="int32")
    valid = t[:, None] < chain.lengths
    nothing = ops.zeros_like(x[:1]) + FLOOR
    max_length = durations.shape[0]
    begun = nothing[0] * 0 + chain.start
    opened = ops.zeros_like(begun)[:, None, :] + ops.zeros_like(durations) + FLOOR
    shift = nothing[0, :, 0] * 0  # not of begun, which may be infinite
    lengths_less_1 = ops.arange(max_length, dtype="int32")[:, None]

    def step(carry, inputs):
        opened, begun, ended, shift = carry
        x, valid, t = inputs
        now_open = ops.concatenate([begun[:, None], opened[:, :-1]], axis=1) + x[:, None]
        # a duration longer than the steps so far is not read, since it may be NaN
        closed = _floored(ops.where(lengths_less_1 <= t, now_open + durations, FLOOR))
        now_ended = join(closed, axis=1)
        # in a tie the longer
        lengths = max_length - ops.argmax(ops.flip(closed, axis=1), axis=1)
        centre = ops.stop_gradient(ops.max(_floored(now_open), axis=(1, 2)))
        centre = ops.where((centre > IMPOSSIBLE) & (centre < INFINITY), centre, 0)
        now_open, now_ended = (
            _floored(now_open - centre[:, None, None]),
            _floored(now_ended - centre[:, None]),
        )
        now_begun = _floored(join(now_ended[:, :, None] + chain.transitions, axis=1))
        keep = valid[:, None]
        carry = (
            ops.where(keep[..., None], now_open, opened),
            ops.where(keep, now_begun, begun),
            ops.where(keep, now_ended, ended),
            ops.where(valid, shift + centre, shift),
        )
        return carry, (*carry[1:], ops.cast(lengths, "int32"))

    carry = (opened, begun, nothing[0], shift)
    like = (*carry[1:], ops.cast(begun, "int32"))
    _, (*rows, lengths) = scan(step, carry, (x, valid, t), like)
    first = (begun[None], nothing, shift[None])
    begun, ended, shift = (
        ops.concatenate([row, rows], axis=0) for row, rows in zip(first, rows, strict=True)
    )
    return ended, begun, shift, lengths


def _mirror(x, lengths):
    """Each sequence reversed, from its last step to its first."""
    steps = ops.shape(x)[0]
    order = lengths - 1 - ops.arange(steps, dtype="int32")[:, None]
    return ops.take_along_axis(x, ops.where(order < 0, 0, order)[..., None], axis=0)


def _shifted(rows, by):
    """rows[t + by], 0 where there is no such row."""
    if by == 0:
        return rows
    missing = ops.zeros_like(rows[: abs(by)])
    if by > 0:
        return ops.concatenate([rows[by:], missing], axis=0)
    return ops.concatenate([missing, rows], axis=0)[: ops.shape(rows)[0]]


def _probability(log_p):
    """Of its logarithm, at most 1. On torch `ops.minimum` would make float32 of float64."""
    return ops.exp(ops.where(log_p > 0, 0, log_p))


def _floored(scores):
    return ops.where(scores < IMPOSSIBLE, FLOOR, scores)


def _settle(log_z, lengths):
    log_z = ops.where(log_z <= IMPOSSIBLE, -INFINITY, log_z)
    return ops.where(lengths > 0, log_z, 0)
