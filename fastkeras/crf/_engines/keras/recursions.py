"""The recursions of the `keras` engine, in keras.ops: one scan forwards, one backwards.

Shapes are time-major, (steps, batch, num_tags), and scores relative: the largest of each step is 0,
and so is the largest transition. There are two domains; `scores_are_near` chooses:

    scaled  probabilities, normalised at each step: one matrix product a step, and no exponential
            or logarithm inside the loop (Rabiner 1989, section V.A);
    logs    log-sum-exp over pairs of tags, for transitions so far apart that a product of
            probabilities would lose a path: hard constraints, −inf or −1e4.

No scan stores num_tags² numbers for each step, unless each step has transitions of its own.
docs/crf.md has the derivation, and explains why the scaled domain is safe as long as the
transitions are near each other.
"""

from typing import Any, NamedTuple

from keras import backend, ops

from fastkeras._engines import inside_xla
from fastkeras._keras_private import is_exporting

FLOOR = -1e30  # stands for −inf, so that no step forms inf − inf
IMPOSSIBLE = -1e29  # a score below this contains the floor
FARTHEST = {"float32": 60.0, "float64": 600.0}  # nats; e^-87 and e^-708 are the smallest numbers


def is_impossible(scores):
    """Where a score contains the floor, that is, a −inf. False for NaN.

    Keep this form: TensorFlow's graphs rewrite "not (a <= b)" as "a > b", which is wrong for NaN.
    """
    return scores <= IMPOSSIBLE


def is_nan(values):
    """Where values are NaN, by a comparison, since TFLite has no op for it."""
    return values != values


class Steps(NamedTuple):
    """Consecutive steps of a batch of chains."""

    x: Any  # relative emissions, (steps, batch, num_tags)
    transitions: Any  # relative, (num_tags, num_tags), or into each step (steps, batch, ·, ·)
    valid: Any  # bool, (steps, batch)
    first: Any  # bool, (steps, batch): the first valid step of its sequence
    near: Any  # scalar bool: whether to work in the scaled domain; None for the domain of logs


def steps_of(x, transitions, valid, first):
    """All steps of the chains."""
    return Steps(x, transitions, valid, first, scores_are_near(transitions))


def steps_to_differentiate(steps):
    """The steps, for results that are differentiated automatically.

    TensorFlow's XLA cannot compile the derivative of a conditional: there they are in the domain of
    logs, whatever the transitions.
    """
    if backend.backend() == "tensorflow" and inside_xla():
        return steps._replace(near=None)
    return steps


def scores_are_near(transitions):
    """Whether the scaled domain loses nothing: a scalar bool tensor."""
    dtype = backend.standardize_dtype(transitions.dtype)
    return ops.max(transitions) - ops.min(transitions) <= FARTHEST[dtype]


def varies(transitions):
    """Whether each step has transitions of its own."""
    return len(transitions.shape) == 4


def forward(steps, alpha=None):
    """Sums over all prefixes.

    Args:
        steps: `Steps`.
        alpha: the row of the step before these, (batch, num_tags), if there is one.

    Returns:
        alpha, (steps, batch, num_tags): at each step the normalised prefix sums (their logarithms
        in the domain of logs); a step that is not valid repeats the row before;
        scale, (steps, batch): what they were divided by, 1 at such a step;
        log_scale: its logarithm. The sum of log_scale over the steps is log Z.
    """
    alpha = anything(steps.x) if alpha is None else alpha
    return _of_the_domain(
        steps.near,
        lambda: _forward_scaled(steps, alpha),
        lambda: _forward_logs(steps, alpha),
    )


