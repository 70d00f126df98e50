"""Composed of keras.ops: for XLA, GPU, TPU, JAX, torch, export, and higher-order gradients.

Every function can be differentiated any number of times. On TensorFlow and JAX the first gradient
is computed explicitly, in recursions.py, not by automatic differentiation through a loop.
"""

from keras import backend, ops

from fastkeras.crf._engines.keras import checkpointed
from fastkeras.crf._engines.keras.eager import engine_function
from fastkeras.crf._engines.keras.paths import k_best, sample, viterbi
from fastkeras.crf._engines.keras.recursions import (
    forward,
    is_impossible,
    is_nan,
    pair_sums,
    posterior,
    steps_of,
    steps_to_differentiate,
    varies,
)
from fastkeras.crf._engines.keras.relative_scores import (
    gold_of,
    log_likelihood_from,
    log_partition_from,
    relative_scores,
    settle,
    sum_over_steps,
    tags_and_previous,
)
from fastkeras.crf._engines.keras.weighted import weighted_log_likelihood
from fastkeras.crf.chain import Gradients

# besides the functions of this file
__all__ = ["checkpointed", "k_best", "sample", "viterbi", "weighted_log_likelihood"]

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step


@engine_function
def log_partition(chain):
    scores = relative_scores(chain)
    return log_partition_from(_relative_score(scores, -scores.shift))


@engine_function
def sequence_score(chain, tags):
    scores = relative_scores(chain, for_sums=False)
    gold = gold_of(scores, tags)
    return settle(sum_over_steps(gold.score + scores.shift), gold)


@engine_function
def log_likelihood(chain, tags):
    scores = relative_scores(chain)
    gold = gold_of(scores, tags)
    return log_likelihood_from(_relative_score(scores, gold.score), gold)


@engine_function
def log_likelihood_and_gradients(chain, tags, weights):
    scores = relative_scores(chain)
    gold = gold_of(scores, tags)
    alpha, scale, log_scale = forward(scores.steps)
    likelihood = sum_over_steps(gold.score - log_scale)
    likelihood = ops.where(likelihood > 0, 0, likelihood)  # above 0 by rounding only
    counts_at_all = gold.possible | is_nan(likelihood)
    weights = ops.where(counts_at_all, ops.convert_to_tensor(weights, dtype=likelihood.dtype), 0)
    unary, counts, _ = posterior(scores.steps, alpha, scale, weights)
    tags, previous = tags_and_previous(scores, ops.transpose(tags))
    num_tags = scores.x.shape[-1]
    unary_weights = ops.where(scores.valid, weights, 0)
    pair_weights = ops.where(scores.first, 0, unary_weights)
    one_hot = ops.one_hot(tags, num_tags, dtype=unary.dtype)
    d_x = one_hot * unary_weights[..., None] - unary
    before = ops.one_hot(previous, num_tags, dtype=unary.dtype)
    gold_counts = pair_sums(before, one_hot * pair_weights[..., None], counts)
    gradients = Gradients(
        ops.transpose(d_x, (1, 0, 2)),
        _as_given(gold_counts - counts),
        ops.sum(ops.where(scores.first[..., None], d_x, 0), axis=(0, 1)),
        ops.sum(ops.where(scores.last[..., None], d_x, 0), axis=(0, 1)),
    )
    return settle(likelihood, gold), gradients


@engine_function
def marginals(chain):
    scores = relative_scores(chain)
    steps = steps_to_differentiate(scores.steps)
    alpha, scale, log_scale = forward(steps)
    log_z = sum_over_steps(log_scale + scores.shift)
    weights = ops.where(is_impossible(log_z), 0, ops.ones_like(log_z))
    unary, counts, _ = posterior(steps, alpha, scale, weights, per_sequence=True)
    return ops.transpose(unary, (1, 0, 2)), _as_given(counts)


def _relative_score(scores, gold):
    """Sum over the valid steps of `gold` minus log_scale; shape (batch,).

    The two are subtracted step by step: their sums are large and their difference is small.
    """
    if backend.backend() == "torch":  # Keras' custom_gradient cannot be differentiated twice there
        _, _, log_scale = forward(scores.steps)
        return sum_over_steps(gold - log_scale)

    @ops.custom_gradient
    def score(x, transitions, gold, valid, first):  # JAX does not let it close over tensors
        steps = steps_of(x, transitions, valid > 0, first > 0)
        alpha, scale, log_scale = forward(steps)

        def gradient(weights):
            unary, counts, _ = posterior(steps, alpha, scale, weights)
            d_gold = ops.where(steps.valid, weights, 0)
            return -unary, -counts, d_gold, ops.zeros_like(valid), ops.zeros_like(first)

        return sum_over_steps(gold - log_scale), gradient

    valid, first = (ops.cast(steps, gold.dtype) for steps in (scores.valid, scores.first))
    return score(scores.x, scores.transitions, gold, valid, first)


def _as_given(counts):
    """Counts of varying transitions, from time-major to the shape in which transitions came."""
    return ops.transpose(counts, (1, 0, 2, 3))[:, 1:] if varies(counts) else counts
