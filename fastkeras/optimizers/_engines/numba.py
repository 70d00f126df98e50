"""The text of rules/updates.py, compiled by Numba, one element at a time."""

from collections.abc import Callable

import numba
import numpy as np

from fastkeras._arrays import NUMPY
from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rules
from fastkeras.optimizers._engines import reference

OPTIONS = {"parallel": True, "error_model": "numpy", "fastmath": {"contract"}}

EVERY_RULE = True  # also those that the kernels lack


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    active = [i for i in range(len(parameters)) if not frozen[i]]
    halves = any(parameters[i].dtype.itemsize == 2 for i in active)
    quantized = any(rules.is_quantized(rule, slots[i]) for i in active)
    halves |= any(rules.are_halves(rule, slots[i]) for i in active)
    more = any(rows is not None for rows in extras.rows) or any(extras.adapted)
    if not rules.RULES[rule].element_wise or halves or quantized or more:
        arguments = (parameters, gradients, slots, frozen, coefficients, decays, chains, extras)
        return reference.step(rule, *arguments)
    transformed, finite = of_transforms.apply(
        NUMPY,
        [gradients[i] for i in active],
        [parameters[i] for i in active],
        [chains[i] for i in active],
    )
    if not finite:
        return parameters, slots, extras.remainders, False
    for i, gradient in zip(active, transformed, strict=True):
        dtype = parameters[i].dtype.type
        c = tuple(dtype(value) for value in coefficients[i])
        flat = [array.reshape(-1) for array in (parameters[i], gradient, *slots[i])]
        _compiled(rule)(*flat, dtype(decays[i]), c)
    return parameters, slots, extras.remainders, True


_COMPILED: dict[str, Callable] = {}


def _compiled(rule):
    if rule not in _COMPILED:
        update = numba.njit(rules.RULES[rule].update)
        _COMPILED[rule] = _LOOPS[len(rules.RULES[rule].slots)](update)
    return _COMPILED[rule]


def _loop_0(update):
    @numba.njit(**OPTIONS)
    def loop(p, g, decay, c):
        for i in numba.prange(p.size):
            lost = p[i] * decay
            change, _ = update(np, p[i] - lost, g[i], (), c)
            p[i] += change - lost

    return loop


def _loop_1(update):
    @numba.njit(**OPTIONS)
    def loop(p, g, first, decay, c):
        for i in numba.prange(p.size):
            lost = p[i] * decay
            change, (first[i],) = update(np, p[i] - lost, g[i], (first[i],), c)
            p[i] += change - lost

    return loop


def _loop_2(update):
    @numba.njit(**OPTIONS)
    def loop(p, g, first, second, decay, c):
        for i in numba.prange(p.size):
            slots = (first[i], second[i])
            lost = p[i] * decay
            change, (first[i], second[i]) = update(np, p[i] - lost, g[i], slots, c)
            p[i] += change - lost

    return loop


def _loop_3(update):
    @numba.njit(**OPTIONS)
    def loop(p, g, first, second, third, decay, c):
        for i in numba.prange(p.size):
            slots = (first[i], second[i], third[i])
            lost = p[i] * decay
            change, (first[i], second[i], third[i]) = update(np, p[i] - lost, g[i], slots, c)
            p[i] += change - lost

    return loop


_LOOPS = (_loop_0, _loop_1, _loop_2, _loop_3)
