"""Composed of keras.ops: for XLA, GPU, TPU, JAX, torch, export, and higher-order gradients.

Every function can be differentiated again. On TensorFlow and JAX the first gradient is the explicit
one of recursions.py, not automatic differentiation through a loop.
"""

from functools import cache
from typing import Any, NamedTuple

from keras import backend, ops

from fastkeras.crf.eager import engine_function, of_no_steps
from fastkeras.crf.gradients import Gradients
from fastkeras.crf.recursions import (
    FLOOR,
    IMPOSSIBLE,
    forward,
    pair_sums,
    posterior,
    scan,
    scores_are_near,
)

BLOCK = 256  # steps summed in a row; sums of sums keep their digits in float32


class Chain(NamedTuple):
    """Time-major scores with start and end folded in, and relative to the best of each step."""

    x: Any  # (steps, batch, num_tags), the largest of each step is 0
    transitions: Any  # (num_tags, num_tags), the largest is 0
    shift: Any  # (steps, batch): what was subtracted, transitions included; 0 where not valid
    valid: Any  # bool (steps, batch)
    first: Any  # bool (steps, batch): the first valid step of its sequence
    last: Any  # bool (steps, batch)
    has_holes: bool  # whether the step before may be one that is not valid


class Gold(NamedTuple):
    """The given tag sequences."""

    score: Any  # (steps, batch): relative score of the tag and of the transition into it
    possible: Any  # bool (batch)
    in_range: Any  # bool (batch)


