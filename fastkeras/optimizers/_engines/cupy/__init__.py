"""CUDA kernels on arrays of CuPy, in place, on the current stream; the host never waits for them.

NumPy arrays go to the GPU and come back.
"""

from contextlib import nullcontext
from functools import cache

import cupy
import numpy as np

from fastkeras._arrays import family_of
from fastkeras._ops import cupy as device
from fastkeras.optimizers import rounding
from fastkeras.optimizers._engines.cupy import host

_name = cache(rounding.name_of)  # of a dtype; cached, since it takes long, and is asked for often


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    dtypes = [(_name(p.dtype), _name(g.dtype)) for p, g in zip(parameters, gradients, strict=True)]
    rows = [None if of_one is None else cupy.asarray(of_one) for of_one in extras.rows]
    written = parameters, slots, extras.remainders
    on_host = any(family_of(parameter) == "numpy" for parameter in parameters[:1])
    if on_host:
        gradients = list(map(_uploaded, gradients))
        written = [
            list(map(_uploaded, parameters)),
            [tuple(map(_uploaded, of_one)) for of_one in slots],
            list(map(_uploaded, extras.remainders)),
        ]
    with written[0][0].device if written[0] else nullcontext():
        not_finite = host.step(
            device,
            rule,
            written[0],
            [g if g.flags.c_contiguous else cupy.ascontiguousarray(g) for g in gradients],
            written[1],
            frozen,
            coefficients,
            decays,
            chains,
            extras._replace(rows=rows, remainders=written[2]),
            dtypes,
        )
    if on_host:
        _download(_flat(*written), _flat(parameters, slots, extras.remainders))
    finite = True if not_finite is None else not_finite[0] == 0
    return parameters, slots, extras.remainders, finite


def _uploaded(array):
    """A copy on the GPU; of halves by their bits, since CuPy may lack bfloat16."""
    if array is None:
        return None
    return cupy.asarray(array.view("uint16") if array.dtype.itemsize == 2 else array)


def _flat(parameters, slots, remainders):
    return [*parameters, *(slot for of_one in slots for slot in of_one), *remainders]


def _download(arrays, to):
    for array, target in zip(arrays, to, strict=True):
        if target is not None:
            np.copyto(target, cupy.asnumpy(array).view(target.dtype))
