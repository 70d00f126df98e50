"""The gradient of a function of tensors, on every backend; it can itself be differentiated."""

from keras import backend


def value_and_gradients(function, values):
    """Return `function(values)`, a pair that begins with a scalar, and that scalar's gradients.

    Gradients are dense and never None: a value that the scalar does not depend on gets zeros.

    Args:
        function: from a list of tensors to a pair.
        values: list of float tensors.
    """
    return _ON[backend.backend()](function, values)


def _tensorflow(function, values):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(values)
        results = function(values)
    zero = tf.UnconnectedGradients.ZERO
    gradients = tape.gradient(results[0], values, unconnected_gradients=zero)
    return results, [tf.convert_to_tensor(gradient) for gradient in gradients]


def _jax(function, values):
    import jax

    return jax.value_and_grad(function, has_aux=True)(values)


def _torch(function, values):
    import torch

    outer = torch.is_grad_enabled() and any(value.requires_grad for value in values)
    with torch.enable_grad():
        values = [v if v.requires_grad else v.detach().requires_grad_() for v in values]
        results = function(values)
        gradients = torch.autograd.grad(
            results[0], values, create_graph=outer, allow_unused=True, materialize_grads=True
        )
    return results, list(gradients)


_ON = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}
