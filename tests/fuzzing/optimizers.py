"""Correct, small calls of the doors of the optimizers."""

import ml_dtypes
import numpy as np

from fastkeras import _core

RULES = {name: (slots, signs) for name, slots, signs in _core.optimizer_rules()}
COEFFICIENTS = {}  # how many each rule has, as the compiled function says


def coefficients_of(rule):
    if rule not in COEFFICIENTS:
        for count in range(32):
            try:
                _core.optimizer_step(*no_variables(rule, count))
            except ValueError:
                continue
            COEFFICIENTS[rule] = count
            break
    return COEFFICIENTS[rule]


def no_variables(rule, count):
    none = [], np.zeros((0, count)), np.zeros(0), [], [], [], [], [], np.zeros(0), []
    return rule, [], [], [], *none


def optimizer_step(rng):
    rule = str(rng.choice(list(RULES)))
    count = int(rng.integers(4))
    arguments = {"rule": rule, "parameters": [], "gradients": [], "slots": [], "frozen": []}
    arguments |= {"chains": [], "rows": [], "remainders": [], "adapted": [], "dithered": []}
    slots, signs = RULES[rule]
    for _ in range(count):
        dtype = str(rng.choice(("f4", "f8", "f2")))
        shape = tuple(rng.integers(1, 9, rng.integers(1, 3)))
        quantized = signs and dtype != "f8" and rng.random() < 0.3
        halved = signs and dtype != "f8" and not quantized and rng.random() < 0.3
        sparse = not quantized and rng.random() < 0.3
        adapted = not quantized and not sparse and rng.random() < 0.2
        wide = "f8" if dtype == "f8" else "f4"
        size = int(np.prod(shape))
        rows = rng.permutation(shape[0])[: rng.integers(shape[0] + 1)] if sparse else None
        gradient = shape if rows is None else (len(rows), *shape[1:])
        moments = []
        for _ in range(slots):
            if quantized:
                moments.append(rng.integers(0, 256, shape).astype("u1"))
                moments.append(rng.random(-(-size // 256)).astype("f4"))
            else:
                moments.append(rng.random(shape).astype(ml_dtypes.bfloat16 if halved else wide))
        arguments["parameters"].append(rng.standard_normal(shape).astype(dtype))
        arguments["gradients"].append(rng.standard_normal(gradient).astype(dtype))
        arguments["slots"].append(moments)
        arguments["frozen"].append(bool(rng.random() < 0.1))
        kinds = rng.integers(0, 9, rng.integers(3))
        arguments["chains"].append([(int(kind), 0.5, int(rng.integers(-1, 2))) for kind in kinds])
        arguments["rows"].append(rows)
        has_remainder = dtype == "f2" and rng.random() < 0.3
        arguments["remainders"].append(np.zeros(shape, "f4") if has_remainder else None)
        arguments["adapted"].append(bool(adapted))
        arguments["dithered"].append(bool(rng.random() < 0.2))
    arguments["coefficients"] = rng.random((count, coefficients_of(rule)))
    arguments["decays"] = 0.1 * rng.random(count)
    arguments["rates"] = rng.random(count)
    has_seeds = rng.random() < 0.9
    arguments["seeds"] = rng.integers(0, 2**32, count).tolist() if has_seeds else []
    return _core.optimizer_step, arguments


def optimizer_arrays_are_ready(rng):
    arguments = optimizer_step(rng)[1]
    names = ("rule", "parameters", "gradients", "slots")
    return _core.optimizer_arrays_are_ready, {name: arguments[name] for name in names}


def optimizer_count(rng):
    count = int(rng.integers(4))
    scalars = [np.array(rng.random(), str(rng.choice(("f4", "f8")))) for _ in range(count)]
    return _core.optimizer_count, {"scalars": scalars, "by": 1.0}


CALLS = {
    "optimizer_step": optimizer_step,
    "optimizer_arrays_are_ready": optimizer_arrays_are_ready,
    "optimizer_count": optimizer_count,
}
