"""The values of weights, copied and put back, with every backend."""

import numpy as np
from keras import backend, ops


def synced(model):
    """The model, whose variables hold their values: JAX' trainer keeps them to itself."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    return model


def copied(variables):
    """Copies as NumPy arrays (torch gives views, which the next step would change)."""
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v.value))) for v in variables]


def restored(variables, values):
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def retraced(model):
    """Let a change of a variable that is not the model's count from the next step.

    JAX compiles such variables in as constants; compiling anew is the only way.
    """
    if backend.backend() == "jax":
        import jax

        model.train_function = None
        jax.clear_caches()
        model.make_train_function()
