"""One optimizer step, in its order of operations, for arrays and for variables of Keras."""

from itertools import chain
from typing import NamedTuple

import numpy as np

from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.rules import RULES


class Step(NamedTuple):
    """The arguments of a step; each list has one entry for each parameter.

    Attributes:
        parameters, gradients: arrays, or tensors.
        slots: tuples of these.
        learning_rate: a scalar.
        numbers: the number of this update, from 1; float64, one for all or for each.
        multipliers: of the learning rate; a variable with multiplier 0 does not change.
        decays: decoupled weight decay, float64.
        chains: tuples of transforms.
        rows: None if all rows of the parameter are updated. Else int64, the numbers of the rows
            that the gradient has, each once; the other rows do not change. Or, for `keras` and
            `jax_native`, whose arrays cannot change shape, a mask, with a gradient of all rows.
        adapted: whether to scale a step to the length of its parameter, times its rate.
        remainders: None, or float32, what a float16 or bfloat16 parameter cannot hold of its value.
        hyperparameters: dict.
        dithered: whether to round a parameter at random, if it is bfloat16.
        seeds: int32, for all that is rounded at random, moments of 8 and 16 bits too; or None in
            place of the whole list if nothing is.
    """

    parameters: list
    gradients: list
    slots: list
    learning_rate: np.ndarray
    numbers: np.ndarray
    multipliers: np.ndarray
    decays: np.ndarray
    chains: list
    rows: list
    adapted: list
    remainders: list
    dithered: list
    hyperparameters: dict
    seeds: np.ndarray | None = None


class Extras(NamedTuple):
    """The less common parts of a `Step`, as an engine gets them.

    `rates` are the learning rates, float64; only `adapted` needs them, as otherwise they are in the
    coefficients. For the others see `Step`.
    """

    rows: list
    remainders: list
    adapted: list
    dithered: list
    rates: np.ndarray
    seeds: np.ndarray | None


def no_extras(count):
    """Return the extras of a plain step."""
    none, no = [None] * count, [False] * count
    return Extras(none, none, no, no, np.zeros(count), None)


def engine_needs(rule):
    """Return the requirement for `_engines.engine_for` to check, and its text."""
    return (None if RULES[rule].has_kernel else "EVERY_RULE"), f"the rule {rule!r}"


def do(
    xp,
    engine,
    rule,
    step,
    noise,
    spread,
    gathered,
    variables=None,
    arrays=None,
    fused=of_transforms.FUSED,
):
    """Do a step with an engine.

    Args:
        xp: the functions of the array library, at least for the numbers of the step.
        engine: a module.
        rule: a key of `RULES`.
        step: a `Step`.
        noise: function of a gradient that returns standard normal numbers of its shape.
        spread: function (gradient, rows, like) that returns a gradient with all rows.
        gathered: function (gradient, rows) that undoes this.
        variables: passed to Python functions among the transforms; by default the parameters.
        arrays: the functions for parameters and gradients; by default `xp`.
        fused: the names of transforms that are left to the engine.

    Returns:
        The result of `engine.step`: parameters, slots, remainders, and whether all gradients to be
        sanitized are finite. Arrays that were updated in place are returned themselves.
    """
    frozen = xp.equal(step.multipliers, 0)
    before, chains = of_transforms.split(step.chains, fused)
    gradients, arrays = step.gradients, arrays or xp
    if any(before):
        still = arrays.convert_to_tensor(frozen)
        gradients, chains = _transformed(
            arrays, step, still, before, chains, noise, spread, gathered, variables
        )
    multipliers = xp.cast(step.multipliers, step.decays.dtype)
    hyperparameters, decays = step.hyperparameters, step.decays
    like = xp.zeros_like(multipliers)
    if RULES[rule].takes_decay:
        hyperparameters, decays = hyperparameters | {"weight_decay": decays}, like
    coefficients = RULES[rule].coefficients(
        xp, hyperparameters, step.learning_rate, multipliers, step.numbers
    )
    coefficients = xp.stack([like + value for value in coefficients], axis=1)
    rates = multipliers * step.learning_rate
    extras = Extras(step.rows, step.remainders, step.adapted, step.dithered, rates, step.seeds)
    return engine.step(
        rule,
        step.parameters,
        gradients,
        step.slots,
        frozen,
        coefficients,
        decays * rates,
        chains,
        extras,
    )


def _transformed(xp, step, frozen, before, after, noise, spread, gathered, variables):
    """Apply the transforms that no kernel has, and all that precede them in their chains."""
    wide = [
        rounding.widened(xp, xp.convert_to_tensor(parameter), remainder)
        for parameter, remainder in zip(step.parameters, step.remainders, strict=True)
    ]
    rows = [r if steps else None for r, steps in zip(step.rows, before, strict=True)]
    gradients = [
        xp.cast(g if r is None else spread(g, r, like), like.dtype)
        for g, r, like in zip(step.gradients, rows, wide, strict=True)
    ]
    transformed, finite = of_transforms.apply(xp, gradients, wide, before, variables, noise, frozen)
    transformed = [
        g if r is None else gathered(g, r) for g, r in zip(transformed, rows, strict=True)
    ]
    return of_transforms.sanitized(xp, transformed, finite, before, after)


def changed(step, new, targets):
    """Yield `(target, value)` for all that an engine has not updated in place.

    Args:
        step: the `Step` that it was given.
        new: the `(parameters, slots, remainders)` that it returned.
        targets: what to assign to, in the same form.
    """

    def flat(parameters, slots, remainders):
        return [*parameters, *chain(*slots), *remainders]

    old = flat(step.parameters, step.slots, step.remainders)
    for target, before, after in zip(flat(*targets), old, flat(*new), strict=True):
        if after is not before:
            yield target, after