def posterior(steps, alpha, scale, weights, per_sequence=False, before=None, beta=None):
    """Weighted marginals, from the results of `forward` and a scan backwards.

    Args:
        steps: as in `forward`.
        alpha, scale: results of `forward`.
        weights: (batch,).
        per_sequence: whether to keep the counts of each sequence apart.
        before: the row that `forward` was given.
        beta: what this function returned for the steps after these, if there are any.

    Returns:
        Unary marginals, (steps, batch, num_tags), 0 at steps that are not valid; expected
        transition counts, (num_tags, num_tags), or (batch, num_tags, num_tags) if `per_sequence`,
        or shaped like transitions that vary; beta, (batch, num_tags), for the steps before these.
    """
    unary_weights = ops.where(steps.valid, weights, 0)
    before = anything(steps.x) if before is None else before
    # a sequence of weight 0 must add nothing, even if it is NaN, and 0 · NaN would be NaN
    lost = (weights == 0) & is_nan(ops.sum(alpha[-1], axis=-1))
    steps = steps._replace(x=ops.where(lost[:, None], 0, steps.x), valid=steps.valid & ~lost)
    if varies(steps.transitions):
        kept = ops.where(lost[:, None, None], 0, steps.transitions)
        steps = steps._replace(transitions=kept)
    alpha, before = (ops.where(lost[:, None], 1, rows) for rows in (alpha, before))
    scale = ops.where(lost, 1, scale)
    weights = unary_weights, ops.where(steps.first, 0, unary_weights)
    before = before[None]
    before = ops.concatenate([before, alpha[:-1]], axis=0)
    beta = anything(steps.x) if beta is None else beta
    return _of_the_domain(
        steps.near,
        lambda: _posterior_scaled(steps, before, alpha, scale, beta, weights, per_sequence),
        lambda: _posterior_logs(steps, before, alpha, beta, weights, per_sequence),
    )


def _of_the_domain(near, scaled, logs):
    # in ONNX, shapes are unknown inside conditionals
    if near is None or is_exporting("keras.src.export.onnx"):
        return logs()
    return ops.cond(near, scaled, logs)


def anything(x):
    """A row to start a scan with, (batch, num_tags): either never used, or equal for all tags."""
    return ops.ones(ops.shape(x)[1:], x.dtype)


def _forward_scaled(steps, alpha):
    potentials, pair_potentials = ops.exp(steps.x), ops.exp(steps.transitions)

    def step(alpha, inputs):
        potentials, valid, first, *into = inputs
        joined = _times(alpha, *(into or [pair_potentials]))
        joined = ops.where(first, potentials, joined * potentials)
        scale = ops.sum(joined, axis=-1, keepdims=True)
        alpha = ops.where(valid, joined / scale, alpha)
        return alpha, (alpha, ops.where(valid, scale, 1)[:, 0])

    inputs = (potentials, steps.valid[..., None], steps.first[..., None])
    inputs = inputs + of_each_step(pair_potentials)
    _, (alpha, scale) = scan(step, alpha, inputs, (alpha, alpha[:, 0]))
    return alpha, scale, ops.log(scale)


def _forward_logs(steps, alpha):
    def step(alpha, inputs):
        x, valid, first, *into = inputs
        pairs = alpha[:, :, None] + (into[0] if into else steps.transitions)
        joined = x + ops.where(first, 0, log_sum_exp(pairs, axis=1))
        log_scale = log_sum_exp(joined, axis=-1)[:, None]
        alpha = ops.where(valid, joined - log_scale, alpha)
        return alpha, (alpha, ops.where(valid, log_scale, 0)[:, 0])

    inputs = (steps.x, steps.valid[..., None], steps.first[..., None])
    inputs = inputs + of_each_step(steps.transitions)
    _, (alpha, log_scale) = scan(step, alpha, inputs, (alpha, alpha[:, 0]))
    return alpha, ops.ones_like(log_scale), log_scale


def _posterior_scaled(steps, before, alpha, scale, beta, weights, per_sequence):
    potentials, pair_potentials = ops.exp(steps.x), ops.exp(steps.transitions)
    transposed = ops.swapaxes(pair_potentials, -1, -2)

    def step(beta, inputs):
        potentials, valid, *into = inputs
        before = _times(potentials * beta, *(into or [transposed]))
        before = before / ops.sum(before, axis=-1, keepdims=True)
        return ops.where(valid, before, beta), (beta,)

    inputs = (potentials, steps.valid[..., None], *of_each_step(transposed))
    beta_before, (beta,) = scan(step, beta, inputs, (beta,), reverse=True)
    unary = alpha * beta
    mass = ops.sum(unary, axis=-1)
    unary_weights, pair_weights = weights
    # p(i at t-1, j at t) = alpha[t-1, i] · potential(i, j) · after[t, j], and they sum to 1
    after = potentials * beta * (pair_weights / (scale * mass))[..., None]
    follows = (steps.valid & ~steps.first)[..., None]  # other steps may hold NaN
    before, after = (ops.where(follows, rows, 0) for rows in (before, after))
    per_sequence = per_sequence and not varies(pair_potentials)
    like = beta_before[..., None] if per_sequence else pair_potentials
    sums = pair_sums(before, after, like)
    unary = ops.where(steps.valid[..., None], unary * (unary_weights / mass)[..., None], 0)
    unused = is_nan(pair_potentials) & (sums == 0)
    return unary, ops.where(unused, 0, pair_potentials * sums), beta_before


