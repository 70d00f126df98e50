"""The C++ kernels as calls of XLA, for JAX arrays on the CPU, eagerly and in compiled programs.

Both operations read the rows of a matrix in place. Its gradient sums up each word of the batch, and
is written once as a whole, zeros included, since JAX has no sparse gradients for optimizers. 16-bit
floats, and words drawn that all examples share (a product of matrices), are left to `keras`.
"""

from jax import ShapeDtypeStruct
from jax import numpy as jnp

from fastkeras._ops.jax import differentiable, op
from fastkeras.word2vec.layers._engines import keras

LOSSES = ("sampled_softmax", "negative_sampling")  # `Loss` in csrc/word2vec/layers/layers.h
KERAS = "engine='keras' can"


def pooled(matrix, ids, weights=None):
    rows = jnp.asarray(matrix)
    if rows.dtype.itemsize < 4:
        return keras.pooled(matrix, ids, weights)
    if weights is None:
        ids, weights = ids[:, None], _none(rows)
    return _pooled(rows, ids, weights, num_words=rows.shape[0])


def sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction=None):
    rows = jnp.asarray(outputs)
    if rows.dtype.itemsize < 4 or drawn.ndim == 1:
        return keras.sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction)
    if isinstance(correction, float):
        offset = jnp.full(rows.shape[0], correction, rows.dtype)
    else:
        offset = _none(rows) if correction is None else jnp.asarray(correction).astype(rows.dtype)
    biases = _none(rows) if bias is None else jnp.asarray(bias)
    words = jnp.concatenate([targets[:, None], drawn], axis=1)
    return _losses(hidden, rows, biases, offset, words, loss=LOSSES.index(loss))


def _none(rows):
    """Return the placeholder of an array that is left out."""
    return jnp.zeros(0, rows.dtype)


_pool = op(
    "fastkeras_word2vec_pool",
    lambda rows, words, _: ShapeDtypeStruct((words.shape[0], rows.shape[1]), rows.dtype),
    "sums of rows twice",
    KERAS,
)
_scatter = op(
    "fastkeras_word2vec_scatter",
    lambda upstream, factors, words, num_words: (
        ShapeDtypeStruct((num_words, upstream.shape[1]), upstream.dtype),
        ShapeDtypeStruct((num_words,), upstream.dtype),
    ),
    "the gradient of a matrix",
    KERAS,
)
_loss = op(
    "fastkeras_word2vec_loss",
    lambda hidden, rows, bias, offset, words, loss: (
        *(ShapeDtypeStruct(words.shape[:1], hidden.dtype),) * 2,
        ShapeDtypeStruct(words.shape, hidden.dtype),
        ShapeDtypeStruct(hidden.shape, hidden.dtype),
    ),
    "the loss twice",
    KERAS,
)


def _pooled_forward(attributes, rows, words, weights):
    return _pool(rows, words, weights), (words, weights)


def _pooled_backward(attributes, kept, upstream):
    words, weights = kept
    return _scatter(upstream, weights, words, **dict(attributes))[0], None, None


_pooled = differentiable(
    lambda attributes, *arrays: _pool(*arrays), _pooled_forward, _pooled_backward
)


def _losses_forward(attributes, hidden, rows, bias, offset, words):
    losses, hits, errors, d_hidden = _loss(hidden, rows, bias, offset, words, **dict(attributes))
    return (losses, hits), (hidden, rows, bias, words, errors, d_hidden)


def _losses_backward(attributes, kept, upstream):
    hidden, rows, bias, words, errors, d_hidden = kept
    d_losses = upstream[0][:, None]
    d_rows, d_bias = _scatter(hidden, errors * d_losses, words, num_words=rows.shape[0])
    return d_hidden * d_losses, d_rows, d_bias if bias.size else bias, None, None


_losses = differentiable(
    lambda attributes, *arrays: _loss(*arrays, **dict(attributes))[:2],
    _losses_forward,
    _losses_backward,
)
