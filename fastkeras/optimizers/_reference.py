"""One step as text: transforms, decay, rule; one variable after the other, in NumPy.

Computes in the dtype of the parameter, in float32 for float16 and bfloat16.
"""

import numpy as np

from fastkeras.optimizers import transforming
from fastkeras.optimizers.rules import updater


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains):
    active = [i for i in range(len(parameters)) if not frozen[i]]
    wide = {i: parameters[i].astype(_computed_in(parameters[i])) for i in active}
    transformed, finite = transforming.apply(
        np,
        [gradients[i].astype(wide[i].dtype) for i in active],
        list(wide.values()),
        [chains[i] for i in active],
    )
    if not finite:
        return parameters, slots, False
    for i, gradient in zip(active, transformed, strict=True):
        dtype = wide[i].dtype.type
        decayed = wide[i] - wide[i] * dtype(decays[i])
        c = tuple(dtype(value) for value in coefficients[i])
        parameter, new_slots = updater(rule, slots[i])(np, decayed, gradient, slots[i], c)
        parameters[i][...] = parameter
        for slot, value in zip(slots[i], new_slots, strict=True):
            slot[...] = value
    return parameters, slots, True


def _computed_in(array):
    return np.float32 if array.dtype.itemsize == 2 else array.dtype
