"""One set of functions for arrays of every family, named as in keras.ops; also for NumPy, CuPy."""

import sys
from functools import cache

import numpy as np

FAMILY_OF_PACKAGE = {  # by the package of an array's type; other types are converted by NumPy
    "cupy": "cupy",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
}


def family_of(array):
    """Return the family of an array: numpy, cupy, tensorflow, jax or torch.

    Arrays that are not on the CPU have families of their own, torch_elsewhere and jax_elsewhere,
    since no kernel for CPUs may get them. Keras' variables have the family of their values, its
    symbolic tensors that of its backend. Lists, and all unknown types, count as numpy.
    """
    if type(array) is np.ndarray:  # the quick way, since functions of NumPy arrays ask often
        return "numpy"
    if _is_tensor_of_torch(array):
        return "torch" if array.device.type == "cpu" else "torch_elsewhere"
    package = type(array).__module__.partition(".")[0]
    if package == "keras":
        import keras

        if isinstance(array, keras.Variable):
            return family_of(array.value)
        family = keras.backend.backend()
        return "jax_elsewhere" if family == "jax" and not _jax_is_on_cpu() else family
    family = FAMILY_OF_PACKAGE.get(package, "numpy")
    if family == "jax" and not _jax_is_on_cpu(array):
        return "jax_elsewhere"
    return family


def _is_tensor_of_torch(array):
    """Whether it is a torch tensor, or of a subclass; in a form that torch.compile can trace."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, getattr(torch, "Tensor", ()))


def _jax_is_on_cpu(array=None):
    """Whether a JAX array is on the CPU and stays there.

    An array without values, or not committed to a device, follows JAX's default device.
    """
    import jax

    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
        on_cpu = all(device.platform == "cpu" for device in array.devices())
        if not on_cpu or getattr(array, "committed", False):
            return on_cpu
    return jax.default_backend() == "cpu"


def _is_of_jax(array):
    """Whether it is a JAX array, not a variable or symbolic tensor of Keras on JAX."""
    return FAMILY_OF_PACKAGE.get(type(array).__module__.partition(".")[0]) == "jax"


def array_functions(array):
    """The functions for this array, under their names in keras.ops."""
    family = family_of(array)
    if _is_tensor_of_torch(array):
        from fastkeras._ops import torch_arrays

        return torch_arrays if family == "torch" else torch_arrays.On(array.device)
    if family == "numpy":
        return NUMPY
    if family == "cupy":
        import cupy

        return Spoken(cupy)
    if _is_of_jax(array):
        from fastkeras._ops import jax_arrays

        return jax_arrays
    from keras import ops

    return ops


def dtype_of(array):
    """The name of the dtype of an array of any family, such as "float32"."""
    if type(array) is np.ndarray:
        return _name_of(array.dtype)
    family = family_of(array)
    if _is_tensor_of_torch(array):  # first: torch.compile traces no more
        from fastkeras._ops.torch_arrays import NAME_OF

        return NAME_OF[array.dtype] if array.dtype in NAME_OF else str(array.dtype)
    if family in ("numpy", "cupy") or _is_of_jax(array):
        return array.dtype.name
    from keras import backend

    return backend.standardize_dtype(array.dtype)


@cache
def _name_of(dtype):
    """The name, cached, since NumPy takes microseconds to compose it each time."""
    return dtype.name


def has_values(array):
    """Whether an array has values now, and does not stand for future values in a graph."""
    family = family_of(array)
    if family == "tensorflow":
        return hasattr(array, "numpy")  # a symbolic tensor has no such attribute
    if family in ("jax", "jax_elsewhere"):
        from jax.core import Tracer

        return not isinstance(array, Tracer)
    return family != "torch_elsewhere" or array.device.type != "meta"


def as_numpy(tensor):
    """The values of a tensor of Keras' backend as a NumPy array.

    On TensorFlow NumPy itself, and so `ops.convert_to_numpy`, takes no bfloat16 without axes.
    """
    if family_of(tensor) == "tensorflow" and len(tensor.shape) == 0:
        return np.asarray(tensor.numpy())
    from keras import ops

    return ops.convert_to_numpy(tensor)


def as_int32(array):
    """Integers as int32; those out of range become the nearest int32, where a cast would wrap.

    Needed for every family except NumPy, whose integers were checked before.
    """
    functions = array_functions(array)
    if dtype_of(array) in ("int64", "uint64"):
        array = functions.clip(functions.cast(array, "int64"), -(2**31), 2**31 - 1)
    return functions.cast(array, "int32")


def contiguous(array):
    """The array, contiguous as kernels need it; tensors are returned as they are."""
    family = family_of(array)
    if family == "numpy":
        return np.require(array, requirements="C")
    return array_functions(array).ascontiguousarray(array) if family == "cupy" else array


class Spoken:
    """The functions of NumPy or CuPy, and those that have another name in keras.ops."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)

    def cast(self, array, dtype):
        """The array in this dtype; not copied if it has that dtype already."""
        return self._module.asarray(array).astype(dtype, copy=False)

    def convert_to_tensor(self, array, dtype=None):
        """The array, or list, as an array."""
        return self._module.asarray(array, dtype)

    def convert_to_numpy(self, array):
        """A NumPy array; NumPy itself takes tensors of any framework on the CPU."""
        return np.asarray(array) if self._module is np else self._module.asnumpy(array)

    def broadcast_to(self, array, shape):
        """The array, or number, repeated to this shape."""
        if isinstance(array, int):  # which CuPy refuses
            return self._module.full(shape, array, "int32")
        return self._module.broadcast_to(array, shape)

    def shape(self, array):
        """The shape as a tuple of numbers."""
        return array.shape

    def argsort(self, array, axis=-1):
        """The order from the smallest to the largest; equal ones stay in order, as in Keras."""
        return self._module.argsort(array, axis=axis, kind="stable")

    def stop_gradient(self, array):
        """The array: nothing here has gradients."""
        return array

    def cond(self, condition, if_true, if_false):
        """The result of one of the two functions."""
        return if_true() if condition else if_false()

    def map(self, function, array):
        """The function of each row of the array."""
        return self._module.stack([function(row) for row in array]) if len(array) else array


NUMPY = Spoken(np)
