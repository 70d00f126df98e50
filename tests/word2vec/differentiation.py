"""Gradients by each backend of Keras, for tests of the engines of the layers."""

from contextlib import nullcontext

import keras
import numpy as np

BACKEND = keras.backend.backend()


def results_and_gradients(function, tensors, matrices, upstream, dtype):
    """Return as NumPy arrays the results, and the gradients of Σ upstream · first result.

    Args:
        function: of all tensors and then of all matrices; returns a tuple of tensors.
        tensors, matrices: floating-point arrays. On TensorFlow the function gets the latter as
            variables, whose gradients may be sparse.
        upstream: array of the first result's shape.
        dtype: of all these arrays.
    """
    found = {"tensorflow": _by_tensorflow, "jax": _by_jax, "torch": _by_torch}[BACKEND]
    with float64_of_jax(dtype):
        return tuple([np.array(a) for a in part] for part in found(
            function, tensors, matrices, upstream
        ))  # fmt: skip


def float64_of_jax(dtype):
    if BACKEND != "jax" or dtype != "float64":
        return nullcontext()
    from fastkeras._ops.jax import enable_x64

    return enable_x64(True)


def _by_tensorflow(function, tensors, matrices, upstream):
    import tensorflow as tf

    tensors = [tf.constant(array) for array in tensors]
    variables = [keras.Variable(array, dtype=array.dtype.name) for array in matrices]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        results = function(*tensors, *variables)
    by = [*tensors, *(variable.value for variable in variables)]
    gradients = tape.gradient(results[0], by, upstream, tf.UnconnectedGradients.ZERO)
    return results, map(tf.convert_to_tensor, gradients)


def _by_jax(function, tensors, matrices, upstream):
    import jax

    results, pull = jax.vjp(function, *map(jax.numpy.asarray, [*tensors, *matrices]))
    upstream = jax.numpy.asarray(upstream), *map(jax.numpy.zeros_like, results[1:])
    return results, pull(upstream)


def _by_torch(function, tensors, matrices, upstream):
    import torch

    by = [torch.tensor(array, requires_grad=True) for array in [*tensors, *matrices]]
    results = function(*by)
    gradients = torch.autograd.grad(
        results[0], by, torch.tensor(upstream), allow_unused=True, materialize_grads=True
    )
    return [result.detach() for result in results], gradients
