"""The CUDA kernels as one call of XLA, for JAX arrays on a GPU, eagerly and in compiled programs.

The step is that of jax_native.py, whose call runs on whichever platform its program is compiled
for. NumPy arrays go to the GPU and come back, by the engine `cupy`.
"""

import numpy as np

from fastkeras._ops import jax_cuda as _jax_cuda  # noqa: F401 - raises an error without a GPU
from fastkeras.optimizers._engines import cupy, jax_native
from fastkeras.optimizers._engines.cupy import host
from fastkeras.optimizers.rules import RULES
from fastkeras.optimizers.step import Extras


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    of_numpy = any(isinstance(parameter, np.ndarray) for parameter in parameters[:1])
    do = cupy.step if of_numpy else jax_native.step
    return do(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras)


def _step(device, *arrays, rule, N, chains, **flags):
    """The results of the call, in its order: all that is written, and whether it was not finite."""
    rest = iter(arrays)

    def take(flags):
        return [next(rest) if flag == "1" else None for flag in flags]

    each = "1" * N
    parameters, count = take(each), len(RULES[rule].slots)
    slots = [take("1" * count * (2 if flag == "1" else 1)) for flag in flags["quantized"]]
    remainders = take(flags["has_remainder"])
    gradients, rows = take(each), take(flags["has_rows"])
    frozen, coefficients, decays, rates, seeds = rest
    extras = Extras(
        rows=rows,
        remainders=remainders,
        **{name: [flag == "1" for flag in flags[name]] for name in ("adapted", "dithered")},
        rates=rates,
        seeds=seeds if seeds.bytes else None,
    )
    dtypes = [(p.dtype.name, g.dtype.name) for p, g in zip(parameters, gradients, strict=True)]
    not_finite = host.step(
        *(device, rule, parameters, gradients, slots, frozen, coefficients, decays, chains),
        *(extras, dtypes),
    )
    if not_finite is None:
        not_finite = device.zeros((1,), "int32")
    written = [*parameters, *(s for of_one in slots for s in of_one), *remainders]
    return *(array for array in written if array is not None), not_finite


KERNELS = {jax_native.NAME: _step}
