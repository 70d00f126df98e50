"""Composed of keras.ops: for XLA, GPU, TPU, JAX, torch, and export; with hand-derived gradients.

docs/word2vec.md has the formulas. `x` are logits (batch, 1 + negative), the target first, and
`errors` their gradient of the loss: ∂L/∂u_j = errors_j h and ∂L/∂h = Σ_j errors_j u_j.
"""

import keras
from keras import ops

IMPOSSIBLE = -1e30  # a logit; not every kernel of every backend is safe with infinities

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf


def rows_of(variable, ids):
    """Return rows in at least float32; on TensorFlow the gradient will be a `tf.IndexedSlices`."""
    if keras.backend.backend() == "tensorflow":
        rows = tf.gather(variable.value, ids)  # not of its value: that read may copy it
    else:
        rows = ops.take(variable, ids, axis=0)
    is_half = keras.backend.standardize_dtype(rows.dtype) in ("float16", "bfloat16")
    return ops.cast(rows, "float32") if is_half else rows


def pooled(matrix, ids, weights=None):
    """Return the sums of rows Σ_c weights_c v_c.

    Args:
        matrix: variable, float (words, size).
        ids: integers (batch, contexts), negative where there is none; or (batch,).
        weights: float (batch, contexts), 0 where there is none; or None.

    Returns:
        Float (batch, size), at least float32.
    """
    if weights is None:
        return rows_of(matrix, ids)
    # In place of a missing context, look up a word of this batch: any other row would get a
    # gradient of zeros, and optimizers with momentum would change it.
    some = ops.maximum(ops.max(ids), 0)

    @ops.custom_gradient
    def pool(rows):
        def gradient(*upstream, **named):
            return _given(upstream, named)[:, None] * weights[..., None]

        return _combined(weights, rows), gradient

    return pool(rows_of(matrix, ops.where(ids < 0, some, ids)))


def sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction=None):
    """Return for each example its loss, and whether the target has the highest logit.

    A word drawn that equals the target is ignored.

    Args:
        loss: "sampled_softmax" or "negative_sampling".
        hidden: float (batch, size).
        outputs: variable, the output matrix, float (words, size).
        bias: variable, float (words,), or None.
        targets: integers (batch,).
        drawn: integers (batch, negative), or (negative,) if all examples share the words drawn.
        correction: added to the logits of words drawn: float (words,), a number, or None.

    Returns:
        Losses and hits, two floats (batch,). Only the losses have a gradient.
    """
    if len(drawn.shape) == 1:
        candidates = ops.concatenate([targets, drawn], axis=0)
        drawn = drawn[None]
    else:
        candidates = ops.concatenate([targets[:, None], drawn], axis=1)
    if correction is None:
        correction = 0.0
    elif not isinstance(correction, float):
        correction = ops.take(correction, drawn, axis=0)
    # The target is not a wrong answer even where it was drawn.
    offsets = ops.where(drawn == targets[:, None], IMPOSSIBLE, correction)
    biases = None if bias is None else rows_of(bias, candidates)
    offsets = ops.cast(offsets, hidden.dtype)
    return _loss_of_rows(loss, hidden, rows_of(outputs, candidates), biases, offsets)


def _loss_of_rows(loss, h, u, b, offsets):
    """Compute the loss of output rows `u`, the target's first, and their biases, or None.

    `u` is (batch, 1 + negative, size), or (batch + negative, size) when all examples share the
    words drawn, which then follow the targets. `offsets` are (batch, negative), `IMPOSSIBLE` for
    words to be ignored.
    """
    products, gradients = _SHARED if len(u.shape) == 2 else _OWN
    parameters = [h, u] if b is None else [h, u, b]

    @ops.custom_gradient
    def compute(h, u, *b):
        x = products(h, u, *b)
        target, drawn = x[:, :1], x[:, 1:]
        losses, errors = _LOSSES[loss](ops.concatenate([target, drawn + offsets], axis=1))
        rivals = ops.where(offsets > IMPOSSIBLE, drawn, offsets)  # hits ignore the correction
        hits = ops.cast(target[:, 0] > ops.max(rivals, axis=1), losses.dtype)

        def gradient(*upstream, **named):
            scaled = errors * _given(upstream, named)[0][:, None]
            return gradients(scaled, h, u)[: 2 + len(b)]

        # one tensor, since on torch only one output can have a gradient
        return ops.stack([losses, hits]), gradient

    losses, hits = ops.unstack(compute(*parameters), 2)
    return losses, hits


def _given(upstream, named):
    return named["upstream"] if named else upstream[-1]


def _combined(weights, rows):
    # three times as fast on a CPU as the sum of a product
    return ops.squeeze(ops.matmul(weights[:, None], rows), axis=1)


def _own_products(h, u, *b):
    x = ops.sum(h[:, None] * u, axis=-1)
    return x + b[0] if b else x


def _own_gradients(errors, h, u):
    return _combined(errors, u), errors[..., None] * h[:, None], errors


def _shared_products(h, u, *b):
    batch = ops.shape(h)[0]
    to_target = ops.sum(h * u[:batch], axis=-1)
    to_drawn = ops.matmul(h, ops.transpose(u[batch:]))
    if b:
        to_target, to_drawn = to_target + b[0][:batch], to_drawn + b[0][batch:]
    return ops.concatenate([to_target[:, None], to_drawn], axis=1)


def _shared_gradients(errors, h, u):
    batch = ops.shape(h)[0]
    of_target, of_drawn = errors[:, :1], errors[:, 1:]
    return (
        of_target * u[:batch] + ops.matmul(of_drawn, u[batch:]),
        ops.concatenate([of_target * h, ops.matmul(ops.transpose(of_drawn), h)], axis=0),
        ops.concatenate([of_target[:, 0], ops.sum(of_drawn, axis=0)], axis=0),
    )


def _sampled_softmax(x):
    x = x - ops.max(x, axis=1, keepdims=True)
    exponentials = ops.exp(x)
    partition = ops.sum(exponentials, axis=1)
    p = exponentials[:, 1:] / partition[:, None]
    # the sum, since p_0 − 1 loses all digits where the target is almost certain
    errors = ops.concatenate([-ops.sum(p, axis=1, keepdims=True), p], axis=1)
    return ops.log(partition) - x[:, 0], errors


def _negative_sampling(x):
    y = ops.concatenate([-x[:, :1], x[:, 1:]], axis=1)
    s = ops.sigmoid(y)
    errors = ops.concatenate([-s[:, :1], s[:, 1:]], axis=1)
    return ops.sum(ops.softplus(y), axis=1), errors


_OWN = (_own_products, _own_gradients)
_SHARED = (_shared_products, _shared_gradients)
_LOSSES = {"sampled_softmax": _sampled_softmax, "negative_sampling": _negative_sampling}
