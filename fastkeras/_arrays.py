"""One dialect for arrays of every family: that of keras.ops, which NumPy and CuPy speak here."""

import sys
from functools import cache

import numpy as np

FAMILY_OF_PACKAGE = {  # by the package of an array's type; whatever is unknown goes through NumPy
    "cupy": "cupy",
    "tensorflow": "tensorflow",
    "jax": "jax",
    "jaxlib": "jax",
}


def family_of(array):
    """Return the family of an array: numpy, cupy, tensorflow, jax or torch.

    Arrays that are not on the CPU are families of their own, torch_elsewhere and jax_elsewhere: no
    kernel for CPUs may get them. Keras' variables are of the family of their values, its symbolic
    tensors of that of its backend. Lists, and whatever is unknown, are NumPy's.
    """
    if type(array) is np.ndarray:  # soon told: every function of NumPy arrays asks often
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
    """Whether it is one, as torch.compile can tell it too; subclasses are."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, getattr(torch, "Tensor", ()))


def _jax_is_on_cpu(array=None):
    """Whether a JAX array is on the CPU and stays there; one without values goes where JAX does."""
    import jax

    if isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer):
        on_cpu = all(device.platform == "cpu" for device in array.devices())
        if not on_cpu or getattr(array, "committed", False):
            return on_cpu
    return jax.default_backend() == "cpu"


def _is_of_jax(array):
    """Whether it is an array of JAX, and no variable or symbolic tensor of Keras on JAX."""
    return FAMILY_OF_PACKAGE.get(type(array).__module__.partition(".")[0]) == "jax"


def array_functions(array):
    """The functions that take this array, under the names that keras.ops gives them."""
    family = family_of(array)
    if family == "torch" and _is_tensor_of_torch(array):
        from fastkeras._ops import torch_arrays

        return torch_arrays
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
    if family in ("numpy", "cupy") or _is_of_jax(array):
        return array.dtype.name
    if family == "torch" and _is_tensor_of_torch(array):
        from fastkeras._ops.torch_arrays import NAME_OF

        return NAME_OF[array.dtype] if array.dtype in NAME_OF else str(array.dtype)
    from keras import backend

    return backend.standardize_dtype(array.dtype)


@cache
def _name_of(dtype):
    """The name, which NumPy composes anew each time, in microseconds."""
    return dtype.name


def has_values(array):
    """Whether an array has values now, or stands for those that a graph or a program will see."""
    family = family_of(array)
    if family == "tensorflow":
        return hasattr(array, "numpy")  # a symbolic tensor has no such attribute
    if family in ("jax", "jax_elsewhere"):
        from jax.core import Tracer

        return not isinstance(array, Tracer)
    return family != "torch_elsewhere" or array.device.type != "meta"


def as_int32(array):
    """Integers as int32; those beyond become the nearest, where a cast would wrap them into range.

    Of no family but NumPy's, whose integers are checked as they come.
    """
    functions = array_functions(array)
    if dtype_of(array) in ("int64", "uint64"):
        array = functions.clip(functions.cast(array, "int64"), -(2**31), 2**31 - 1)
    return functions.cast(array, "int32")


def contiguous(array):
    """The array with its elements in a row, as kernels want it; tensors as they are."""
    family = family_of(array)
    if family == "numpy":
        return np.require(array, requirements="C")
    return array_functions(array).ascontiguousarray(array) if family == "cupy" else array


class Spoken:
    """The functions of NumPy, or of CuPy, and what keras.ops calls otherwise."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)

    def cast(self, array, dtype):
        """Of the dtype; without a copy if it is already."""
        return self._module.asarray(array).astype(dtype, copy=False)

    def convert_to_tensor(self, array, dtype=None):
        """An array, of what may be a list."""
        return self._module.asarray(array, dtype)

    def convert_to_numpy(self, array):
        """A NumPy array."""
        return array if isinstance(array, np.ndarray) else self._module.asnumpy(array)

    def shape(self, array):
        """A tuple of numbers."""
        return array.shape

    def stop_gradient(self, array):
        """The array: nothing here has gradients."""
        return array

    def cond(self, condition, if_true, if_false):
        """What one of the two functions returns."""
        return if_true() if condition else if_false()


NUMPY = Spoken(np)