def _posterior_logs(steps, before, alpha, beta, weights, per_sequence):
    unary_weights, pair_weights = weights
    varying = varies(steps.transitions)

    def step(carry, inputs):
        beta, counts = carry
        alpha, x, valid, follows, pair_weights, *into = inputs
        pairs = (into[0] if varying else steps.transitions) + (x + beta)[:, None, :]
        before = log_sum_exp(pairs, axis=-1)
        log_sum = log_sum_exp(alpha + before, axis=-1)[:, None, None]
        shares = ops.exp(alpha[:, :, None] + pairs - log_sum) * pair_weights[:, None, None]
        shares = ops.where(follows, shares, 0)
        before = before - ops.stop_gradient(ops.max(before, axis=-1, keepdims=True))
        after = ops.where(valid, before, beta)
        if varying:
            return (after, counts), (beta, shares)
        return (after, counts + (shares if per_sequence else ops.sum(shares, axis=0))), (beta,)

    counts = ops.zeros_like(steps.transitions[0] if varying else steps.transitions)
    if per_sequence:
        counts = counts + ops.zeros_like(beta)[:, :, None]
    like = (beta, counts) if varying else (beta,)
    follows = (steps.valid & ~steps.first)[..., None, None]
    inputs = (before, steps.x, steps.valid[..., None], follows, pair_weights)
    inputs = inputs + of_each_step(steps.transitions)
    (beta, counts), (betas, *shares) = scan(step, (beta, counts), inputs, like, reverse=True)
    joined = alpha + betas
    unary = ops.exp(joined - log_sum_exp(joined, axis=-1)[..., None])
    unary = ops.where(steps.valid[..., None], unary * unary_weights[..., None], 0)
    return unary, shares[0] if varying else counts, beta


def of_each_step(transitions):
    """The further input of a scan: the transitions, if they vary; else nothing."""
    return (transitions,) if varies(transitions) else ()


def _times(rows, pairs):
    """Each row times the matrix, or times a matrix of its own."""
    return rows @ pairs if len(pairs.shape) == 2 else (rows[:, None, :] @ pairs)[:, 0]


def log_sum_exp(scores, axis):
    """Log-sum-exp of finite scores; ops.logsumexp has NaN gradients where all are the floor."""
    peak = ops.stop_gradient(ops.max(scores, axis=axis, keepdims=True))
    return ops.log(ops.sum(ops.exp(scores - peak), axis=axis)) + ops.squeeze(peak, axis)


def scan(step, carry, inputs, like, reverse=False):
    """`ops.scan` over tuples, with outputs shaped as the tuple `like`.

    On TensorFlow, `ops.scan` wants outputs of the same structure as the carry, and sets no bound on
    its loop, which XLA needs to differentiate it.
    """
    if backend.backend() != "tensorflow":
        return ops.scan(step, carry, inputs, reverse=reverse)
    import tensorflow as tf

    steps = tf.shape(inputs[0])[0]
    rows = [tf.TensorArray(x.dtype, steps, element_shape=x.shape[1:]).unstack(x) for x in inputs]
    outputs = tuple(tf.TensorArray(y.dtype, steps, element_shape=y.shape) for y in like)

    def body(i, carry, outputs):
        t = steps - 1 - i if reverse else i
        carry, results = step(carry, tuple(row.read(t) for row in rows))
        # written in the order of the loop, which ONNX keeps whatever the index
        return i + 1, carry, tuple(o.write(i, y) for o, y in zip(outputs, results, strict=True))

    _, carry, outputs = tf.while_loop(
        lambda i, *_: i < steps, body, (0, carry, outputs), maximum_iterations=steps
    )
    stacked = (output.stack() for output in outputs)
    return carry, tuple(tf.reverse(y, [0]) if reverse else y for y in stacked)


def pair_sums(before, after, like):
    """before[t, b, i] · after[t, b, j], summed over the axes (steps, batch) that `like` lacks."""
    num_tags = before.shape[-1]
    rank = len(like.shape)
    if rank == 2:
        before = ops.transpose(ops.reshape(before, (-1, num_tags)))
        return before @ ops.reshape(after, (-1, num_tags))
    if rank == 3:
        return ops.einsum("tbi,tbj->bij", before, after)
    return before[..., :, None] * after[..., None, :]
