"""CUDA C++ kernels of the `cupy` engines, compiled by CuPy for the GPU of this machine."""

from functools import cache
from importlib import resources

import cupy
import numpy as np

try:
    NUM_DEVICES = cupy.cuda.runtime.getDeviceCount()
except cupy.cuda.runtime.CUDARuntimeError as error:
    raise ImportError(f"CuPy finds no GPU of NVIDIA here: {error}") from error

DEVICE_HEADER = resources.files("fastkeras._ops") / "device.cuh"


OPTIONS = ("-std=c++17", "-default-device")  # unmarked functions are for the device


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

    def launch(self, name, blocks, threads, *arguments):
        """Launch a kernel on the current stream; it gets ints as `int`, None as a null pointer."""
        blocks = blocks if isinstance(blocks, tuple) else (blocks,)
        numbers = (np.int32(x) if isinstance(x, int) else x for x in arguments)
        self._function(name, cupy.cuda.runtime.getDevice())(blocks, (threads,), tuple(numbers))

    @cache  # noqa: B019 - kernels live as long as the process
    def _function(self, name, device):
        return self._module(device).get_function(name)

    @cache  # noqa: B019
    def _module(self, device):
        return cupy.RawModule(code=self.code, options=self.options)
