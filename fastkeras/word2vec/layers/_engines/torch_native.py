"""The C++ kernels as torch ops, for CPU tensors, eagerly and under torch.compile and torch.func.

Both operations read the rows of a matrix in place. Its gradient sums up each word of the batch, and
is written once as a whole, zeros included: Keras' optimizers take no sparse gradients on torch.
16-bit floats, and words drawn that all examples share (a product of matrices), are for `keras`.
"""

import torch
from keras import ops

from fastkeras import _core
from fastkeras._ops.torch import op
from fastkeras.word2vec.layers._engines import keras

LOSSES = ("sampled_softmax", "negative_sampling")  # `Loss` in csrc/word2vec/layers/layers.h


def pooled(matrix, ids, weights=None):
    rows = ops.convert_to_tensor(matrix)
    if rows.dtype.itemsize < 4:
        return keras.pooled(matrix, ids, weights)
    return _pooled(rows, ids if weights is not None else ids[:, None], weights)


def sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction=None):
    rows = ops.convert_to_tensor(outputs)
    if rows.dtype.itemsize < 4 or drawn.ndim == 1:
        return keras.sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction)
    if isinstance(correction, float):
        offset = rows.new_full(rows.shape[:1], correction)
    else:
        offset = None if correction is None else ops.convert_to_tensor(correction).to(rows.dtype)
    biases = None if bias is None else ops.convert_to_tensor(bias)
    words = torch.cat([targets[:, None], drawn], dim=1)
    return _losses(hidden, rows, biases, offset, words, LOSSES.index(loss))[:2]


@op(
    "word2vec_scatter(Tensor upstream, Tensor? factors, Tensor words, int num_words) -> "
    "(Tensor, Tensor)",
    like=lambda upstream, factors, words, num_words: (
        upstream.new_empty((num_words, upstream.shape[1])),
        upstream.new_empty(num_words),
    ),
    batch_axes=(0, 0, 0, None),
    result_axes=None,
    not_differentiable="the gradient of a matrix: engine='keras' can",
)
def _scatter(upstream, factors, words, num_words, num_threads):
    return _core.word2vec_layers_scatter(upstream, factors, words, num_words, num_threads)


def _gradient_of_sums(rows, words, weights, upstream):
    return _scatter(upstream, weights, words, rows.shape[0])[0], None, None


@op(
    "word2vec_pool(Tensor rows, Tensor words, Tensor? weights) -> Tensor",
    like=lambda rows, words, weights: rows.new_empty((words.shape[0], rows.shape[1])),
    batch_axes=(None, 0, 0),
    result_axes=(0,),
    backward=_gradient_of_sums,
)
def _pooled(rows, words, weights, num_threads):
    return _core.word2vec_layers_pool(rows, words, weights, num_threads)


def _gradients_of_losses(hidden, rows, bias, offset, words, loss, errors, d_hidden, d_losses):
    d_losses = d_losses[:, None]
    d_rows, d_bias = _scatter(hidden, errors * d_losses, words, rows.shape[0])
    return d_hidden * d_losses, d_rows, None if bias is None else d_bias, None, None, None


@op(
    "word2vec_loss(Tensor hidden, Tensor rows, Tensor? bias, Tensor? offset, Tensor words, "
    "int loss) -> (Tensor, Tensor, Tensor, Tensor)",
    like=lambda hidden, rows, bias, offset, words, loss: (
        hidden.new_empty(words.shape[:1]),
        hidden.new_empty(words.shape[:1]),
        hidden.new_empty(words.shape),
        hidden.new_empty(hidden.shape),
    ),
    batch_axes=(0, None, None, None, 0, None),
    result_axes=(0, 0, 0, 0),
    backward=_gradients_of_losses,
    keeps=(2, 3),
)
def _losses(hidden, rows, bias, offset, words, loss, num_threads):
    """Return losses, hits, and the derivatives of the losses by logits and hidden vectors."""
    return _core.word2vec_layers_loss(hidden, rows, bias, offset, words, loss, num_threads)
