"""The C++ kernels as TensorFlow ops: eager and in graphs, on the CPU.

Each word of a batch is looked up once, however often it occurs, so the gradient of a matrix, a
`tf.IndexedSlices`, has each row once, summed up. csrc/word2vec/layers/layers.h has the kernels.
"""

import tensorflow as tf

from fastkeras._ops.tensorflow import library
from fastkeras.word2vec.layers._engines import keras

LOSSES = ("sampled_softmax", "negative_sampling")  # `Loss` in csrc/word2vec/layers.h


def pooled(matrix, ids, weights=None):
    groups = _group(ids if weights is not None else ids[:, None], matrix, weights is not None)
    factors = tf.zeros(0, _dtype(matrix)) if weights is None else weights

    @tf.custom_gradient
    def pool(rows):
        def gradient(upstream):
            return _spread(upstream, factors, groups)[0]

        sums = library.fastkeras_word2vec_pool(
            rows, groups.places, factors, num_threads=_num_threads()
        )
        return sums, gradient

    return pool(keras.rows_of(matrix, groups.rows))


def sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction=None):
    if len(drawn.shape) == 1:  # mostly a product of two matrices
        return keras.sampled_loss(loss, hidden, outputs, bias, targets, drawn, correction)
    groups = _group(tf.concat([targets[:, None], drawn], axis=1), outputs, False)
    none = tf.zeros(0, hidden.dtype)
    biases = none if bias is None else keras.rows_of(bias, groups.rows)
    offset = none
    if isinstance(correction, float):
        offset = tf.fill(tf.shape(groups.rows), tf.constant(correction, hidden.dtype))
    elif correction is not None:
        offset = tf.cast(tf.gather(correction.value, groups.rows), hidden.dtype)

    @tf.custom_gradient
    def compute(h, u, b):
        losses, hits, errors, d_hidden = library.fastkeras_word2vec_loss(
            h, u, b, offset, groups.places, loss=LOSSES.index(loss), num_threads=_num_threads()
        )

        def gradient(d_losses, _):
            d_rows, d_bias = _spread(h, errors * d_losses[:, None], groups)
            return d_losses[:, None] * d_hidden, d_rows, none if bias is None else d_bias

        return (losses, hits), gradient

    return compute(hidden, keras.rows_of(outputs, groups.rows), biases)


def _group(ids, matrix, holes):
    return library.fastkeras_word2vec_group(ids, num_words=matrix.shape[0], holes=holes)


def _spread(upstream, factors, groups):
    return library.fastkeras_word2vec_spread(
        upstream, factors, groups.order, groups.starts, num_threads=_num_threads()
    )


def _dtype(matrix):
    return tf.float64 if matrix.dtype == "float64" else tf.float32


def _num_threads():
    return tf.config.threading.get_intra_op_parallelism_threads()  # 0: all processors
