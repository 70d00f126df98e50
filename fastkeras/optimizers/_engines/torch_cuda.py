"""The CUDA kernels on tensors of torch on a GPU, updated in place, on torch's current stream.

The host never waits for the GPU: numbers of the step that are there, as those of Keras, are read
there. NumPy arrays go to the GPU and come back, by the engine `cupy`.
"""

from itertools import chain

import numpy as np
import torch

from fastkeras._ops.torch_arrays import NAME_OF
from fastkeras._ops.torch_cuda import Device, current
from fastkeras.optimizers._engines import cupy
from fastkeras.optimizers._engines.cupy import host
from fastkeras.optimizers._engines.torch_tensors import apart, as_read, have_changed


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    if any(isinstance(parameter, np.ndarray) for parameter in parameters[:1]):
        given = parameters, gradients, slots, frozen, coefficients, decays, chains, extras
        return cupy.step(rule, *given)
    where = parameters[0].device if parameters else torch.device("cuda")
    numbers = [frozen, coefficients, decays, extras.rates, extras.seeds]
    frozen, coefficients, decays, rates, seeds = (_numbers(x, where) for x in numbers)
    extras = extras._replace(rates=rates, seeds=seeds)
    remainders = [r for r in extras.remainders if r is not None]
    written = [*parameters, *chain.from_iterable(slots), *remainders]
    gradients = [as_read(g, p) for g, p in zip(gradients, parameters, strict=True)]
    gradients = apart(gradients, written) or gradients
    dtypes = [
        (NAME_OF[p.dtype], NAME_OF[g.dtype]) for p, g in zip(parameters, gradients, strict=True)
    ]
    with torch.no_grad(), current(where):
        rows = [None if r is None else torch.as_tensor(r, device=where).long() for r in extras.rows]
        not_finite = host.step(
            *(Device(where), rule, parameters, gradients, slots, frozen),
            *(coefficients, decays, chains, extras._replace(rows=rows), dtypes),
        )
        finite = True if not_finite is None else not_finite[0] == 0
    have_changed(written)
    return parameters, slots, extras.remainders, finite


def _numbers(values, where):
    """Numbers for all variables: a tensor on the GPU, or a NumPy array of what the host knows."""
    if not isinstance(values, torch.Tensor):
        return values
    values = values.detach()
    return values.contiguous() if values.device == where else values.cpu().numpy()
