"""The `keras` engine with a gradient that computes the recursions again, piece by piece.

The steps are cut into about √steps pieces of √steps each. The forward pass keeps only the row
before each piece; the backward pass takes one piece at a time, computes its rows again, and from
them its part of the gradient.
"""

from math import isqrt

from keras import ops

from fastkeras.crf._engines.keras.eager import engine_function
from fastkeras.crf._engines.keras.recursions import (
    anything,
    forward,
    of_each_step,
    posterior,
    scan,
    steps_of,
    varies,
)
from fastkeras.crf._engines.keras.relative_scores import (
    gold_of,
    log_likelihood_from,
    log_partition_from,
    relative_scores,
    sum_over_steps,
)


@engine_function
def log_partition(chain):
    scores = relative_scores(chain)
    return log_partition_from(_relative_score(scores, -scores.shift))


@engine_function
def log_likelihood(chain, tags):
    scores = relative_scores(chain)
    gold = gold_of(scores, tags)
    return log_likelihood_from(_relative_score(scores, gold.score), gold)


def _relative_score(scores, gold):
    """As in `__init__.py`, except for what is kept for the gradient."""

    @ops.custom_gradient
    def score(x, transitions, gold, valid, first):
        steps = steps_of(x, transitions, valid > 0, first > 0)
        starts, log_scale = _forward(steps)

        def gradient(*arguments, upstream=None):  # torch passes the arguments of `score`
            weights = arguments[0] if upstream is None else upstream
            unary, counts = _posterior(steps, starts, weights)
            d_gold = ops.where(steps.valid, weights, 0)
            return -unary, -counts, d_gold, ops.zeros_like(valid), ops.zeros_like(first)

        return sum_over_steps(gold - log_scale), gradient

    valid, first = (ops.cast(steps, gold.dtype) for steps in (scores.valid, scores.first))
    return score(scores.x, scores.transitions, gold, valid, first)


def _forward(steps):
    """The row before each piece, (pieces, batch, num_tags), and log_scale, (steps, batch)."""

    def piece(alpha, inputs):
        rows, _, log_scale = forward(_steps(steps, *inputs), alpha)
        return rows[-1], (alpha, log_scale)

    pieces, alpha = _pieces(steps), anything(steps.x)
    _, (starts, log_scale) = scan(piece, alpha, pieces, (alpha, pieces[0][0, ..., 0]))
    return starts, _joined(log_scale, steps)


def _posterior(steps, starts, weights):
    varying = varies(steps.transitions)

    def piece(carry, inputs):
        beta, counts = carry
        start, *inputs = inputs
        of_piece = _steps(steps, *inputs)
        alpha, scale, _ = forward(of_piece, start)
        unary, more, beta = posterior(of_piece, alpha, scale, weights, before=start, beta=beta)
        if varying:
            return (beta, counts), (unary, more)
        return (beta, counts + more), (unary,)

    pieces = _pieces(steps)
    counts = ops.zeros_like(steps.transitions[0] if varying else steps.transitions)
    carry = anything(steps.x), counts
    like = (pieces[0][0], *(piece[0] for piece in pieces[3:]))
    (_, counts), (unary, *more) = scan(piece, carry, (starts, *pieces), like, reverse=True)
    return _joined(unary, steps), _joined(more[0], steps) if varying else counts


def _pieces(steps):
    """x, valid, first, and the transitions if they vary, each (pieces, steps of one, ...).

    The last piece is filled up with steps that are not valid.
    """
    num_steps = ops.shape(steps.x)[0]
    if isinstance(num_steps, int):
        size = max(isqrt(num_steps), 1)
    else:  # a TensorFlow graph may not know the number of steps
        size = ops.cast(ops.sqrt(ops.cast(num_steps, "float32")), "int32")
    missing = -num_steps % size

    def cut(array):
        padding = ops.zeros((missing, *ops.shape(array)[1:]), array.dtype)
        array = ops.concatenate([array, padding], axis=0)
        return ops.reshape(array, (-1, size, *ops.shape(array)[1:]))

    arrays = (steps.x, steps.valid, steps.first, *of_each_step(steps.transitions))
    return tuple(cut(array) for array in arrays)


def _joined(pieces, steps):
    return ops.reshape(pieces, (-1, *ops.shape(pieces)[2:]))[: ops.shape(steps.x)[0]]


def _steps(steps, x, valid, first, transitions=None):
    transitions = steps.transitions if transitions is None else transitions
    return steps._replace(x=x, transitions=transitions, valid=valid, first=first)
