"""One step in NumPy, written to be read: transforms, decay, rule, one variable after the other.

Computes in the dtype of the parameter, but for float16 and bfloat16 in float32.
"""

import numpy as np

from fastkeras._arrays import NUMPY as xp
from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.rules import updater

EVERY_RULE = True  # also those that the kernels lack


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    active = [i for i in range(len(parameters)) if not frozen[i]]
    chosen = {i: ... if extras.rows[i] is None else extras.rows[i] for i in active}
    wide = {}
    for i in active:
        remainder = extras.remainders[i]
        rest = None if remainder is None else remainder[chosen[i]]
        wide[i] = rounding.widened(xp, parameters[i][chosen[i]], rest)
    transformed, finite = of_transforms.apply(
        xp,
        [gradients[i].astype(wide[i].dtype) for i in active],
        list(wide.values()),
        [chains[i] for i in active],
    )
    if not finite:
        return parameters, slots, extras.remainders, False
    for i, gradient in zip(active, transformed, strict=True):
        if gradient.size == 0:  # of which there is no mean
            continue
        dtype = wide[i].dtype.type
        lost = wide[i] * dtype(decays[i])
        c = tuple(dtype(value) for value in coefficients[i])
        seed = None if extras.seeds is None else extras.seeds[i]
        places = None
        if seed is not None:
            elements = np.arange(parameters[i].size, dtype="int32").reshape(parameters[i].shape)
            places = elements[chosen[i]]
        rate = dtype(extras.rates[i])
        update = updater(rule, slots[i], extras.adapted[i], rate, seed, places)
        old = [slot[chosen[i]] for slot in slots[i]]
        change, new_slots = update(xp, wide[i] - lost, gradient, old, c)
        parameter = wide[i] + (change - lost)  # rounded once
        remainder, random = extras.remainders[i], None
        if extras.dithered[i]:
            random = rounding.dither_bits(xp, seed, places)
        dtype = parameters[i].dtype.name
        held, rest = rounding.narrowed(xp, parameter, dtype, remainder is not None, random)
        parameters[i][chosen[i]] = held
        if rest is not None:
            remainder[chosen[i]] = rest
        for slot, value in zip(slots[i], new_slots, strict=True):
            slot[chosen[i]] = value
    return parameters, slots, extras.remainders, True
