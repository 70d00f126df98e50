"""Composed of keras.ops, in the domain of logarithms, for the allowed triples alone.

A row has a number for each state (blocks.py). It is centred at each step, and what is subtracted is
summed for log Z. Derivatives are automatic; they keep a number for each step and triple.
"""

from functools import cache, wraps

from keras import ops

from fastkeras.crf._engines.keras.eager import engine_function, of_no_steps
from fastkeras.crf._engines.keras.paths import first_largest
from fastkeras.crf._engines.keras.recursions import FLOOR, is_impossible, log_sum_exp, scan
from fastkeras.crf._engines.keras.relative_scores import (
    INFINITY,
    finite,
    floored,
    gold_of,
    log_likelihood_from,
    log_partition_from,
    relative_scores,
    settle,
    sum_over_steps,
    tags_and_previous,
)
from fastkeras.crf.chain import check_values
from fastkeras.crf.second_order._engines import reference
from fastkeras.crf.second_order.blocks import states_of


def _of_states(function):
    """The function of (chain, *tensors, allowed) for one of (chain, *tensors, states)."""

    @cache
    def compiled(allowed, num_tags):
        states = states_of(allowed, num_tags)

        def of_states(chain, *tensors):
            return function(chain, *tensors, states)

        return engine_function(of_states)

    @wraps(function)
    def call(chain, *arguments):
        *tensors, allowed = arguments
        check_values(chain, tensors[0] if len(tensors) > 1 else None)
        shape = chain.emissions.shape
        if 0 in shape and None not in shape:
            return of_no_steps(function.__name__, chain, *arguments, engine=reference)
        return compiled(allowed.tobytes(), len(allowed))(chain, *tensors)

    return call


@_of_states
def log_partition(chain, triples, states):
    scores = relative_scores(chain)
    _, log_scale = _forward(scores, triples, states)
    return log_partition_from(-sum_over_steps(log_scale + scores.shift))


@_of_states
def sequence_score(chain, tags, triples, states):
    scores = relative_scores(chain, for_sums=False)
    gold = _gold_of(scores, tags, triples)
    return settle(sum_over_steps(gold.score + scores.shift), gold)


@_of_states
def log_likelihood(chain, tags, triples, states):
    scores = relative_scores(chain)
    gold = _gold_of(scores, tags, floored(triples))
    _, log_scale = _forward(scores, triples, states)
    return log_likelihood_from(sum_over_steps(gold.score - log_scale), gold)


@_of_states
def marginals(chain, triples, states):
    scores = relative_scores(chain)
    alpha, log_scale = _forward(scores, triples, states)
    blocks = _weights(scores, triples, states)

    def step(beta, inputs):
        x, valid = inputs
        joined, leaving = x + beta, []
        for block, weights in zip(states.blocks, blocks, strict=True):
            middles, _, after = weights.shape
            rows = joined[:, block.first : block.first + middles * after]
            rows = ops.reshape(rows, (-1, middles, 1, after))
            leaving.append(_flat(log_sum_exp(weights + rows, axis=3)))
        leaving = ops.concatenate([*leaving, ops.full_like(joined[:, :1], FLOOR)], axis=1)
        before = ops.take(leaving, states.leaving, axis=1)
        before = before - ops.stop_gradient(ops.max(before, axis=-1, keepdims=True))
        return ops.where(valid, floored(before), beta), (beta,)

    x = ops.take(scores.x, states.tags, axis=2)
    nothing = ops.zeros_like(x[0])
    _, (beta,) = scan(step, nothing, (x, scores.valid[..., None]), (nothing,), reverse=True)
    joined = alpha + beta
    p = ops.exp(joined - log_sum_exp(joined, axis=-1)[..., None])
    possible = ~is_impossible(sum_over_steps(log_scale + scores.shift))
    p = ops.where(scores.valid[..., None] & possible[:, None], p, 0)
    num_tags = scores.x.shape[-1]
    unary = p @ ops.one_hot(states.tags, num_tags, dtype=p.dtype)
    of_pairs = ops.sum(p, axis=0)[:, : len(states.tags) - num_tags]
    pairs = ops.one_hot(states.pairs_into[:-num_tags, 0], num_tags**2, dtype=p.dtype)
    counts = ops.reshape(of_pairs @ pairs, (-1, num_tags, num_tags))
    return ops.transpose(unary, (1, 0, 2)), counts


