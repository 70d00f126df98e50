"""Single paths of a chain, composed of keras.ops: the best, the best k, and random ones."""

from functools import cache

from keras import ops

from fastkeras._keras_private import is_exporting
from fastkeras.crf._engines.keras.eager import engine_function, of_no_steps
from fastkeras.crf._engines.keras.recursions import (
    FLOOR,
    IMPOSSIBLE,
    forward,
    is_impossible,
    is_nan,
    of_each_step,
    scan,
    varies,
)
from fastkeras.crf._engines.keras.relative_scores import (
    INFINITY,
    finite,
    floored,
    relative_scores,
    sum_over_steps,
)


@engine_function
def viterbi(chain):
    # ONNX and TFLite get the finite floor for −inf, since some of their ops multiply −inf by 0
    scores = relative_scores(chain, for_sums=is_exporting())
    zeros = ops.zeros(ops.shape(scores.x)[1:], scores.x.dtype)
    valid, first = scores.valid[..., None], scores.first[..., None]
    transitions = of_each_step(scores.transitions)

    def forwards(best, inputs):
        x, valid, first, *into = inputs
        reached = best[:, :, None] + (into[0] if into else scores.transitions)
        joined = x + ops.where(first, 0, ops.max(reached, axis=1))
        peak = finite(ops.max(joined, axis=-1, keepdims=True))
        after = ops.where(valid, joined - peak, best)
        return after, (best, ops.where(valid, peak, 0)[:, 0])

    inputs = (scores.x, valid, first, *transitions)
    best, (before, peaks) = scan(forwards, zeros, inputs, (zeros, zeros[:, 0]))
    score = sum_over_steps(peaks + scores.shift) + ops.max(best, axis=-1)

    # no pointers are stored: on the way back, the same additions find the same predecessor
    transposed = ops.swapaxes(scores.transitions, -1, -2)

    def backwards(tag, inputs):
        before, valid, *into = inputs
        if into:
            leaving = ops.take_along_axis(into[0], tag[:, None, None], axis=1)[:, 0]
        else:
            leaving = ops.take(transposed, tag, axis=0)
        came_from = first_largest(before + leaving)
        return ops.where(valid, came_from, tag), (ops.where(valid, tag, 0),)

    tag = first_largest(best)
    inputs = (before, scores.valid, *of_each_step(transposed))
    _, (tags,) = scan(backwards, tag, inputs, (tag,), reverse=True)
    return ops.transpose(tags), ops.where(is_impossible(score), -INFINITY, score)


@engine_function
def sample(chain, uniforms):
    scores = relative_scores(chain)
    alpha, _, log_scale = forward(scores.steps)
    log_alpha = ops.cond(scores.steps.near, lambda: floored(ops.log(alpha)), lambda: alpha)
    before = ops.concatenate([log_alpha[:1], log_alpha[:-1]], axis=0)
    num_tags = scores.x.shape[-1]
    into = ops.transpose(scores.transitions) if not varies(scores.transitions) else None
    uniforms = ops.convert_to_tensor(uniforms)[..., None]
    uniforms = ops.transpose(uniforms, (2, 0, 1, 3))  # (steps, samples, batch, 1)

    def backwards(ending, inputs):
        before, valid, uniforms, *of_step = inputs
        sums = ops.cumsum(ops.exp(ending - ops.max(ending, axis=-1, keepdims=True)), axis=-1)
        tag = ops.sum(ops.cast(sums <= uniforms * sums[..., -1:], "int32"), axis=-1)
        tag = ops.minimum(tag, sums.shape[-1] - 1)  # out of range where +inf leaves no sum
        if of_step:
            chosen = ops.one_hot(tag, num_tags, dtype=before.dtype)
            after = before + ops.einsum("sbj,bij->sbi", chosen, of_step[0])
        else:
            after = before + ops.take(into, tag, axis=0)
        return ops.where(valid[..., None], after, ending), (ops.where(valid, tag, 0),)

    ending = log_alpha[-1] + ops.zeros_like(uniforms[0])
    tag = ops.cast(ending[..., 0] * 0, "int32")
    inputs = (before, scores.valid, uniforms, *of_each_step(scores.transitions))
    _, (tags,) = scan(backwards, ending, inputs, (tag,), reverse=True)
    log_z = sum_over_steps(log_scale + scores.shift)
    possible = (log_z > IMPOSSIBLE) & (log_z < INFINITY)
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
        _, best = viterbi(chain)
        scores = relative_scores(chain)
        ordered = best < INFINITY  # sequences have no order if scores are NaN or +inf
        x = ops.where(ordered[:, None], scores.x, 0)
        transitions = ops.where(is_nan(scores.transitions), 0, scores.transitions)
        tags, totals = _k_best(scores._replace(x=x, transitions=transitions), k)
        instead = ops.where(ops.arange(k) == 0, best[:, None], float("nan"))
        tags = ops.where(ordered[:, None, None], tags, 0)
        return tags, ops.where(ordered[:, None], totals, instead)

    return k_best


