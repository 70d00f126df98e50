"""CUDA C++ kernels, compiled by CuPy for the GPU of this machine; and the device of CuPy's arrays.

What the host does for a kernel is written once for all families of arrays. It gets a *device*: an
object, or module as this one, with the functions `empty`, `zeros` and `launch` below.
"""

from functools import cache
from importlib import resources

import cupy
import numpy as np

from fastkeras._engines import NotHere
from fastkeras._ops.gpu import CAPABILITY, LEAST_CAPABILITY
from fastkeras._ops.records import Records

try:
    NUM_DEVICES = cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as error:
    raise NotHere(f"CuPy finds no GPU of NVIDIA here: {error}") from error
if all(
    cupy.cuda.runtime.deviceGetAttribute(CAPABILITY[0], number) < LEAST_CAPABILITY[0]
    for number in range(NUM_DEVICES)
):
    raise NotHere("no GPU here has compute capability 8.0 (Ampere) or higher, as the kernels need")

DEVICE_HEADER = resources.files("fastkeras._ops") / "device.cuh"


OPTIONS = ("-std=c++17", "-default-device")  # unmarked functions are for the device
_VERSION = min(cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion())
PARAMETER_BYTES = 32764 if _VERSION >= 12010 else 4096  # that all arguments of a launch may have


def source(package, files):
    """The header and these .cu files of a package as one text, on which CuPy's cache depends."""
    return "\n".join(path.read_text() for path in (DEVICE_HEADER, *map(_in(package), files)))


def _in(package):
    return resources.files(package).joinpath


class Kernels:
    """Kernels of one source text, compiled with these definitions when one is first launched.

    CuPy keeps the compiled code in its cache on disk.
    """

    def __init__(self, code, **definitions):
        self.code = code
        self.options = (*OPTIONS, *(f"-D{name}={x}" for name, x in definitions.items()))

    @cache  # noqa: B019 - kernels live as long as the process
    def function(self, name, number):
        """A kernel, compiled for the GPU of this number, which is CuPy's current one."""
        return self._module(number).get_function(name)

    @cache  # noqa: B019
    def _module(self, number):
        return cupy.RawModule(code=self.code, options=self.options)


def empty(shape, dtype):
    """An array on the current GPU that is not initialized."""
    return cupy.empty(shape, dtype)


def zeros(shape, dtype):
    """An array of zeros on the current GPU."""
    return cupy.zeros(shape, dtype)


def launch(kernels, name, blocks, threads, *arguments):
    """Launch a kernel on the current stream; without blocks, nothing happens.

    Args:
        kernels: the `Kernels`.
        name: that of the kernel.
        blocks: how many, or a tuple of up to three numbers.
        threads: how many in each block.
        *arguments: arrays of this device, None for a null pointer, ints, which the kernel gets as
            `int`, scalars of NumPy, which it gets in their own types, and `Records`.
    """
    blocks = blocks if isinstance(blocks, tuple) else (blocks,)
    if 0 in blocks:  # which CUDA refuses
        return
    kernel = kernels.function(name, cupy.cuda.runtime.getDevice())
    kernel(blocks, (threads,), tuple(map(_as_taken, arguments)))


def _as_taken(argument):
    if isinstance(argument, Records):
        return argument.packed(_address_of)
    return np.int32(argument) if isinstance(argument, int) else argument


def _address_of(array):
    return array.data.ptr
