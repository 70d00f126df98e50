"""Calls of an optimizer outside of `fit`, on the backend of the environment."""

import keras
from keras import ops


def applied(optimizer, variables, gradients):
    """Apply the gradients of each step; return the variables as arrays.

    On JAX by one compiled function: an eager step would compile each condition anew.
    """
    if keras.backend.backend() != "jax":
        for of_step in gradients:
            optimizer.apply([ops.convert_to_tensor(g) for g in of_step], variables)
        return [variable.numpy() for variable in variables]
    import jax

    step = jax.jit(optimizer.stateless_apply)
    state, values = ([v.value for v in of] for of in (optimizer.variables, variables))
    for of_step in gradients:
        values, state = step(state, of_step, values)
    for variable, value in zip([*optimizer.variables, *variables], [*state, *values], strict=True):
        variable.assign(value)
    return [variable.numpy() for variable in variables]
