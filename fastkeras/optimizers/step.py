"""One optimizer step: the order in which things are done, for arrays and for variables of Keras."""

from itertools import chain
from typing import NamedTuple

import numpy as np

from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.rules import RULES


class Step(NamedTuple):
    """What a step is done with: of each list, one entry for each parameter.

    Attributes:
        parameters, gradients: arrays, or tensors.
        slots: tuples of these.
        learning_rate: a scalar.
        numbers: of this update, from 1; float64, one for all or for each.
        multipliers: of the learning rate; a variable of multiplier 0 is left alone.
        decays: decoupled weight decay, float64.
        chains: tuples of transforms.
        rows: None if the gradient has all rows of the parameter; or int64, the numbers of those it
            has, each once, and the others stay as they are. Where it has all, since arrays cannot
            change their shapes, a mask of them, which `keras` and `jax_native` take.
        adapted: whether a step is made as long as its parameter, times its rate.
        remainders: None, or float32, what a half parameter does not hold of its value.
        hyperparameters: dict.
        seeds: int32, to round bfloat16 at random; or None in place of them all.
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
    hyperparameters: dict
    seeds: np.ndarray | None = None


class Extras(NamedTuple):
    """What of a `Step` an engine is given beside what every step has.

    `rates` are the learning rates, float64, which only `adapted` needs: the coefficients have them
    too. For the others see `Step`.
    """

    rows: list
    remainders: list
    adapted: list
    rates: np.ndarray
    seeds: np.ndarray | None


def no_extras(count):
    """Return those of a plain step."""
    return Extras([None] * count, [None] * count, [False] * count, np.zeros(count), None)


def engine_needs(rule):
    """Return what `_engines.engine_for` is to ask of an engine, and that in words."""
    return (None if RULES[rule].has_kernel else "EVERY_RULE"), f"the rule {rule!r}"


def do(xp, engine, rule, step, noise, spread, gathered, variables=None):
    """Do a step with an engine.

    Args:
        xp: the functions of the array library.
        engine: a module.
        rule: a key of `RULES`.
        step: a `Step`.
        noise: function of a gradient: standard normal numbers like it.
        spread: function (gradient, rows, like) of a gradient that has all rows.
        gathered: function (gradient, rows) that takes this back.
        variables: what Python functions among the transforms get, if not the parameters.

    Returns:
        What `engine.step` returns: parameters, slots, remainders, and whether all gradients that
        were to be sanitized are finite. They are the arrays given, where these were updated.
    """
    frozen = xp.equal(step.multipliers, 0)
    before, chains = of_transforms.split(step.chains)
    gradients = step.gradients
    if any(before):
        gradients, chains = _transformed(
            xp, step, frozen, before, chains, noise, spread, gathered, variables
        )
    multipliers = xp.cast(step.multipliers, step.decays.dtype)
    coefficients = RULES[rule].coefficients(
        xp, step.hyperparameters, step.learning_rate, multipliers, step.numbers
    )
    like = xp.zeros_like(multipliers)
    coefficients = xp.stack([like + value for value in coefficients], axis=1)
    rates = multipliers * step.learning_rate
    extras = Extras(step.rows, step.remainders, step.adapted, rates, step.seeds)
    return engine.step(
        rule,
        step.parameters,
        gradients,
        step.slots,
        frozen,
        coefficients,
        step.decays * rates,
        chains,
        extras,
    )


def _transformed(xp, step, frozen, before, after, noise, spread, gathered, variables):
    """Do what no kernel does, and all that comes before it in its chain."""
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
    """Yield `(target, value)` for all that an engine has not updated itself.

    Args:
        step: the `Step` that it was given.
        new: its `(parameters, slots, remainders)`.
        targets: what stands for those of `step`, in the same form.
    """

    def flat(parameters, slots, remainders):
        return [*parameters, *chain(*slots), *remainders]

    old = flat(step.parameters, step.slots, step.remainders)
    for target, before, after in zip(flat(*targets), old, flat(*new), strict=True):
        if after is not before:
            yield target, after
