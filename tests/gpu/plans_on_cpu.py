"""Runs plans of CUDA kernels (doors/cuda_jax.cc) on the CPU: JAX arrays, kernels of cupy_on_cpu."""

import ctypes
import traceback

from gpu import cupy_on_cpu

TARGET = "fastkeras_cuda_plan"
launched = []  # the names of the kernels
runs = True  # whether kernels run, or are only asked to
_SIZES = [ctypes.c_uint] * 7


@ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_size_t,
    *_SIZES,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)
def _launch(function, *more):
    *sizes, shared, _, addresses, _ = more
    try:
        library, name = cupy_on_cpu.FUNCTIONS[function]
        launched.append(name)
        assert shared == 0
        if runs:
            library.launch_at(name, sizes[:3], sizes[3:], cupy_on_cpu.seed, addresses)
    except Exception:
        traceback.print_exc()
        return 719  # CUDA_ERROR_LAUNCH_FAILED
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t, ctypes.c_void_p)
def _memset(address, value, size, _):
    if runs:
        ctypes.memset(address, value, size)
    return 0


def install(monkeypatch):
    """Let the engines `jax_cuda` be ready, and their programs run on the CPU."""
    import jax

    device = jax.local_devices(backend="cpu")[0]
    from fastkeras._ops import gpu
    from fastkeras._ops import jax as calls

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "has_cuda_plugin", lambda: True)
        from fastkeras._ops import jax_cuda
    function_of = calls.function_of

    monkeypatch.setattr(jax_cuda, "gpus", lambda: [device])
    monkeypatch.setattr(jax_cuda, "PLATFORM", "cpu")
    function_of("fastkeras_cuda_set_driver", None, ctypes.c_void_p, ctypes.c_void_p)(
        ctypes.cast(_launch, ctypes.c_void_p), ctypes.cast(_memset, ctypes.c_void_p)
    )
    handler = jax.ffi.pycapsule(function_of(f"{TARGET}_on_cpu", None))
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    return jax_cuda
