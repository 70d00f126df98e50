"""The recursions of the `keras` engine, in keras.ops: one scan forwards, one backwards.

Shapes are time-major, (steps, batch, num_tags), and scores relative: the largest of each step, and
the largest transition, is 0. Two domains, chosen by `scores_are_near`:

    scaled  probabilities, normalised at each step: one matrix product a step, and no exponential
            or logarithm inside the loop (Rabiner 1989, section V.A);
    logs    log-sum-exp over pairs of tags, for transitions so far apart that a product of
            probabilities would lose a path: hard constraints, −inf or −1e4.

No scan stores a pair of tags for each step. docs/crf.md has the derivation, and the argument why
the scaled domain is safe while the transitions are near each other.
"""

from keras import backend, ops

FLOOR = -1e30  # stands for −inf, so that no step forms inf − inf
IMPOSSIBLE = -1e29  # a score below this has met the floor
FARTHEST = {"float32": 60.0, "float64": 600.0}  # nats; e^-87 and e^-708 are the smallest numbers


def scores_are_near(transitions):
    """Whether the scaled domain loses nothing: a scalar bool tensor."""
    dtype = backend.standardize_dtype(transitions.dtype)
    return ops.max(transitions) - ops.min(transitions) <= FARTHEST[dtype]


def forward(x, transitions, valid, first):
    """Sums over all prefixes.

    Args:
        x: relative emissions, (steps, batch, num_tags).
        transitions: relative, (num_tags, num_tags).
        valid, first: bool, (steps, batch); `first` marks the first valid step of each sequence.

    Returns:
        alpha, (steps, batch, num_tags): at each step the normalised prefix sums (their logarithms
        in the domain of logs), unchanged at a step that is not valid;
        scale, (steps, batch): what they were divided by, 1 at such a step;
        log_scale: its logarithm. The sum of log_scale over the steps is log Z.
    """
    near = scores_are_near(transitions)
    return ops.cond(
        near,
        lambda: _forward_scaled(x, transitions, valid, first),
        lambda: _forward_logs(x, transitions, valid, first),
    )


def posterior(x, transitions, valid, first, alpha, scale, weights, per_sequence=False):
    """Weighted marginals, from the results of `forward` and a scan backwards.

    Args:
        x, transitions, valid, first: as in `forward`.
        alpha, scale: results of `forward`.
        weights: (batch,).
        per_sequence: whether to keep the counts of each sequence apart.

    Returns:
        Unary marginals, (steps, batch, num_tags), 0 at steps that are not valid; expected
        transition counts, (num_tags, num_tags), or (batch, num_tags, num_tags) `per_sequence`.
    """
    unary_weights = ops.where(valid, weights, 0)
    pair_weights = ops.where(first, 0, unary_weights)
    return ops.cond(
        scores_are_near(transitions),
        lambda: _posterior_scaled(
            x, transitions, valid, alpha, scale, unary_weights, pair_weights, per_sequence
        ),
        lambda: _posterior_logs(
            x, transitions, valid, alpha, unary_weights, pair_weights, per_sequence
        ),
    )


def _forward_scaled(x, transitions, valid, first):
    potentials = ops.exp(x)
    pair_potentials = ops.exp(transitions)

    def step(alpha, inputs):
        potentials, valid, first = inputs
        joined = ops.where(first, potentials, (alpha @ pair_potentials) * potentials)
        scale = ops.sum(joined, axis=-1, keepdims=True)
        alpha = ops.where(valid, joined / scale, alpha)
        return alpha, (alpha, ops.where(valid, scale, 1)[:, 0])

    zeros = _zeros(x)
    inputs = (potentials, valid[..., None], first[..., None])
    _, (alpha, scale) = scan(step, zeros + 1 / x.shape[-1], inputs, (zeros, zeros[:, 0]))
    return alpha, scale, ops.log(scale)


def _forward_logs(x, transitions, valid, first):
    def step(alpha, inputs):
        x, valid, first = inputs
        joined = x + ops.where(first, 0, log_sum_exp(alpha[:, :, None] + transitions, axis=1))
        log_scale = log_sum_exp(joined, axis=-1)[:, None]
        alpha = ops.where(valid, joined - log_scale, alpha)
        return alpha, (alpha, ops.where(valid, log_scale, 0)[:, 0])

    zeros = _zeros(x)
    inputs = (x, valid[..., None], first[..., None])
    _, (alpha, log_scale) = scan(step, zeros, inputs, (zeros, zeros[:, 0]))
    return alpha, ops.ones_like(log_scale), log_scale