def _k_best(scores, k):
    batch, num_tags = ops.shape(scores.x)[1], scores.x.shape[2]
    one_path = ops.where(ops.arange(k) == 0, 0.0, FLOOR)  # before the first step
    one_path = ops.cast(one_path, scores.x.dtype)
    valid, first = (steps[..., None, None] for steps in (scores.valid, scores.first))

    def forwards(best, inputs):  # best[b, j, rank], as indices j · k + rank
        x, valid, first, *into = inputs
        pairs = into[0] if into else scores.transitions
        candidates = best[:, None, :, :] + ops.swapaxes(pairs, -1, -2)[..., None]
        candidates = ops.reshape(candidates, (-1, num_tags, num_tags * k))
        joined, origins = ops.top_k(candidates, k)
        joined = x[..., None] + ops.where(first, one_path, joined)
        peak = ops.max(joined, axis=(1, 2), keepdims=True)
        after = ops.where(valid, floored(joined - peak), best)
        return after, (ops.cast(origins, "int32"), ops.where(valid, peak, 0)[:, 0, 0])

    zeros = ops.zeros((batch, num_tags, k), scores.x.dtype)
    like = (ops.cast(zeros, "int32"), zeros[:, 0, 0])
    inputs = (scores.x, valid, first, *of_each_step(scores.transitions))
    best, (origins, peaks) = scan(forwards, zeros, inputs, like)
    totals, origin = ops.top_k(ops.reshape(best, (-1, num_tags * k)), k)
    possible = totals > IMPOSSIBLE
    totals = totals + sum_over_steps(peaks + scores.shift)[:, None]
    totals = ops.where(possible & (totals > IMPOSSIBLE), totals, -INFINITY)
    empty = ~ops.any(scores.valid, axis=0)[:, None]
    totals = ops.where(empty, ops.where(one_path < 0, -INFINITY, one_path), totals)

    def backwards(origin, inputs):
        origins, valid = inputs
        origins = ops.reshape(origins, (-1, num_tags * k))
        came_from = ops.take_along_axis(origins, origin, axis=1)
        return ops.where(valid, came_from, origin), (ops.where(valid, origin // k, 0),)

    origin = ops.cast(origin, "int32")
    inputs = (origins, scores.valid[..., None])
    _, (tags,) = scan(backwards, origin, inputs, (origin,), reverse=True)
    return ops.where((totals > -INFINITY)[..., None], ops.transpose(tags, (1, 2, 0)), 0), totals


def first_largest(scores):
    # the first of the largest; ops.argmax inspects bits, for which ONNX and TFLite have no ops
    last = scores.shape[-1] - 1
    largest = scores == ops.max(scores, axis=-1, keepdims=True)
    return ops.min(ops.where(largest, ops.arange(last + 1, dtype="int32"), last), axis=-1)
