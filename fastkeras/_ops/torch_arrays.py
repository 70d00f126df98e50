"""The functions of keras.ops that the doors need, for torch's tensors on the CPU, without Keras.

What is not here is Keras', whose backend has to be torch then. torch.compile takes them all, and
the choice of an engine as a constant of the program.
"""

import numpy as np
import torch

from fastkeras import _engines

NAME_OF = {
    getattr(torch, name): name
    for name in (
        *("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "int64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}
DTYPE_OF = {name: dtype for dtype, name in NAME_OF.items()}

torch.compiler.assume_constant_result(_engines.path_of)


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    import keras

    if keras.backend.backend() != "torch":
        raise ValueError(
            f"keras.ops.{name}, which this takes for tensors of torch, is on the backend "
            f"{keras.backend.backend()!r}: set KERAS_BACKEND=torch before Keras is imported"
        )
    return getattr(keras.ops, name)


def convert_to_tensor(value, dtype=None):
    """A tensor on the CPU, of what may be a variable of Keras, an array, or a list."""
    if not isinstance(value, torch.Tensor):
        value = getattr(value, "value", value)  # Keras' variables
    if not isinstance(value, torch.Tensor):
        value = np.array(value)  # a copy: NumPy's may be read-only, and tensors never are
        value = torch.as_tensor(
            value.astype("float32") if value.dtype.name == "bfloat16" else value
        )
    return value if dtype is None else cast(value, dtype)


def convert_to_numpy(tensor):
    """A NumPy array of the same memory."""
    return tensor.detach().cpu().numpy()


def cast(value, dtype):
    """Of the dtype, which is torch's or a name; without a copy if it is already."""
    return value.to(DTYPE_OF.get(dtype, dtype))


def shape(tensor):
    """A tuple of numbers, those that torch.compile does not know yet among them."""
    return tuple(tensor.shape)


def zeros(shape, dtype):
    """Zeros."""
    return torch.zeros(shape, dtype=DTYPE_OF.get(dtype, dtype), device="cpu")


def ones(shape, dtype):
    """Ones."""
    return torch.ones(shape, dtype=DTYPE_OF.get(dtype, dtype), device="cpu")


def arange(stop, dtype="int32"):
    """The numbers from 0 below `stop`."""
    return torch.arange(stop, dtype=DTYPE_OF.get(dtype, dtype), device="cpu")


def broadcast_to(value, shape):
    """Of the shape; what is no tensor is a number."""
    if isinstance(value, torch.Tensor):
        return value.broadcast_to(shape)
    return torch.full(shape, value, device="cpu")


def clip(tensor, smallest, largest):
    """No number below or above these."""
    return tensor.clamp(smallest, largest)


def stop_gradient(tensor):
    """The tensor, as a constant."""
    return tensor.detach()


def transpose(tensor, axes=None):
    """With its axes in this order, or in the opposite one."""
    return tensor.permute(tuple(range(tensor.ndim))[::-1] if axes is None else axes)


def matmul(left, right):
    """The product."""
    return torch.matmul(left, right)


def sum(tensor, axis=None, keepdims=False):
    """The sum over all, or over some axes."""
    return torch.sum(tensor, axis, keepdim=keepdims)


def max(tensor, axis=None, keepdims=False):
    """The largest of all, or along an axis."""
    return torch.amax(tensor, () if axis is None else axis, keepdim=keepdims)


def argmax(tensor, axis=None, keepdims=False):
    """The first of the largest along an axis."""
    return torch.argmax(tensor, axis, keepdim=keepdims).to(torch.int32)


def uniform(shape, dtype, seed=None):
    """Numbers in 0 ≤ u < 1, from a seed, or from torch's own generator."""
    if seed is None:
        return torch.rand(shape, dtype=DTYPE_OF[dtype], device="cpu")
    generator = torch.Generator().manual_seed(int(seed))
    return torch.rand(shape, dtype=DTYPE_OF[dtype], device="cpu", generator=generator)