@_of_states
def viterbi(chain, triples, states):
    scores = relative_scores(chain, for_sums=False)
    x, is_first, valid, first = _rows(scores, states)
    blocks = _weights(scores, triples, states)

    def forwards(best, inputs):
        x, valid, first = inputs
        reached = _propagate(best, blocks, states, lambda pairs: ops.max(pairs, axis=2), -INFINITY)
        joined = x + ops.where(first, is_first, reached)
        peak = finite(ops.max(joined, axis=-1, keepdims=True))
        return ops.where(valid, joined - peak, best), (best, ops.where(valid, peak, 0)[:, 0])

    zeros = ops.zeros_like(x[0])
    best, (before, peaks) = scan(forwards, zeros, (x, valid, first), (zeros, zeros[:, 0]))
    score = sum_over_steps(peaks + scores.shift) + ops.max(best, axis=-1)

    into = _into(scores, triples, states)

    def backwards(state, inputs):
        before, valid = inputs
        sources = ops.take(states.into, state, axis=0)
        before = ops.concatenate([before, ops.full_like(before[:, :1], -INFINITY)], axis=1)
        reached = ops.take_along_axis(before, sources, axis=1) + ops.take(into, state, axis=0)
        came_from = ops.take_along_axis(sources, first_largest(reached)[:, None], axis=1)[:, 0]
        came_from = ops.minimum(came_from, len(states.tags) - 1)
        return ops.where(valid, came_from, state), (ops.where(valid, state, 0),)

    last = ops.take(states.order, first_largest(ops.take(best, states.order, axis=1)), axis=0)
    _, (path,) = scan(backwards, last, (before, scores.valid), (last,), reverse=True)
    tags = ops.where(scores.valid, ops.take(states.tags, path, axis=0), 0)
    return ops.transpose(tags), ops.where(is_impossible(score), -INFINITY, score)


def _forward(scores, triples, states):
    """Log-sums of prefixes, (steps, batch, states), and what was subtracted, (steps, batch)."""
    x, is_first, valid, first = _rows(scores, states)
    is_first = floored(is_first)
    blocks = _weights(scores, triples, states)

    def step(alpha, inputs):
        x, valid, first = inputs
        reached = _propagate(alpha, blocks, states, lambda pairs: log_sum_exp(pairs, axis=2), FLOOR)
        joined = x + ops.where(first, is_first, reached)
        log_scale = log_sum_exp(joined, axis=-1)[:, None]
        alpha = ops.where(valid, floored(joined - log_scale), alpha)
        return alpha, (alpha, ops.where(valid, log_scale, 0)[:, 0])

    zeros = ops.zeros_like(x[0])
    _, rows = scan(step, zeros, (x, valid, first), (zeros, zeros[:, 0]))
    return rows


def _rows(scores, states):
    """The scores of the states at each step, and which of them are first tags: 0, others −inf."""
    num_pairs = len(states.tags) - scores.x.shape[-1]
    is_first = ops.where(ops.arange(len(states.tags)) < num_pairs, -INFINITY, 0.0)
    is_first = ops.cast(is_first, scores.x.dtype)
    x = ops.take(scores.x, states.tags, axis=2)
    return x, is_first, scores.valid[..., None], scores.first[..., None]


def _propagate(rows, blocks, states, over, nothing):
    """What the triples make of a row: nothing leads to the first tags, the last of the states."""
    reached = []
    for block, weights in zip(states.blocks, blocks, strict=True):
        of_sources = ops.take(rows, block.sources, axis=1)
        reached.append(_flat(over(of_sources[..., None] + weights)))
    num_pairs = sum(block.pairs.size for block in states.blocks)
    return ops.concatenate([*reached, ops.full_like(rows[:, num_pairs:], nothing)], axis=1)


def _weights(scores, triples, states):
    """The scores of the triples and of their last two tags, of each of the blocks."""
    triples, pairs = _flat_scores(scores, triples)
    return [
        ops.take(triples, block.triples, axis=0) + ops.take(pairs, block.pairs, axis=0)
        for block in states.blocks
    ]


def _into(scores, triples, states):
    """The same scores by the state that they lead to, (states, most)."""
    triples, pairs = _flat_scores(scores, triples)
    return ops.take(triples, states.triples_into, axis=0) + ops.take(
        pairs, states.pairs_into, axis=0
    )


def _flat_scores(scores, triples):
    triples = ops.convert_to_tensor(triples, dtype=scores.x.dtype)
    triples = floored(ops.reshape(triples, (-1,)))
    return ops.concatenate([triples, triples[:1] * 0]), ops.reshape(scores.transitions, (-1,))


def _gold_of(scores, tags, triples):
    """`gold_of` with the scores of the triples."""
    gold = gold_of(scores, tags)
    triples = ops.convert_to_tensor(triples, dtype=scores.x.dtype)
    num_tags = scores.x.shape[-1]
    tags, previous = tags_and_previous(scores, ops.transpose(ops.cast(tags, "int32")))
    _, before = tags_and_previous(scores, previous)
    of_triples = ops.take(
        ops.reshape(triples, (-1,)), (before * num_tags + previous) * num_tags + tags
    )
    rank = ops.cumsum(ops.cast(scores.valid, "int32"), axis=0)
    of_triples = ops.where(scores.valid & (rank > 2), of_triples, 0)
    possible = gold.possible & ~ops.any(is_impossible(of_triples), axis=0)
    return gold._replace(score=gold.score + of_triples, possible=possible)


def _flat(rows):
    return ops.reshape(rows, (-1, rows.shape[1] * rows.shape[2]))
