"""Likelihoods of single steps, by a backward scan in the domain of logarithms."""

import numpy as np
from keras import ops

from fastkeras.crf._engines.keras.eager import engine_function
from fastkeras.crf._engines.keras.recursions import (
    anything,
    log_sum_exp,
    of_each_step,
    scan,
    varies,
)
from fastkeras.crf._engines.keras.relative_scores import (
    gold_of,
    relative_scores,
    settle,
    sum_over_steps,
    tags_and_previous,
)


@engine_function
def weighted_log_likelihood(chain, tags, weights):
    scores = relative_scores(chain)
    gold = gold_of(scores, tags)
    tags, previous = tags_and_previous(scores, ops.transpose(tags))
    if varies(scores.transitions):
        leaving = ops.take_along_axis(scores.transitions, previous[..., None, None], axis=2)[
            :, :, 0
        ]
    else:
        leaving = ops.take(scores.transitions, previous, axis=0)
    # log p(y_t | y_{t-1}) is a log-softmax over the tags of step t, scored with all their futures
    logits = ops.where(scores.first[..., None], 0, leaving) + _from_here_on(scores.steps)
    logits = ops.where(scores.valid[..., None], logits, 0)
    of_tags = ops.take_along_axis(logits, tags[..., None], axis=-1)[..., 0]
    log_p = of_tags - log_sum_exp(logits, axis=-1)
    log_p = log_p - ops.stop_gradient(ops.where(log_p > 0, log_p, 0))  # above 0 by rounding
    weights = ops.transpose(ops.convert_to_tensor(weights, dtype=log_p.dtype))
    weights = ops.where(ops.isfinite(weights), weights, np.nan)  # else a sum of −inf: impossible
    return settle(sum_over_steps(ops.where(scores.valid, weights * log_p, 0)), gold)


def _from_here_on(steps):
    """Log-sums of all suffixes that begin with each tag at each step, up to a constant per step."""

    def step(beta, inputs):
        x, valid, *into = inputs
        joined = x + beta
        pairs = (into[0] if into else steps.transitions) + joined[:, None, :]
        before = log_sum_exp(pairs, axis=-1)
        before = before - ops.stop_gradient(ops.max(before, axis=-1, keepdims=True))
        return ops.where(valid, before, beta), (joined,)

    inputs = (steps.x, steps.valid[..., None], *of_each_step(steps.transitions))
    nothing = anything(steps.x) * 0
    _, (joined,) = scan(step, nothing, inputs, (nothing,), reverse=True)
    return joined