@engine_function
def log_partition(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    value = -_relative_score(chain, -chain.shift)
    return ops.where(value > IMPOSSIBLE, value, -float("inf"))


@engine_function
def sequence_score(emissions, tags, transitions, lengths, mask, start_transitions, end_transitions):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    gold = _gold(chain, tags)
    value = _sum_over_steps(gold.score + chain.shift)
    return _settle(value, gold)


@engine_function
def log_likelihood(emissions, tags, transitions, lengths, mask, start_transitions, end_transitions):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    gold = _gold(chain, tags)
    value = _relative_score(chain, gold.score)
    value = value - ops.stop_gradient(ops.where(value > 0, value, 0))  # by rounding only
    return _settle(value, gold)


@engine_function
def log_likelihood_and_gradients(
    emissions, tags, transitions, lengths, mask, start_transitions, end_transitions, weights
):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    gold = _gold(chain, tags)
    alpha, scale, log_scale = forward(chain.x, chain.transitions, chain.valid, chain.first)
    likelihood = _sum_over_steps(gold.score - log_scale)
    likelihood = ops.where(likelihood > 0, 0, likelihood)  # above 0 by rounding only
    weights = ops.where(gold.possible, ops.convert_to_tensor(weights, dtype=likelihood.dtype), 0)
    unary, counts = posterior(
        chain.x, chain.transitions, chain.valid, chain.first, alpha, scale, weights
    )
    tags, previous = _tags_and_previous(chain, ops.transpose(tags))
    num_tags = chain.x.shape[-1]
    unary_weights = ops.where(chain.valid, weights, 0)
    pair_weights = ops.where(chain.first, 0, unary_weights)
    one_hot = ops.one_hot(tags, num_tags, dtype=unary.dtype)
    d_x = one_hot * unary_weights[..., None] - unary
    before = ops.one_hot(previous, num_tags, dtype=unary.dtype)
    gold_counts = pair_sums(before, one_hot * pair_weights[..., None])
    gradients = Gradients(
        ops.transpose(d_x, (1, 0, 2)),
        gold_counts - counts,
        ops.sum(ops.where(chain.first[..., None], d_x, 0), axis=(0, 1)),
        ops.sum(ops.where(chain.last[..., None], d_x, 0), axis=(0, 1)),
    )
    return _settle(likelihood, gold), gradients


@engine_function
def marginals(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    alpha, scale, log_scale = forward(chain.x, chain.transitions, chain.valid, chain.first)
    log_z = _sum_over_steps(log_scale + chain.shift)
    weights = ops.cast(log_z > IMPOSSIBLE, log_z.dtype)
    unary, counts = posterior(
        chain.x, chain.transitions, chain.valid, chain.first, alpha, scale, weights, True
    )
    return ops.transpose(unary, (1, 0, 2)), counts


@engine_function
def viterbi(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    zeros = ops.zeros(ops.shape(chain.x)[1:], chain.x.dtype)
    valid, first = chain.valid[..., None], chain.first[..., None]

    def forwards(best, inputs):
        x, valid, first = inputs
        joined = x + ops.where(first, 0, ops.max(best[:, :, None] + chain.transitions, axis=1))
        peak = ops.max(joined, axis=-1, keepdims=True)
        after = ops.where(valid, joined - peak, best)
        return after, (best, ops.where(valid, peak, 0)[:, 0])

    best, (before, peaks) = scan(forwards, zeros, (chain.x, valid, first), (zeros, zeros[:, 0]))
    score = _sum_over_steps(peaks + chain.shift)

    # no pointers are stored: the winner is found again along the path, by the same additions
    into = ops.transpose(chain.transitions)

    def backwards(tag, inputs):
        before, valid = inputs
        came_from = _argmax(before + ops.take(into, tag, axis=0))
        return ops.where(valid, came_from, tag), (ops.where(valid, tag, 0),)

    tag = _argmax(best)
    _, (tags,) = scan(backwards, tag, (before, chain.valid), (tag,), reverse=True)
    return ops.transpose(tags), ops.where(score > IMPOSSIBLE, score, -float("inf"))


@engine_function
def sample(emissions, transitions, lengths, mask, start_transitions, end_transitions, uniforms):
    chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    alpha, _, log_scale = forward(chain.x, chain.transitions, chain.valid, chain.first)
    log_alpha = ops.cond(
        scores_are_near(chain.transitions), lambda: _floored(ops.log(alpha)), lambda: alpha
    )
    before = ops.concatenate([log_alpha[:1], log_alpha[:-1]], axis=0)
    into = ops.transpose(chain.transitions)
    uniforms = ops.convert_to_tensor(uniforms)[..., None]
    uniforms = ops.transpose(uniforms, (2, 0, 1, 3))  # (steps, samples, batch, 1)

    def backwards(scores, inputs):
        before, valid, uniforms = inputs
        sums = ops.cumsum(ops.exp(scores - ops.max(scores, axis=-1, keepdims=True)), axis=-1)
        tag = ops.sum(ops.cast(sums <= uniforms * sums[..., -1:], "int32"), axis=-1)
        after = before + ops.take(into, tag, axis=0)
        return ops.where(valid[..., None], after, scores), (ops.where(valid, tag, 0),)

    scores = log_alpha[-1] + ops.zeros_like(uniforms[0])
    tag = ops.cast(scores[..., 0] * 0, "int32")
    _, (tags,) = scan(backwards, scores, (before, chain.valid, uniforms), (tag,), reverse=True)
    possible = _sum_over_steps(log_scale + chain.shift) > IMPOSSIBLE
    return ops.where(possible[:, None], ops.transpose(tags, (1, 2, 0)), 0)


def k_best(emissions, transitions, lengths, mask, start_transitions, end_transitions, k):
    arguments = (emissions, transitions, lengths, mask, start_transitions, end_transitions)
    if 0 in emissions.shape and None not in emissions.shape:
        return of_no_steps("k_best", *arguments, k)
    return _k_best_of(k)(*arguments)


@cache
def _k_best_of(k):
    @engine_function
    def k_best(emissions, transitions, lengths, mask, start_transitions, end_transitions):
        chain = _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions)
        return _k_best(chain, k)

    return k_best


def _k_best(chain, k):
    batch, num_tags = ops.shape(chain.x)[1], chain.x.shape[2]
    one_path = ops.where(ops.arange(k) == 0, 0.0, FLOOR)  # to begin with, and when there is no step
    one_path = ops.cast(one_path, chain.x.dtype)
    valid, first = (steps[..., None, None] for steps in (chain.valid, chain.first))

    def forwards(best, inputs):  # best[b, j, rank], as indices j · k + rank
        x, valid, first = inputs
        candidates = best[:, None, :, :] + ops.transpose(chain.transitions)[:, :, None]
        candidates = ops.reshape(candidates, (-1, num_tags, num_tags * k))
        joined, origins = ops.top_k(candidates, k)
        joined = x[..., None] + ops.where(first, one_path, joined)
        peak = ops.max(joined, axis=(1, 2), keepdims=True)
        after = ops.where(valid, _floored(joined - peak), best)
        return after, (ops.cast(origins, "int32"), ops.where(valid, peak, 0)[:, 0, 0])

    zeros = ops.zeros((batch, num_tags, k), chain.x.dtype)
    like = (ops.cast(zeros, "int32"), zeros[:, 0, 0])
    best, (origins, peaks) = scan(forwards, zeros, (chain.x, valid, first), like)
    scores, origin = ops.top_k(ops.reshape(best, (-1, num_tags * k)), k)
    possible = scores > IMPOSSIBLE
    scores = scores + _sum_over_steps(peaks + chain.shift)[:, None]
    scores = ops.where(possible & (scores > IMPOSSIBLE), scores, -float("inf"))
    empty = ~ops.any(chain.valid, axis=0)[:, None]
    scores = ops.where(empty, ops.where(one_path < 0, -float("inf"), one_path), scores)

    def backwards(origin, inputs):
        origins, valid = inputs
        origins = ops.reshape(origins, (-1, num_tags * k))
        came_from = ops.take_along_axis(origins, origin, axis=1)
        return ops.where(valid, came_from, origin), (ops.where(valid, origin // k, 0),)

    origin = ops.cast(origin, "int32")
    inputs = (origins, chain.valid[..., None])
    _, (tags,) = scan(backwards, origin, inputs, (origin,), reverse=True)
    return ops.where((scores > -float("inf"))[..., None], ops.transpose(tags, (1, 2, 0)), 0), scores


def _chain(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    emissions = ops.convert_to_tensor(emissions)
    dtype = emissions.dtype
    transitions, start, end = (
        _floored(ops.convert_to_tensor(value, dtype=dtype))
        for value in (transitions, start_transitions, end_transitions)
    )
    lengths = ops.convert_to_tensor(lengths, dtype="int32")
    x = ops.transpose(emissions, (1, 0, 2))
    if mask is None:
        t = ops.arange(ops.shape(x)[0], dtype="int32")[:, None]
        valid = t < lengths
        first = valid & (t == 0)
        last = t == lengths - 1
    else:
        valid = ops.transpose(ops.convert_to_tensor(mask, dtype="bool"))
        rank = ops.cumsum(ops.cast(valid, "int32"), axis=0)
        first = valid & (rank == 1)
        last = valid & (rank == rank[-1:])
    # what stands at a step that is not valid may be NaN: it gets neither into values nor gradients
    x = _floored(ops.where(valid[..., None], x, 0))
    x = x + ops.where(first[..., None], start, 0) + ops.where(last[..., None], end, 0)
    peak = ops.stop_gradient(ops.max(x, axis=-1))
    transitions_peak = ops.stop_gradient(ops.max(transitions))
    shift = peak + ops.where(first, 0, transitions_peak)
    return Chain(
        x - peak[..., None],
        transitions - transitions_peak,
        ops.where(valid, shift, 0),
        valid,
        first,
        last,
        mask is not None,
    )


def _floored(scores):
    return ops.where(scores < FLOOR, FLOOR, scores)


def _gold(chain, tags):
    num_tags = chain.x.shape[-1]
    tags = ops.convert_to_tensor(tags, dtype="int32")
    given = ops.transpose(tags)
    tags, previous = _tags_and_previous(chain, given)
    in_range = (given == tags) | ~chain.valid
    unary = ops.take_along_axis(chain.x, tags[..., None], axis=-1)[..., 0]
    pairs = ops.take(ops.reshape(chain.transitions, (-1,)), previous * num_tags + tags)
    pairs = ops.where(chain.first, 0, pairs)
    possible = (unary > IMPOSSIBLE) & (pairs > IMPOSSIBLE) & (chain.shift > IMPOSSIBLE)
    possible = possible | ~chain.valid
    score = ops.where(chain.valid, unary + pairs, 0)
    return Gold(score, ops.all(possible, axis=0), ops.all(in_range, axis=0))


def _tags_and_previous(chain, tags):
    """The tags, clipped, and those of the valid step before; both (steps, batch)."""
    tags = ops.where(chain.valid, ops.clip(tags, 0, chain.x.shape[-1] - 1), 0)
    if not chain.has_holes:
        return tags, ops.concatenate([tags[:1], tags[:-1]], axis=0)

    def step(previous, inputs):
        tags, valid = inputs
        return ops.where(valid, tags, previous), (previous,)

    start = ops.zeros(ops.shape(tags)[1:], "int32")
    _, (previous,) = scan(step, start, (tags, chain.valid), (start,))
    return tags, previous


def _settle(value, gold):
    value = ops.where(gold.possible, value, -float("inf"))
    return ops.where(gold.in_range, value, float("nan"))


def _relative_score(chain, gold):
    """Sum over the valid steps of `gold` minus log_scale; shape (batch,).

    The two are subtracted step by step: their sums are large and their difference is small.
    """
    if backend.backend() == "torch":  # Keras' custom_gradient cannot be differentiated twice there
        _, _, log_scale = forward(chain.x, chain.transitions, chain.valid, chain.first)
        return _sum_over_steps(gold - log_scale)

    @ops.custom_gradient
    def score(x, transitions, gold, valid, first):  # JAX allows it to close over no tensor
        alpha, scale, log_scale = forward(x, transitions, valid > 0, first > 0)

        def gradient(weights):
            unary, counts = posterior(x, transitions, valid > 0, first > 0, alpha, scale, weights)
            d_gold = ops.where(valid > 0, weights, 0)
            return -unary, -counts, d_gold, ops.zeros_like(valid), ops.zeros_like(first)

        return _sum_over_steps(gold - log_scale), gradient

    valid, first = (ops.cast(steps, gold.dtype) for steps in (chain.valid, chain.first))
    return score(chain.x, chain.transitions, gold, valid, first)


def _sum_over_steps(values):
    """(steps, batch) → (batch,), in blocks, since a float32 running sum loses digits."""
    steps, batch = ops.shape(values)
    missing = -steps % BLOCK
    values = ops.concatenate([values, ops.zeros((missing, batch), values.dtype)], axis=0)
    return ops.sum(ops.sum(ops.reshape(values, (-1, BLOCK, batch)), axis=1), axis=0)


def _argmax(scores):
    return ops.cast(ops.argmax(scores, axis=-1), "int32")
