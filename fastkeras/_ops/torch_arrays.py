"""The functions of keras.ops that `fastkeras.crf` needs, for tensors of torch without Keras.

New tensors are on the CPU, or those of an `On` on its device. Other functions come from Keras,
whose backend then has to be torch. torch.compile can trace all of these, and treats the choice of
an engine as a constant of the program.
"""

import sys
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import (  # noqa: F401, which take the same arguments
    all,
    any,
    concatenate,
    cumsum,
    exp,
    log,
    ones_like,
    reshape,
    stack,
    where,
    zeros_like,
)

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


def without_autocast(tensor):
    """A context in which `torch.autocast` changes no dtypes on the tensor's device."""
    kind = tensor.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


def convert_to_tensor(value, dtype=None, device="cpu"):
    """The value, which may be a Keras variable, an array or a list, as a tensor.

    A tensor stays on its own device.
    """
    if not isinstance(value, torch.Tensor):
        value = getattr(value, "value", value)  # Keras' variables
    if not isinstance(value, torch.Tensor):
        value = np.array(value)  # a copy, since a NumPy array may be read-only and a tensor not
        value = torch.as_tensor(
            value.astype("float32") if value.dtype.name == "bfloat16" else value, device=device
        )
    return value if dtype is None else cast(value, dtype)


def convert_to_numpy(tensor):
    """A NumPy array that shares the memory."""
    return tensor.detach().cpu().numpy()


def cast(value, dtype):
    """The value in this dtype, torch's or a name; not copied if it has that dtype already."""
    return value.to(DTYPE_OF.get(dtype, dtype))


def shape(tensor):
    """The shape as a tuple of numbers, symbolic where torch.compile does not know them yet."""
    return tuple(tensor.shape)


def zeros(shape, dtype, device="cpu"):
    """Zeros."""
    return torch.zeros(shape, dtype=DTYPE_OF.get(dtype, dtype), device=device)


def ones(shape, dtype, device="cpu"):
    """Ones."""
    return torch.ones(shape, dtype=DTYPE_OF.get(dtype, dtype), device=device)


def arange(stop, dtype="int32", device="cpu"):
    """The numbers from 0 below `stop`."""
    return torch.arange(stop, dtype=DTYPE_OF.get(dtype, dtype), device=device)


def broadcast_to(value, shape, device="cpu"):
    """A tensor, or a number, broadcast to the shape."""
    if isinstance(value, torch.Tensor):
        return value.broadcast_to(shape)
    return torch.full(shape, value, device=device)


def clip(tensor, smallest, largest):
    """The tensor with every number limited to this range."""
    return tensor.clamp(smallest, largest)


def stop_gradient(tensor):
    """The tensor, as a constant."""
    return tensor.detach()


def transpose(tensor, axes=None):
    """The tensor with its axes in this order, by default reversed."""
    return tensor.permute(tuple(range(tensor.ndim))[::-1] if axes is None else axes)


def matmul(left, right):
    """The matrix product, in the dtype of its factors."""
    with without_autocast(left):
        return torch.matmul(left, right)


def sum(tensor, axis=None, keepdims=False):
    """The sum over all, or over some axes."""
    return torch.sum(tensor, axis, keepdim=keepdims)


def max(tensor, axis=None, keepdims=False):
    """The largest of all, or along an axis."""
    return torch.amax(tensor, () if axis is None else axis, keepdim=keepdims)


def min(tensor):
    """The smallest of all."""
    return torch.amin(tensor, ())


def maximum(tensor, least):
    """The larger of each number and another one, a tensor or a number."""
    return torch.clamp(tensor, min=least)


def argmax(tensor, axis=None, keepdims=False):
    """The first of the largest along an axis."""
    return torch.argmax(tensor, axis, keepdim=keepdims).to(torch.int32)


def argsort(tensor, axis=-1):
    """The order from the smallest to the largest; equal ones stay in order."""
    return torch.argsort(tensor, dim=axis, stable=True)


def take(tensor, places, axis=None):
    """What is at these places, counted from 0, along an axis, or of all numbers in a row."""
    if axis is None:
        tensor, axis = tensor.reshape(-1), 0
    before, after = tensor.shape[:axis], tensor.shape[axis:][1:]
    places = convert_to_tensor(places, device=tensor.device)
    return tensor.index_select(axis, places.reshape(-1)).reshape(*before, *places.shape, *after)


def take_along_axis(tensor, places, axis):
    """The numbers at these places along an axis; other axes are broadcast."""
    return torch.take_along_dim(tensor, places.long(), axis)


def cond(condition, if_true, if_false):
    """The result of one of the two functions; without values, that of the first."""
    return if_true() if condition.is_meta or condition else if_false()


def map(function, tensor):
    """The function of each row of the tensor."""
    return stack([function(row) for row in tensor]) if len(tensor) else tensor


def uniform(shape, dtype, seed=None, device="cpu"):
    """Numbers in 0 ≤ u < 1, from a seed, or from torch's own generator."""
    if seed is None:
        return torch.rand(shape, dtype=DTYPE_OF[dtype], device=device)
    generator = torch.Generator(device).manual_seed(int(seed))
    return torch.rand(shape, dtype=DTYPE_OF[dtype], device=device, generator=generator)


class On:
    """These functions; they make new tensors on a device."""

    def __init__(self, device):
        for function in (convert_to_tensor, zeros, ones, arange, broadcast_to, uniform):
            setattr(self, function.__name__, partial(function, device=device))

    def __getattr__(self, name):
        return getattr(_THIS, name)


_THIS = sys.modules[__name__]
