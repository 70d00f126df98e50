"""CUDA kernels as calls of XLA for JAX arrays on a GPU: what the host does is recorded as a plan.

One handler of the library runs all plans (csrc/doors/cuda_jax.cc), on XLA's stream, in memory that
XLA gives; so plans work under all transformations, and XLA may record them in CUDA graphs.
"""

from ctypes import c_char_p, c_int, c_void_p
from functools import cache, wraps

import jax
import numpy as np

from fastkeras._engines import NotHere
from fastkeras._ops.cuda_plan import Array, Recorder, key_of
from fastkeras._ops.gpu import has_cuda_plugin
from fastkeras._ops.jax import enable_x64, function_of, register

if not has_cuda_plugin():
    raise NotHere(
        f"JAX {jax.__version__} has no part for CUDA here: it takes `pip install 'jax[cuda13]'`, "
        "and a GPU of NVIDIA"
    )

import cupy

from fastkeras._ops.cupy import PARAMETER_BYTES  # there is an error without a GPU

PLATFORM = "cuda"  # for which plans are lowered
TARGET = register("fastkeras_cuda_plan", platform="CUDA")
_register = function_of("fastkeras_cuda_register", None, c_char_p, c_int, c_void_p)


def gpus():
    """The GPUs of NVIDIA that JAX has here."""
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:  # no such backend, or another one is asked for
        return []


def run(function, results, arrays, attributes, aliases=None):
    """Call a host's function of a device, arrays and attributes, when XLA runs the program.

    Args:
        function: returns as many arrays as there are results.
        results: their `jax.ShapeDtypeStruct`s.
        arrays: the arrays, whose shapes and dtypes are known.
        attributes: dict, the keywords.
        aliases: dict, numbers of arrays to those of results that get their memory; the function has
            to return these arrays themselves.

    Returns:
        A tuple of the results.
    """
    recorder = Recorder(PARAMETER_BYTES)
    inputs = [Array(array.shape, array.dtype) for array in arrays]
    returned = function(recorder, *inputs, **attributes)
    plan = recorder.plan(inputs, returned)
    for kernels, name in plan.kernels:
        _load(kernels, name)
    workspace = jax.ShapeDtypeStruct((plan.workspace,), np.uint8)
    call = jax.ffi.ffi_call(
        TARGET,
        (*results, workspace),
        vmap_method="sequential" if aliases else "expand_dims",
        input_output_aliases=aliases,
    )
    rank = np.int32(arrays[0].ndim)
    return call(*arrays, plan=plan.words, kernels=plan.names, rank=rank)[:-1]


@cache
def _load(kernels, name):
    """Compile a kernel, and let the library know it on every GPU that JAX has."""
    for gpu in gpus():
        number = gpu.local_hardware_id
        with cupy.cuda.Device(number):
            function = kernels.function(name, number).kernel.ptr
        _register(key_of(kernels, name).encode(), number, function)


def for_numpy(function):
    """Let a function of a chain of arrays, and more, take and return NumPy arrays as well."""

    @wraps(function)
    def on_gpu(chain, *more):
        if chain.family != "numpy":
            return function(chain, *more)
        if not gpus():
            raise ImportError(
                "JAX has started without its GPUs here: unset JAX_PLATFORMS, or set it to cuda,cpu"
            )
        with enable_x64(True), jax.default_device(gpus()[0]):
            inputs = [
                jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x for x in (*chain, *more)
            ]
            parts = len(chain)
            results = function(type(chain)(*inputs[:parts]), *inputs[parts:])
            return jax.tree.map(np.array, results)  # copies, since JAX's own are read-only

    return on_gpu
