"""The first and last part of the functions of the `keras` engine: relative scores, given tags."""

from typing import Any, NamedTuple

from keras import ops

from fastkeras.crf._engines.keras.recursions import (
    FLOOR,
    is_impossible,
    is_nan,
    scan,
    steps_of,
    varies,
)

INFINITY = float("inf")
BLOCK = 256  # steps summed at once; then the sums are summed, which keeps digits in float32


class RelativeScores(NamedTuple):
    """Time-major scores with start and end folded in, and relative to the best of each step."""

    x: Any  # (steps, batch, num_tags), the largest of each step is 0
    transitions: Any  # (num_tags, num_tags), or into each step (steps, batch, ·, ·); largest 0
    shift: Any  # (steps, batch): what was subtracted, transitions included; 0 where not valid
    valid: Any  # bool (steps, batch)
    first: Any  # bool (steps, batch): the first valid step of its sequence
    last: Any  # bool (steps, batch)
    has_holes: bool  # whether the step before a valid one may be invalid

    @property
    def steps(self):
        """The `Steps` that the recursions take."""
        return steps_of(self.x, self.transitions, self.valid, self.first)


class Gold(NamedTuple):
    """The given tag sequences."""

    score: Any  # (steps, batch): relative score of the tag and of the transition into it
    possible: Any  # bool (batch)
    in_range: Any  # bool (batch)


def relative_scores(chain, for_sums=True):
    """The relative scores of a chain, for sums over paths or for single paths.

    In sums, the floor stands for −inf, and a score of NaN or +inf makes every sum NaN that contains
    it. The score of a single path adds −inf and +inf as they are, and no row is centred on them.
    """
    emissions = ops.convert_to_tensor(chain.emissions)
    transitions, start, end = (
        ops.convert_to_tensor(value, dtype=emissions.dtype)
        for value in (chain.transitions, chain.start_transitions, chain.end_transitions)
    )
    if for_sums:
        transitions, start, end = map(floored, (transitions, start, end))
    lengths = ops.convert_to_tensor(chain.lengths, dtype="int32")
    x = ops.transpose(emissions, (1, 0, 2))
    if chain.mask is None:
        t = ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
        valid = t < lengths
        first = valid & (t == 0)
        last = t == lengths - 1
    else:
        valid = ops.transpose(ops.convert_to_tensor(chain.mask, dtype="bool"))
        rank = ops.cumsum(ops.cast(valid, "int32"), axis=0)
        first = valid & (rank == 1)
        last = valid & (rank == rank[-1:])

    def largest(scores, axis):
        peak = ops.stop_gradient(ops.max(scores, axis=axis))
        return peak if for_sums else finite(peak)

    # a step that is not valid may hold NaN, which must not reach values or gradients
    x = ops.where(valid[..., None], x, 0)
    x = floored(x) if for_sums else x
    x = x + ops.where(first[..., None], start, 0) + ops.where(last[..., None], end, 0)
    peak = largest(x, -1)
    if varies(transitions):
        into = ops.transpose(transitions, (1, 0, 2, 3))
        nothing = ops.zeros_like(x[:1])[..., None] + ops.zeros_like(start)
        into = ops.concatenate([nothing, into], axis=0)
        transitions = ops.where((valid & ~first)[..., None, None], into, 0)
        transitions_peak = largest(transitions, (2, 3))
        transitions = transitions - transitions_peak[..., None, None]
    else:
        transitions_peak = largest(transitions, None)
        transitions = transitions - transitions_peak
    shift = ops.where(valid, peak + ops.where(first, 0, transitions_peak), 0)
    return RelativeScores(
        x - peak[..., None], transitions, shift, valid, first, last, chain.mask is not None
    )


def finite(peak):
    """A peak to centre on: 0 where it is infinite or NaN."""
    return ops.where((peak > -INFINITY) & (peak < INFINITY), peak, 0)


def floored(scores):
    return ops.where(scores < FLOOR, FLOOR, scores)


def gold_of(scores, tags):
    num_tags = scores.x.shape[-1]
    tags = ops.convert_to_tensor(tags, dtype="int32")
    given = ops.transpose(tags)
    tags, previous = tags_and_previous(scores, given)
    in_range = (given == tags) | ~scores.valid
    unary = ops.take_along_axis(scores.x, tags[..., None], axis=-1)[..., 0]
    pairs = previous * num_tags + tags
    if varies(scores.transitions):
        of_steps = ops.reshape(scores.transitions, (*ops.shape(pairs), num_tags**2))
        pairs = ops.take_along_axis(of_steps, pairs[..., None], axis=-1)[..., 0]
    else:
        pairs = ops.take(ops.reshape(scores.transitions, (-1,)), pairs)
    pairs = ops.where(scores.first, 0, pairs)
    impossible = is_impossible(unary) | is_impossible(pairs) | is_impossible(scores.shift)
    possible = ~(impossible & scores.valid)
    score = ops.where(scores.valid, unary + pairs, 0)
    return Gold(score, ops.all(possible, axis=0), ops.all(in_range, axis=0))


def tags_and_previous(scores, tags):
    """The tags, clipped, and those of the valid step before; both (steps, batch)."""
    tags = ops.where(scores.valid, ops.clip(tags, 0, scores.x.shape[-1] - 1), 0)
    if not scores.has_holes:
        return tags, ops.concatenate([tags[:1], tags[:-1]], axis=0)

    def step(previous, inputs):
        tags, valid = inputs
        return ops.where(valid, tags, previous), (previous,)

    start = ops.zeros(ops.shape(tags)[1:], "int32")
    _, (previous,) = scan(step, start, (tags, scores.valid), (start,))
    return tags, previous


def log_partition_from(relative_score):
    """Log Z, from the relative score of −shift."""
    return ops.where(is_impossible(-relative_score), -INFINITY, -relative_score)


def log_likelihood_from(relative_score, gold):
    """Log p, from the relative score of `gold`; 0 where rounding made it positive."""
    above = ops.stop_gradient(ops.where(relative_score > 0, relative_score, 0))
    return settle(relative_score - above, gold)


def settle(value, gold):
    value = ops.where(gold.possible | is_nan(value), value, -INFINITY)
    return ops.where(gold.in_range, value, float("nan"))


def sum_over_steps(values):
    """(steps, batch) → (batch,), in blocks, since a float32 running sum loses digits."""
    steps, batch = ops.shape(values)
    missing = BLOCK - 1 - (steps - 1) % BLOCK  # ONNX takes no remainder of negative numbers
    values = ops.concatenate([values, ops.zeros((missing, batch), values.dtype)], axis=0)
    return ops.sum(ops.sum(ops.reshape(values, (-1, BLOCK, batch)), axis=1), axis=0)