def _posterior_scaled(
    x, transitions, valid, alpha, scale, unary_weights, pair_weights, per_sequence
):
    potentials = ops.exp(x)
    pair_potentials = ops.exp(transitions)
    transposed = ops.transpose(pair_potentials)

    def step(beta, inputs):
        potentials, valid = inputs
        before = (potentials * beta) @ transposed
        before = before / ops.sum(before, axis=-1, keepdims=True)
        return ops.where(valid, before, beta), (beta,)

    zeros = _zeros(x)
    inputs = (potentials, valid[..., None])
    _, (beta,) = scan(step, zeros + 1, inputs, (zeros,), reverse=True)
    unary = alpha * beta
    mass = ops.sum(unary, axis=-1)
    # p(i at t-1, j at t) = alpha[t-1, i] · potential(i, j) · after[t, j], and they sum to 1
    after = potentials * beta * (pair_weights / (scale * mass))[..., None]
    counts = pair_potentials * pair_sums(_at_the_step_before(alpha), after, per_sequence)
    return unary * (unary_weights / mass)[..., None], counts


def _posterior_logs(x, transitions, valid, alpha, unary_weights, pair_weights, per_sequence):
    def step(carry, inputs):
        beta, counts = carry
        alpha, x, valid, pair_weights = inputs
        pairs = transitions + (x + beta)[:, None, :]
        before = log_sum_exp(pairs, axis=-1)
        log_sum = log_sum_exp(alpha + before, axis=-1)[:, None, None]
        shares = ops.exp(alpha[:, :, None] + pairs - log_sum) * pair_weights[:, None, None]
        counts = counts + (shares if per_sequence else ops.sum(shares, axis=0))
        before = before - ops.stop_gradient(ops.max(before, axis=-1, keepdims=True))
        return (ops.where(valid, before, beta), counts), (beta,)

    zeros = _zeros(x)
    counts = transitions * 0
    if per_sequence:
        counts = counts + zeros[:, :, None]
    inputs = (_at_the_step_before(alpha), x, valid[..., None], pair_weights)
    (_, counts), (beta,) = scan(step, (zeros, counts), inputs, (zeros,), reverse=True)
    joined = alpha + beta
    unary = ops.exp(joined - log_sum_exp(joined, axis=-1)[..., None])
    return unary * unary_weights[..., None], counts


def log_sum_exp(scores, axis):
    """Of finite scores; ops.logsumexp gives NaN gradients where two floors meet."""
    peak = ops.stop_gradient(ops.max(scores, axis=axis, keepdims=True))
    return ops.log(ops.sum(ops.exp(scores - peak), axis=axis)) + ops.squeeze(peak, axis)


def scan(step, carry, inputs, like, reverse=False):
    """`ops.scan` over tuples, with outputs shaped as the tuple `like`.

    TensorFlow's `ops.scan` asks for outputs of the carry's structure, and does not bound its loop,
    without which XLA cannot differentiate it.
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
        return i + 1, carry, tuple(o.write(t, y) for o, y in zip(outputs, results, strict=True))

    _, carry, outputs = tf.while_loop(
        lambda i, *_: i < steps, body, (0, carry, outputs), maximum_iterations=steps
    )
    return carry, tuple(output.stack() for output in outputs)


def pair_sums(before, after, per_sequence=False):
    """Sum over the steps (and the batch) of before[t, b, i] · after[t, b, j]."""
    if per_sequence:
        return ops.einsum("tbi,tbj->bij", before, after)
    num_tags = before.shape[-1]
    before = ops.transpose(ops.reshape(before, (-1, num_tags)))
    return before @ ops.reshape(after, (-1, num_tags))


def _zeros(x):
    """What one step holds, (batch, num_tags)."""
    return ops.zeros(ops.shape(x)[1:], x.dtype)


def _at_the_step_before(alpha):
    # the first row is never used: no sequence has a transition into its first valid step
    return ops.concatenate([ops.ones_like(alpha[:1]), alpha[:-1]], axis=0)
