"""One optimizer step on arrays: the door to the kernels for those who have no Keras model."""

import itertools

import numpy as np

from fastkeras import _engines
from fastkeras.optimizers import transforming
from fastkeras.optimizers import transforms as transform
from fastkeras.optimizers.quantization import scales_of
from fastkeras.optimizers.rules import QUANTIZABLE, RULES

DEFAULTS = {
    "momentum": 0.9,
    "rho": 0.9,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "beta_2_decay": -0.8,
    "epsilon_1": 1e-30,
    "epsilon_2": 1e-3,
    "clip_threshold": 1.0,
}


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
    engine=None,
    **hyperparameters,
):
    """Do one optimizer step in place: transforms, weight decay, and the rule, for all arrays.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`, e.g. "adam", "momentum", "lion", "lamb".
        parameters: list of NumPy arrays, float16, bfloat16, float32 or float64; updated in place.
        gradients: list of arrays of the same shapes.
        slots: for each parameter a tuple of arrays of its shape, float64 if it is and else float32:
            what the rule keeps (`RULES[rule].slots`), zeros at first; updated in place. Or, of
            "adam", "lion", "momentum" and "nesterov", uint8 codes followed by float32 scales, one
            for each 256 numbers, in place of each.
        learning_rate: a number.
        step: the number of the step, from 1; rules with bias correction need it.
        multipliers: of the learning rate, one for each parameter; 0 leaves it and its slots alone.
        weight_decays: decoupled: a parameter loses `weight_decay · learning_rate · multiplier` of
            itself before the update. One for each parameter.
        transforms: for each parameter a tuple of transforms (`fastkeras.optimizers.transforms`).
            All global norms span one group.
        engine: None for the fastest that is ready; "native", "numba" or "reference".
        **hyperparameters: of the rule: `beta_1=0.9, beta_2=0.999, epsilon=1e-7, momentum=0.9,
            rho=0.9`; `u_product` for Nadam.

    Returns:
        False if nothing was changed because a gradient to be sanitized is not finite, else True.

    Raises:
        ValueError: the rule, a count, a shape or a dtype is not as above.

    Example:
        >>> import numpy as np
        >>> from fastkeras.optimizers import update
        >>> weights = np.ones(3, np.float32)
        >>> update("sgd", [weights], [np.array([1, 2, 3], np.float32)], [()], learning_rate=0.1)
        True
        >>> weights
        array([0.9, 0.8, 0.7], dtype=float32)
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is unknown; these exist: {', '.join(RULES)}")
    count = len(parameters)
    unknown = set(hyperparameters) - {*DEFAULTS, "u_product"}
    if unknown:
        raise TypeError(f"update got unexpected arguments: {', '.join(sorted(unknown))}")
    multipliers = np.asarray([1.0] * count if multipliers is None else multipliers, np.float64)
    decays = np.asarray([0.0] * count if weight_decays is None else weight_decays, np.float64)
    chains = [()] * count if transforms is None else [transform.chain(c) for c in transforms]
    given = (
        ("gradients", gradients),
        ("slots", slots),
        ("multipliers", multipliers),
        ("weight_decays", decays),
        ("transforms", chains),
    )
    for name, values in given:
        if len(values) != count:
            raise ValueError(f"{name} must be {count}, one for each parameter, got {len(values)}")
    _check_arrays(rule, parameters, gradients, slots, engine)
    chains = [tuple(map(_of_one_group, steps)) for steps in chains]
    c = RULES[rule].coefficients(
        np, DEFAULTS | hyperparameters, np.float64(learning_rate), multipliers, np.float64(step)
    )
    c = np.stack([np.broadcast_to(value, count) for value in c], axis=1)
    kernels = _engines.engine_for("optimizers", parameters[0] if count else np.empty(0), engine)
    gradients, chains = _transformed_before(parameters, gradients, chains, multipliers == 0)
    decays = decays * multipliers * learning_rate
    new_parameters, new_slots, finite = kernels.step(
        rule, list(parameters), gradients, slots, multipliers == 0, c, decays, chains
    )
    for old, new in zip(
        [*parameters, *itertools.chain(*slots)],
        [*new_parameters, *itertools.chain(*new_slots)],
        strict=True,
    ):
        if new is not old:
            old[...] = new
    return bool(finite)


def _transformed_before(parameters, gradients, chains, frozen):
    """Do what no kernel does, and all that comes before it in its chain."""
    before, after = transforming.split(chains)
    if any(before):
        wide = [p.astype(np.float32) if p.dtype.itemsize == 2 else p for p in parameters]
        gradients = [g.astype(p.dtype) for g, p in zip(gradients, wide, strict=True)]
        noise = np.random.default_rng().standard_normal
        transformed = transforming.apply(
            np,
            gradients,
            wide,
            before,
            noise=lambda g: noise(g.shape).astype(g.dtype),
            frozen=frozen,
        )
        gradients, after = transforming.sanitized(np, *transformed, before, after)
    return list(gradients), after


def _of_one_group(step):
    is_global = getattr(step, "name", None) == "clip_by_global_norm"
    return step._replace(of=0) if is_global else step


def _check_arrays(rule, parameters, gradients, slots, engine):
    names = RULES[rule].slots
    known = ("float16", "bfloat16", "float32", "float64")
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        dtype = str(parameter.dtype)
        if dtype not in known and not (engine == "reference" and parameter.dtype.kind == "f"):
            raise ValueError(f"parameters[{i}] must be floating, got {dtype}")
        wide = "float32" if parameter.dtype.itemsize < 8 else dtype
        _check(f"gradients[{i}]", gradient, parameter.shape, (dtype, wide))
        quantized = rule in QUANTIZABLE and len(slots[i]) == 2 * len(names)
        if len(slots[i]) != len(names) and not quantized:
            raise ValueError(f"slots[{i}] of rule {rule!r} must be {names}, got {len(slots[i])}")
        for k, slot in enumerate(slots[i]):
            name = f"slots[{i}], {names[k // 2 if quantized else k]},"
            if quantized and k % 2:
                _check(f"{name} scales", slot, (scales_of(parameter.size),), ("float32",))
            elif rule != "adafactor":
                _check(name, slot, parameter.shape, ("uint8",) if quantized else (wide,))
        for name, array in (
            (f"parameters[{i}]", parameter),
            *((f"slots[{i}]", s) for s in slots[i]),
        ):
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise ValueError(f"{name} must be contiguous and writeable, to be updated in place")


def _check(name, array, shape, dtypes):
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of its parameter, {shape}, got {array.shape}")
    if str(array.dtype) not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(sorted(set(dtypes)))}, got {array.dtype}")
