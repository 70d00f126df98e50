"""Several paths of one chain, composed of keras.ops: drawn from the distribution, or the best k."""

from functools import cache

from keras import ops

from fastkeras.crf._keras.eager import engine_function, of_no_steps
from fastkeras.crf._keras.recursions import FLOOR, IMPOSSIBLE, forward, scan
from fastkeras.crf._keras.relative import chain_of, floored, sum_over_steps


@engine_function
def sample(emissions, transitions, lengths, mask, start_transitions, end_transitions, uniforms):
    chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
    alpha, _, log_scale = forward(chain.steps)
    log_alpha = ops.cond(chain.steps.near, lambda: floored(ops.log(alpha)), lambda: alpha)
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
    possible = sum_over_steps(log_scale + chain.shift) > IMPOSSIBLE
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
        chain = chain_of(emissions, transitions, lengths, mask, start_transitions, end_transitions)
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
        after = ops.where(valid, floored(joined - peak), best)
        return after, (ops.cast(origins, "int32"), ops.where(valid, peak, 0)[:, 0, 0])

    zeros = ops.zeros((batch, num_tags, k), chain.x.dtype)
    like = (ops.cast(zeros, "int32"), zeros[:, 0, 0])
    best, (origins, peaks) = scan(forwards, zeros, (chain.x, valid, first), like)
    scores, origin = ops.top_k(ops.reshape(best, (-1, num_tags * k)), k)
    possible = scores > IMPOSSIBLE
    scores = scores + sum_over_steps(peaks + chain.shift)[:, None]
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
