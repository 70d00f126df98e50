"""Sparse gradients: their rows, with repeated ones summed up first."""

import keras
from keras import ops

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
ON_TORCH = keras.backend.backend() == "torch"
ON_JAX = keras.backend.backend() == "jax"
if ON_TENSORFLOW:
    import tensorflow as tf


def is_sparse(gradient):
    """Tell whether a gradient has only some rows, by number."""
    return ON_TENSORFLOW and isinstance(gradient, tf.IndexedSlices)


def dense(gradient):
    """Return a gradient that has all rows."""
    if is_sparse(gradient):
        return tf.convert_to_tensor(gradient)
    return gradient.todense() if hasattr(gradient, "todense") else gradient  # of JAX


def rows_of(gradient):
    """Return the rows of a sparse gradient, each once, and their numbers; not on JAX."""
    if is_sparse(gradient):
        numbers, places = tf.unique(tf.cast(gradient.indices, tf.int64))
        return tf.math.unsorted_segment_sum(gradient.values, places, tf.size(numbers)), numbers
    if ON_TORCH:
        numbers = ops.cast(ops.nonzero(mask_of(gradient))[0], "int64")
        return gradient[numbers], numbers
    numbers = tf.where(mask_of(gradient))[:, 0]
    return tf.gather(gradient, numbers), numbers


def at_rows_of(gradient, value):
    """Return only those rows of a value that a sparse gradient has, to write no others."""
    rows = tf.gather(value, gradient.indices)
    return tf.IndexedSlices(rows, gradient.indices, gradient.dense_shape)


def mask_of(gradient):
    """Tell which rows of a dense gradient are not zero."""
    return ops.any(ops.not_equal(gradient, 0), axis=tuple(range(1, len(gradient.shape))))


def is_numbers(rows):
    """Tell whether these are numbers of rows, rather than a mask or None."""
    return rows is not None and "int64" in str(rows.dtype)


def spread(gradient, rows, like):
    """Return the gradient with all rows, missing ones as zeros; it may have all already."""
    if not is_numbers(rows):
        return gradient
    if ON_TORCH:
        return ops.scatter(rows[:, None], gradient, tuple(like.shape))
    return tf.scatter_nd(rows[:, None], gradient, tf.shape(like, tf.int64))


def gathered(gradient, rows):
    """Undo `spread`."""
    if not is_numbers(rows):
        return gradient
    return gradient[rows] if ON_TORCH else tf.gather(gradient, rows)
