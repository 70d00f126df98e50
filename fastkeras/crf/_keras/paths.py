"""Several paths of one chain, composed of keras.ops: drawn from the distribution, or the best k."""

from functools import cache

from keras import ops

from fastkeras.crf._keras.eager import engine_function, of_no_steps
from fastkeras.crf._keras.recursions import FLOOR, IMPOSSIBLE, forward, scan
from fastkeras.crf._keras.relative_scores import floored, relative_scores, sum_over_steps


@engine_function
def sample(chain, uniforms):
    scores = relative_scores(chain)
    alpha, _, log_scale = forward(scores.steps)
    log_alpha = ops.cond(scores.steps.near, lambda: floored(ops.log(alpha)), lambda: alpha)
    before = ops.concatenate([log_alpha[:1], log_alpha[:-1]], axis=0)
    into = ops.transpose(scores.transitions)
    uniforms = ops.convert_to_tensor(uniforms)[..., None]
    uniforms = ops.transpose(uniforms, (2, 0, 1, 3))  # (steps, samples, batch, 1)

    def backwards(ending, inputs):
        before, valid, uniforms = inputs
        sums = ops.cumsum(ops.exp(ending - ops.max(ending, axis=-1, keepdims=True)), axis=-1)
        tag = ops.sum(ops.cast(sums <= uniforms * sums[..., -1:], "int32"), axis=-1)
        after = before + ops.take(into, tag, axis=0)
        return ops.where(valid[..., None], after, ending), (ops.where(valid, tag, 0),)

    ending = log_alpha[-1] + ops.zeros_like(uniforms[0])
    tag = ops.cast(ending[..., 0] * 0, "int32")
    _, (tags,) = scan(backwards, ending, (before, scores.valid, uniforms), (tag,), reverse=True)
    possible = sum_over_steps(log_scale + scores.shift) > IMPOSSIBLE
    return ops.where(possible[:, None], ops.transpose(tags, (1, 2, 0)), 0)


def k_best(chain, k):
    shape = chain.emissions.shape
    if 0 in shape and None not in shape:
        return of_no_steps("k_best", chain, k)
    return _k_best_of(k)(chain)


@cache
def _k_best_of(k):
    @engine_function
    def k_best(chain):
        return _k_best(relative_scores(chain), k)

    return k_best


def _k_best(scores, k):
    batch, num_tags = ops.shape(scores.x)[1], scores.x.shape[2]
    one_path = ops.where(ops.arange(k) == 0, 0.0, FLOOR)  # to begin with, and when there is no step
    one_path = ops.cast(one_path, scores.x.dtype)
    valid, first = (steps[..., None, None] for steps in (scores.valid, scores.first))

    def forwards(best, inputs):  # best[b, j, rank], as indices j · k + rank
        x, valid, first = inputs
        candidates = best[:, None, :, :] + ops.transpose(scores.transitions)[:, :, None]
        candidates = ops.reshape(candidates, (-1, num_tags, num_tags * k))
        joined, origins = ops.top_k(candidates, k)
        joined = x[..., None] + ops.where(first, one_path, joined)
        peak = ops.max(joined, axis=(1, 2), keepdims=True)
        after = ops.where(valid, floored(joined - peak), best)
        return after, (ops.cast(origins, "int32"), ops.where(valid, peak, 0)[:, 0, 0])

    zeros = ops.zeros((batch, num_tags, k), scores.x.dtype)
    like = (ops.cast(zeros, "int32"), zeros[:, 0, 0])
    best, (origins, peaks) = scan(forwards, zeros, (scores.x, valid, first), like)
    totals, origin = ops.top_k(ops.reshape(best, (-1, num_tags * k)), k)
    possible = totals > IMPOSSIBLE
    totals = totals + sum_over_steps(peaks + scores.shift)[:, None]
    totals = ops.where(possible & (totals > IMPOSSIBLE), totals, -float("inf"))
    empty = ~ops.any(scores.valid, axis=0)[:, None]
    totals = ops.where(empty, ops.where(one_path < 0, -float("inf"), one_path), totals)

    def backwards(origin, inputs):
        origins, valid = inputs
        origins = ops.reshape(origins, (-1, num_tags * k))
        came_from = ops.take_along_axis(origins, origin, axis=1)
        return ops.where(valid, came_from, origin), (ops.where(valid, origin // k, 0),)

    origin = ops.cast(origin, "int32")
    inputs = (origins, scores.valid[..., None])
    _, (tags,) = scan(backwards, origin, inputs, (origin,), reverse=True)
    return ops.where((totals > -float("inf"))[..., None], ops.transpose(tags, (1, 2, 0)), 0), totals
