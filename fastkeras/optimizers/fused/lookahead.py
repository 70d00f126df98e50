"""Lookahead: slow weights that follow the fast ones every few steps, and pull them back.

Zhang et al. 2019, "Lookahead Optimizer: k steps forward, 1 step back",
https://arxiv.org/abs/1907.08610.
"""

import keras
from keras import ops

from fastkeras.optimizers import rounding


def begin(assign, numbers, variables, slow):
    """Initialise the slow weights of each variable with its value before its first update.

    Args:
        assign: function of a variable and a value.
        numbers: the number of this update for each variable, from 1.
        variables: list of variables.
        slow: list of variables of the same shapes.
    """

    def begun():
        return [
            (
                after,
                ops.where(numbers[i] == 1, ops.cast(_value(before), after.dtype), _value(after)),
            )
            for i, (before, after) in enumerate(zip(variables, slow, strict=True))
        ]

    assign_if(assign, ops.any(numbers == 1), begun)


def _value(variable):
    return ops.convert_to_tensor(variable)


def follow(assign, number, period, slow_step_size, variables, slow, remainders, frozen):
    """After every `period` steps, move the slow weights, and set the variables to them."""

    def moved():
        pairs = []
        for i, variable in enumerate(variables):
            fast, before = ops.convert_to_tensor(variable), ops.convert_to_tensor(slow[i])
            keeps = remainders[i] is not None
            rest = ops.convert_to_tensor(remainders[i]) if keeps else None
            way = (rounding.widened(ops, fast, rest) - before) * slow_step_size
            now = way + before  # in this order: Keras adds no variables of no elements
            rounded, new_rest = rounding.narrowed(ops, now, rounding.name_of(fast.dtype), keeps)
            pairs += [(slow[i], ops.where(frozen[i], before, ops.cast(now, before.dtype)))]
            pairs += [(variable, ops.where(frozen[i], fast, rounded))]
            pairs += [(remainders[i], ops.where(frozen[i], rest, new_rest))] if keeps else []
        return pairs

    assign_if(assign, number % period == 0, moved)


def assign_if(assign, condition, pairs):
    """Assign to variables the values that `pairs()` gives, if the condition holds."""
    if keras.backend.backend() == "jax":  # where branches may not change variables
        for variable, value in pairs():
            old = ops.convert_to_tensor(variable)
            assign(variable, ops.where(condition, ops.cast(value, old.dtype), old))
        return

    def assign_all():
        for variable, value in pairs():
            assign(variable, ops.cast(value, variable.dtype))

    ops.cond(condition, assign_all, lambda: None)
