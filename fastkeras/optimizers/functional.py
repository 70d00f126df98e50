"""One optimizer step on arrays: the door to the kernels for those who have no Keras model."""

import itertools

import numpy as np

from fastkeras import _engines
from fastkeras.optimizers import rounding, transforming
from fastkeras.optimizers import transforms as transform
from fastkeras.optimizers.extras import Extras
from fastkeras.optimizers.quantization import scales_of
from fastkeras.optimizers.rules import ADAPTED, KNOWS_THE_PARAMETER, QUANTIZABLE, RULES

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
        rows: for each parameter None, or the numbers of the rows that its gradient has, each once;
            all other rows, and those of its slots, stay as they are.
        layer_adaptation: make each step as long as its parameter, times the learning rate; a bool,
            or one for each parameter. The rule "lamb" always does.
        remainders: for each parameter None, or, of a float16 or bfloat16, a float32 array of its
            shape, zeros at first: what it cannot hold of its value; updated in place.
        stochastic_rounding: round bfloat16 up or down at random, right on average.
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
    rows, remainders = rows or [None] * count, remainders or [None] * count
    adapted = [layer_adaptation] * count if isinstance(layer_adaptation, bool) else layer_adaptation
    given = (
        ("gradients", gradients),
        ("slots", slots),
        ("multipliers", multipliers),
        ("weight_decays", decays),
        ("transforms", chains),
        ("rows", rows),
        ("layer_adaptation", adapted),
        ("remainders", remainders),
    )
    for name, values in given:
        if len(values) != count:
            raise ValueError(f"{name} must be {count}, one for each parameter, got {len(values)}")
    rows = [None if r is None else np.ascontiguousarray(r, np.int64) for r in rows]
    adapted = [rule in ADAPTED or bool(is_adapted) for is_adapted in adapted]
    _check_arrays(rule, parameters, gradients, slots, rows, remainders, engine)
    if rule in KNOWS_THE_PARAMETER and any(adapted):
        raise ValueError(f"layer_adaptation: {rule!r} goes by the size of a parameter already")
    for i in range(count):
        if rows[i] is not None and adapted[i]:
            raise ValueError(f"rows[{i}] must be None: layer adaptation needs all rows")
    chains = [tuple(map(_of_one_group, steps)) for steps in chains]
    c = RULES[rule].coefficients(
        np, DEFAULTS | hyperparameters, np.float64(learning_rate), multipliers, np.float64(step)
    )
    c = np.stack([np.broadcast_to(value, count) for value in c], axis=1)
    kernels = _engines.engine_for("optimizers", parameters[0] if count else np.empty(0), engine)
    gradients, chains = _transformed_before(parameters, gradients, chains, multipliers == 0, rows)
    rates = multipliers * learning_rate
    seeds = rounding.seeds(np, np.int32(step), count) if stochastic_rounding else None
    extras = Extras(rows, remainders, adapted, rates, seeds)
    if kernels.__name__.endswith("_keras"):
        gradients, extras = _by_masks(parameters, gradients, extras)
    new_parameters, new_slots, new_remainders, finite = kernels.step(
        rule,
        list(parameters),
        gradients,
        slots,
        multipliers == 0,
        c,
        decays * rates,
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


def _check_arrays(rule, parameters, gradients, slots, rows, remainders, engine):
    names = RULES[rule].slots
    known = ("float16", "bfloat16", "float32", "float64")
    for i, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        dtype = str(parameter.dtype)
        if dtype not in known and not (engine == "reference" and parameter.dtype.kind == "f"):
            raise ValueError(f"parameters[{i}] must be floating, got {dtype}")
        wide = "float32" if parameter.dtype.itemsize < 8 else dtype
        quantized = rule in QUANTIZABLE and len(slots[i]) == 2 * len(names)
        shape = parameter.shape
        if rows[i] is not None:
            _check_rows(f"rows[{i}]", rows[i], parameter, rule, quantized)
            shape = (len(rows[i]), *shape[1:])
        _check(f"gradients[{i}]", gradient, shape, (dtype, wide))
        if len(slots[i]) != len(names) and not quantized:
            raise ValueError(f"slots[{i}] of rule {rule!r} must be {names}, got {len(slots[i])}")
        for k, slot in enumerate(slots[i]):
            name = f"slots[{i}], {names[k // 2 if quantized else k]},"
            if quantized and k % 2:
                _check(f"{name} scales", slot, (scales_of(parameter.size),), ("float32",))
            elif rule != "adafactor":
                _check(name, slot, parameter.shape, ("uint8",) if quantized else (wide,))
        if remainders[i] is not None:
            _check(f"remainders[{i}]", remainders[i], parameter.shape, ("float32",))
        for name, array in (
            (f"parameters[{i}]", parameter),
            *((f"slots[{i}]", s) for s in slots[i]),
        ):
            if not (array.flags.c_contiguous and array.flags.writeable):
                raise ValueError(f"{name} must be contiguous and writeable, to be updated in place")


def _check_rows(name, rows, parameter, rule, quantized):
    if quantized or rule == "adafactor":
        raise ValueError(f"{name} must be None: neither 8-bit moments nor Adafactor go by rows")
    if rows.ndim != 1 or parameter.ndim == 0:
        raise ValueError(f"{name} must have one axis, and its parameter some, got {rows.shape}")
    if len(np.unique(rows)) < len(rows) or ((rows < 0) | (rows >= len(parameter))).any():
        raise ValueError(f"{name} must be of 0 to {len(parameter) - 1}, each once")


def _check(name, array, shape, dtypes):
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape of its parameter, {shape}, got {array.shape}")
    if str(array.dtype) not in dtypes:
        raise ValueError(f"{name} must be {' or '.join(sorted(set(dtypes)))}, got {array.dtype}")
