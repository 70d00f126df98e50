"""The CUDA kernels on tensors of torch on a GPU, updated in place, on torch's current stream.

The host waits for the GPU only for numbers of the step that are there: Keras keeps learning rate
and iterations as variables. NumPy arrays go to the GPU and come back, by the engine `cupy`.
"""

import numpy as np
import torch

from fastkeras._ops.torch_arrays import NAME_OF
from fastkeras._ops.torch_cuda import Device, current
from fastkeras.optimizers._engines import cupy
from fastkeras.optimizers._engines.cupy import host
from fastkeras.optimizers._engines.torch_tensors import apart, as_read, have_changed


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    numbers = [frozen, coefficients, decays, extras.rates, extras.seeds]
    frozen, coefficients, decays, rates, seeds = map(_numbers, numbers)
    extras = extras._replace(rates=rates, seeds=seeds)
    if any(isinstance(parameter, np.ndarray) for parameter in parameters[:1]):
        given = parameters, gradients, slots, frozen, coefficients, decays, chains, extras
        return cupy.step(rule, *given)
    written = [*parameters, *(s for of_one in slots for s in of_one), *extras.remainders]
    gradients = [as_read(g, p) for g, p in zip(gradients, parameters, strict=True)]
    gradients = apart(gradients, written) or gradients
    dtypes = [
        (NAME_OF[p.dtype], NAME_OF[g.dtype]) for p, g in zip(parameters, gradients, strict=True)
    ]
    where = parameters[0].device if parameters else torch.device("cuda")
    with torch.no_grad(), current(where):
        rows = [None if r is None else torch.as_tensor(r, device=where).long() for r in extras.rows]
        not_finite = host.step(
            *(Device(where), rule, parameters, gradients, slots, frozen.tolist()),
            *(coefficients, decays, chains, extras._replace(rows=rows), dtypes),
        )
        finite = True if not_finite is None else not_finite[0] == 0
    have_changed(written)
    return parameters, slots, extras.remainders, finite


def _numbers(values):
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
