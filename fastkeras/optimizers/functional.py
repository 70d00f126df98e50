"""One optimizer step on arrays: the door to the kernels for those who have no Keras model."""

import itertools

import numpy as np

from fastkeras import _engines
from fastkeras.optimizers import rounding, transforming
from fastkeras.optimizers.arguments import checked
from fastkeras.optimizers.extras import Extras
from fastkeras.optimizers.rules import NATIVE, RULES


def update(
    rule,
    parameters,
    gradients,
    slots,
    *,
    learning_rate,
    step=1,
    multipliers=None,
    weight_decays=None,
    transforms=None,
    rows=None,
    layer_adaptation=False,
    remainders=None,
    stochastic_rounding=False,
    engine=None,
    **hyperparameters,
):
    """Do one optimizer step in place: transforms, weight decay, and the rule, for all arrays.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`, e.g. "adam", "momentum", "lion", "lamb".
        parameters: list of NumPy arrays, float16, bfloat16, float32 or float64; updated in place,
            for which they, and all that is updated, are contiguous and share no memory.
        gradients: list of arrays of the same shapes, of any strides, in the dtype of the parameter
            or, for a half one, float32.
        slots: for each parameter a tuple of arrays of its shape, float64 if it is and else float32:
            what the rule keeps (`RULES[rule].slots`), zeros at first; updated in place. Or, of
            "adam", "lion", "momentum" and "nesterov", uint8 codes followed by float32 scales, one
            for each 256 numbers, in place of each.
        learning_rate: a number.
        step: the number of the step, from 1; rules with bias correction need it. Or one number
            for each parameter, where some began later: the first update of a parameter is its 1.
        multipliers: of the learning rate, one for each parameter, at least 0; 0 leaves it and its
            slots alone.
        weight_decays: decoupled: a parameter loses `weight_decay · learning_rate · multiplier` of
            itself before the update. One for each parameter.
        transforms: for each parameter a tuple of transforms (`fastkeras.optimizers.transforms`).
            All global norms span one group.
        rows: for each parameter None, or the numbers of the rows that its gradient has, each once;
            all other rows, and those of its slots, stay as they are.
        layer_adaptation: make each step as long as its parameter, times the learning rate; a bool,
            or one for each parameter. The rule "lamb" always does.
        remainders: for each parameter None, or, of a float16 or bfloat16, a float32 array of its
            shape, zeros at first: what it cannot hold of its value; updated in place.
        stochastic_rounding: round bfloat16 up or down at random, right on average.
        engine: None for the fastest that is ready; "native", "numba" or "reference". The kernels
            have no Adafactor.
        **hyperparameters: of the rule: `beta_1=0.9, beta_2=0.999, epsilon=1e-7, momentum=0.9,
            rho=0.9`; `u_product` for Nadam, the product of its momentums of all steps.

    Returns:
        False if nothing was changed because a gradient to be sanitized is not finite, else True.

    Raises:
        ValueError: the rule, a count, a shape, a dtype or a number is not as above.
        TypeError: an argument has no such name, or a transform is none.

    Example:
        >>> import numpy as np
        >>> from fastkeras.optimizers import update
        >>> weights = np.ones(3, np.float32)
        >>> update("sgd", [weights], [np.array([1, 2, 3], np.float32)], [()], learning_rate=0.1)
        True
        >>> weights
        array([0.9, 0.8, 0.7], dtype=float32)
    """
    arguments = checked(
        rule,
        parameters,
        gradients,
        slots,
        learning_rate=learning_rate,
        step=step,
        multipliers=multipliers,
        weight_decays=weight_decays,
        transforms=transforms,
        rows=rows,
        layer_adaptation=layer_adaptation,
        remainders=remainders,
        any_float=engine == "reference",
        hyperparameters=hyperparameters,
    )
    parameters, gradients, slots = arguments.parameters, arguments.gradients, arguments.slots
    multipliers, rows, remainders = arguments.multipliers, arguments.rows, arguments.remainders
    count, learning_rate = len(parameters), arguments.learning_rate
    needs = None if rule in NATIVE else "EVERY_RULE"
    array = parameters[0] if count else np.empty(0)
    kernels = _engines.engine_for("optimizers", array, engine, needs, f"the rule {rule!r}")
    chains = [tuple(map(_of_one_group, steps)) for steps in arguments.chains]
    c = RULES[rule].coefficients(
        np, arguments.hyperparameters, learning_rate, multipliers, arguments.numbers
    )
    c = np.stack([np.broadcast_to(value, count) for value in c], axis=1)
    gradients, chains = _transformed_before(parameters, gradients, chains, multipliers == 0, rows)
    rates = multipliers * learning_rate
    number = np.max(arguments.numbers, initial=1).astype("int32")
    seeds = rounding.seeds(np, number, count) if stochastic_rounding else None
    extras = Extras(rows, remainders, arguments.adapted, rates, seeds)
    if kernels.__name__.endswith("_keras"):
        gradients, extras = _by_masks(parameters, gradients, extras)
    new_parameters, new_slots, new_remainders, finite = kernels.step(
        rule,
        list(parameters),
        gradients,
        slots,
        multipliers == 0,
        c,
        arguments.decays * rates,
        chains,
        extras,
    )
    for old, new in zip(
        [*parameters, *itertools.chain(*slots), *remainders],
        [*new_parameters, *itertools.chain(*new_slots), *new_remainders],
        strict=True,
    ):
        if new is not old:
            old[...] = new
    return bool(finite)


def _transformed_before(parameters, gradients, chains, frozen, rows):
    """Do what no kernel does, and all that comes before it in its chain."""
    before, after = transforming.split(chains)
    if any(before):
        wide = [rounding.widened(np, p, None) for p in parameters]
        gradients = [
            (g if r is None or not steps else _spread(g, r, p)).astype(p.dtype)
            for g, p, r, steps in zip(gradients, wide, rows, before, strict=True)
        ]
        noise = np.random.default_rng().standard_normal
        transformed, finite = transforming.apply(
            np,
            gradients,
            wide,
            before,
            noise=lambda g: noise(g.shape).astype(g.dtype),
            frozen=frozen,
        )
        transformed = [
            g if r is None or not steps else g[r]
            for g, r, steps in zip(transformed, rows, before, strict=True)
        ]
        gradients, after = transforming.sanitized(np, transformed, finite, before, after)
    return list(gradients), after


def _spread(gradient, rows, parameter):
    all_rows = np.zeros(parameter.shape, gradient.dtype)
    all_rows[rows] = gradient
    return all_rows


def _by_masks(parameters, gradients, extras):
    gradients = [
        g if r is None else _spread(g, r, p)
        for g, p, r in zip(gradients, parameters, extras.rows, strict=True)
    ]
    masks = [
        None if r is None else np.isin(np.arange(len(p)), r)
        for p, r in zip(parameters, extras.rows, strict=True)
    ]
    return gradients, extras._replace(rows=masks)


def _of_one_group(step):
    is_global = getattr(step, "name", None) == "clip_by_global_norm"
    return step._replace(of=0) if is_global else step
