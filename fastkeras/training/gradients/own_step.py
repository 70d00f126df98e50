"""Where an optimizer's next step would lead, without taking it."""

import contextlib

import keras
from keras import ops

from fastkeras._keras_private import BaseOptimizer


def own_step(optimizer, state, variables, values, gradients):
    """Return the values after a step of the optimizer, and change nothing.

    Clipping, decay, moments, rates and constraints are those of the optimizer; of a
    LossScaleOptimizer, those of the optimizer inside. Gradients that it would only accumulate are
    treated as those of a whole batch.

    Args:
        optimizer: a built optimizer.
        state: pairs of its variables and their values.
        variables: the trainable variables, in the order in which it knows them.
        values: of the variables before the step.
        gradients: one for each.

    Raises:
        ValueError: the optimizer is composed of several.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if hasattr(optimizer, "optimizers"):
        raise ValueError(
            f"optimizer: {type(optimizer).__name__} is made of several, and has no step of its own "
            "that a rule could try; use learning_rate_multipliers of fastkeras.optimizers"
        )
    gradients = [ops.stop_gradient(gradient) for gradient in gradients]
    mapping = [*state, *zip(variables, values, strict=True)]
    keys = {id(variable): optimizer._var_key(variable) for variable in variables}
    with keras.StatelessScope(mapping) as scope, _in_scope(optimizer, keys):
        if hasattr(optimizer, "_settings"):  # one of fastkeras.optimizers
            optimizer._step(gradients, variables, optimizer.learning_rate)
        else:
            gradients = optimizer._clip_gradients(gradients)
            BaseOptimizer._apply_weight_decay(optimizer, variables)
            if isinstance(optimizer, keras.optimizers.Nadam):  # what it does once for all variables
                number = ops.cast(optimizer.iterations + 1, optimizer._u_product.dtype)
                share = optimizer.beta_1 * (1.0 - 0.5 * ops.power(0.96, number))
                optimizer._u_product.assign(optimizer._u_product * share)
            for gradient, variable in zip(gradients, variables, strict=True):
                optimizer.update_step(gradient, variable, optimizer.learning_rate)
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        return [ops.stop_gradient(scope.get_current_value(v)) for v in variables]


@contextlib.contextmanager
def _in_scope(optimizer, keys):
    """Let an optimizer assign through variables: on TensorFlow it would bypass the scope."""
    own = {
        "assign": lambda variable, value: variable.assign(value),
        "assign_add": lambda variable, value: variable.assign(ops.add(variable, value)),
        "assign_sub": lambda variable, value: variable.assign(ops.subtract(variable, value)),
        "_var_key": lambda variable: keys[id(variable)],
    }
    optimizer.__dict__.update(own)
    try:
        yield
    finally:
        for name in own:
            del optimizer.__dict__[name]
