"""The device of torch's CUDA tensors: memory of torch, kernels compiled by CuPy, torch's stream."""

from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import NamedTuple

import numpy as np
import torch

from fastkeras._engines import NotHere

if torch.version.hip is not None:
    raise NotHere("torch is compiled for GPUs of AMD here, and the kernels are for those of NVIDIA")
if not torch.cuda.is_available():
    raise NotHere(
        f"torch {torch.__version__} finds no GPU of NVIDIA; it is compiled for "
        + (f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs only")
    )

import cupy

from fastkeras._ops import cupy as of_cupy
from fastkeras._ops.records import Records
from fastkeras._ops.torch import LIBRARY
from fastkeras._ops.torch_arrays import DTYPE_OF

WHERE = torch.device("cuda")  # where NumPy arrays go


class Device:
    """Allocates tensors on a device of torch, and launches kernels on CuPy's current stream."""

    PARAMETER_BYTES = of_cupy.PARAMETER_BYTES

    def __init__(self, where):
        self.where = where

    def empty(self, shape, dtype):
        """A tensor that is not initialized."""
        return torch.empty(shape, dtype=DTYPE_OF[dtype], device=self.where)

    def zeros(self, shape, dtype):
        """A tensor of zeros."""
        return torch.zeros(shape, dtype=DTYPE_OF[dtype], device=self.where)

    def launch(self, kernels, name, blocks, threads, *arguments):
        """As `launch` of fastkeras/_ops/cupy.py."""
        of_cupy.launch(kernels, name, blocks, threads, *map(_address_of, arguments))


def _address_of(argument):
    if isinstance(argument, Records):
        return argument.packed(torch.Tensor.data_ptr)
    return np.uint64(argument.data_ptr()) if isinstance(argument, torch.Tensor) else argument


@contextmanager
def current(where):
    """Make a device of torch, and torch's stream there, those of CuPy."""
    with torch.cuda.device(where), _stream(torch.cuda.current_stream(where).cuda_stream):
        yield


@lru_cache(maxsize=64)
def _stream(address):
    """CuPy's name for a stream of torch."""
    if hasattr(cupy.cuda.Stream, "from_external"):  # since CuPy 14
        return cupy.cuda.Stream.from_external(_OfTorch(address))
    return cupy.cuda.ExternalStream(address)


class _OfTorch(NamedTuple):
    """A stream, by the protocol that CUDA's Python libraries share."""

    address: int

    def __cuda_stream__(self):
        return 0, self.address  # the version of the protocol


def on_cuda(name, function):
    """Let an op on CUDA tensors call a function of a `Device` and the op's inputs.

    It is eager: autograd, torch.compile and torch.func are as the op defines them. The function
    must not wait for the GPU, so that calls can be captured in CUDA graphs.
    """

    def on_tensors(*inputs):
        tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
        where = tensors[0].device
        apart = {str(x.device) for x in tensors} - {str(where)}
        if apart:
            raise ValueError(
                f"all tensors must be on one device, got {where} and {', '.join(sorted(apart))}"
            )
        inputs = (x.detach().contiguous() if isinstance(x, torch.Tensor) else x for x in inputs)
        with current(where):
            return function(Device(where), *inputs)

    torch.library.impl(f"fastkeras::{name}", "cuda", on_tensors, lib=LIBRARY)
    return on_tensors


def for_numpy(function):
    """Let a function of a chain of tensors, and more, take and return NumPy arrays as well."""

    @wraps(function)
    def on_gpu(chain, *more):
        if chain.family != "numpy":
            return function(chain, *more)
        inputs = [
            torch.tensor(x, device=WHERE) if isinstance(x, np.ndarray) else x
            for x in (*chain, *more)
        ]
        parts = len(chain)
        return _on_host(function(type(chain)(*inputs[:parts]), *inputs[parts:]))

    return on_gpu


def _on_host(result):
    if isinstance(result, torch.Tensor):
        return result.cpu().numpy()
    parts = map(_on_host, result)
    return result._make(parts) if hasattr(result, "_make") else tuple(parts)
