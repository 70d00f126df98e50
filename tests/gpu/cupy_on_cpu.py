"""Replaces CuPy where there is no GPU: arrays in CPU memory, kernels run by cuda_on_cpu.py.

As strict as CuPy where it matters: only `asnumpy` converts its arrays to NumPy, and they do not mix
with NumPy arrays. It has only what the package calls.
"""

import ctypes
import sys
from contextlib import nullcontext
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np

from gpu.cuda_on_cpu import Library, has_compiler

SCALARS = {
    np.dtype("int32"): ctypes.c_int32,
    np.dtype("int64"): ctypes.c_int64,
    np.dtype("uint64"): ctypes.c_uint64,  # an address too
    np.dtype("float32"): ctypes.c_float,
    np.dtype("float64"): ctypes.c_double,
}
OF_ARRAYS = (
    *("abs", "all", "any", "argmax", "argsort", "broadcast_to", "clip", "cumsum", "exp"),
    *("full_like", "isfinite", "log", "matmul", "max", "maximum", "mean", "min", "ones_like"),
    *("reshape", "sqrt", "sum", "take", "take_along_axis", "transpose", "where", "zeros_like"),
)
OF_LISTS = ("concatenate", "stack")
seed = 0  # for the order in which blocks and threads run


def install():
    """Let `import cupy` find this module, unless CuPy has a GPU here, or there is no compiler."""
    if "cupy" in sys.modules or not has_compiler() or has_gpu():
        return
    module = ModuleType("cupy", __doc__)
    module.__spec__ = ModuleSpec("cupy", None)
    module.__version__ = "on CPUs"
    module.ndarray, module.RawModule = ndarray, RawModule
    module.asarray, module.asnumpy, module.bool_ = asarray, asnumpy, np.bool_
    module.cuda = ModuleType("cupy.cuda")
    module.cuda.Device = nullcontext
    module.cuda.runtime = ModuleType("cupy.cuda.runtime")
    module.cuda.runtime.getDeviceCount = lambda: 1
    module.cuda.runtime.getDevice = lambda: 0
    module.cuda.runtime.runtimeGetVersion = lambda: 13000
    module.cuda.runtime.driverGetVersion = lambda: 13000
    module.cuda.runtime.deviceGetAttribute = lambda attribute, device: 9
    module.cuda.runtime.CUDARuntimeError = RuntimeError
    for name in ("empty", "zeros", "ones", "full", "arange"):
        setattr(module, name, made_by(getattr(np, name)))
    for name in OF_ARRAYS:
        setattr(module, name, of_arrays(getattr(np, name)))
    for name in OF_LISTS:
        setattr(module, name, of_lists(getattr(np, name)))
    module.ascontiguousarray = lambda value: _device(np.ascontiguousarray(_host(asarray(value))))
    sys.modules["cupy"] = module


def has_gpu():
    if find_spec("cupy") is None:
        return False
    import cupy

    try:
        return cupy.cuda.runtime.getDeviceCount() > 0
    except cupy.cuda.runtime.CUDARuntimeError:
        del sys.modules["cupy"]
        return False


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the "device", which here is the CPU."""

    __module__ = "cupy"

    def __init__(self, host):
        self._host = host

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: take cupy.asnumpy")

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        return _device(getattr(ufunc, method)(*map(_host, inputs), **more))

    def __getitem__(self, key):
        return _device(self._host[_host(key)])

    def __setitem__(self, key, value):
        self._host[_host(key)] = _host(value)

    def __len__(self):
        return len(self._host)

    def __bool__(self):
        return bool(self._host)

    def __repr__(self):
        return repr(self._host)

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    flags = property(lambda self: self._host.flags)
    device = property(lambda self: nullcontext())
    nbytes = property(lambda self: self._host.nbytes)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))

    def get(self):
        return np.array(self._host)

    def copy(self, order="C"):
        return ndarray(self._host.copy(order))

    def astype(self, dtype, copy=True):
        return ndarray(self._host.astype(dtype, copy=copy))

    def reshape(self, *shape):
        return ndarray(self._host.reshape(*shape))

    def sum(self, *args, **more):
        return _device(self._host.sum(*args, **more))

    def all(self):
        return _device(self._host.all())


def asarray(value, dtype=None):
    """An array on the device, copied if it was a NumPy array."""
    if isinstance(value, ndarray):
        return value if dtype is None else value.astype(dtype, copy=False)
    return ndarray(np.array(value, dtype))


def asnumpy(array):
    """A copy as a NumPy array."""
    return np.array(_host(array)) if isinstance(array, ndarray) else np.asarray(array)


def made_by(function):
    return lambda *arguments, **more: ndarray(function(*map(_host, arguments), **more))


def of_arrays(function):
    """The function, of an array that may be followed by numbers: CuPy's take no number first."""

    def of_array(array, *more, **named):
        if not isinstance(array, ndarray):
            raise TypeError(f"{function.__name__} takes a cupy.ndarray, got {type(array)}")
        return _device(function(_host(array), *map(_host, more), **named))

    return of_array


def of_lists(function):
    return lambda arrays, **named: _device(function([*map(_host, arrays)], **named))


def _host(value):
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, tuple):
        return tuple(map(_host, value))
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"Unsupported type {type(value)}: take cupy.asarray")
    return value


def _device(result):
    return ndarray(np.asarray(result))  # a scalar is an array without dimensions


class RawModule:
    """The kernels of one source text."""

    def __init__(self, *, code, backend="nvrtc", options=(), name_expressions=None):
        defines = [option for option in options if option.startswith("-D")]
        self._library = Library(code, "kernels", defines)

    def get_function(self, name):
        if not self._library.has(name):
            raise RuntimeError(f"CUDA_ERROR_NOT_FOUND: {name}: named symbol not found")

        return RawKernel(self._library, name)


FUNCTIONS = {}  # what stands for the address of a loaded kernel: its library and name


class RawKernel:
    """A kernel, which is loaded."""

    def __init__(self, library, name):
        self._library, self._name = library, name
        self.kernel = SimpleNamespace(ptr=len(FUNCTIONS) + 1)
        FUNCTIONS[self.kernel.ptr] = library, name

    def __call__(self, grid, block, args):
        arguments = [_argument(value) for value in args]
        self._library.launch(self._name, grid, block, seed, arguments)


def _argument(value):
    """The argument for a kernel: a pointer, or a number of exactly the right type, as in CuPy."""
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, ndarray):
        assert value.flags.c_contiguous, "kernels take arrays without strides"
        return ctypes.c_void_p(value._host.ctypes.data if value.size else None)
    if isinstance(value, np.ndarray) and value.size == 1:  # a struct
        return ctypes.create_string_buffer(value.tobytes(), value.nbytes)
    assert isinstance(value, np.generic), f"a kernel's number needs a type: {value!r}"
    return SCALARS[value.dtype](value.item())
