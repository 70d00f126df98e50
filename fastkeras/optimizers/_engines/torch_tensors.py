"""What the torch engines do with tensors that their kernels update in place."""

from contextlib import suppress
from itertools import pairwise

import torch

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CPU = torch.device("cpu")
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def _takes_lists():
    try:
        torch.autograd.graph.increment_version([])
    except (TypeError, RuntimeError):  # before torch 2.6
        return False
    return True


_VERSIONS_OF_LISTS = _takes_lists()


def have_changed(written):
    """Tell autograd of the change, so that it raises if it still needs the old values."""
    if _VERSIONS_OF_LISTS:
        with suppress(TypeError, RuntimeError):  # some are arrays of NumPy, or of inference
            torch.autograd.graph.increment_version(written)
            return
    for tensor in written:
        if isinstance(tensor, torch.Tensor) and not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)


def why_not(tensors, device=CPU):
    """Return why kernels for a device cannot update these in place, or None if they can."""
    if torch.compiler.is_compiling():
        return "the step is compiled by torch"
    for tensor in tensors:
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            return f"a variable is a {type(tensor).__name__} with the layout {tensor.layout}"
        if tensor.device != device:
            return f"a variable is on {tensor.device}"
        if tensor.dtype not in DTYPES and tensor.dtype is not torch.uint8:
            return f"a variable is of {tensor.dtype}"
        if not tensor.is_contiguous():
            return "a variable is not contiguous"
    return "two variables share memory" if _overlap(tensors) else None


def _overlap(tensors):
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if len({_storage_of(tensor) for tensor in tensors}) == len(tensors):
        return False
    stretches = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors)
    return any(end > begin for (_, end), (begin, _) in pairwise(stretches))


def _storage_of(tensor):
    return tensor.untyped_storage().data_ptr()


def as_read(gradient, parameter):
    """The gradient, contiguous and of a dtype that the kernels take."""
    if not isinstance(gradient, torch.Tensor):
        return gradient
    dtype = gradient.dtype
    if dtype is not parameter.dtype:
        is_wide = parameter.dtype is torch.float64
        if dtype not in DTYPES or is_wide != (dtype is torch.float64):
            gradient = gradient.to(parameter.dtype)
    return gradient if gradient.is_contiguous() else gradient.detach().contiguous()


def apart(gradients, written):
    """The gradients, those in memory that is written copied; None if there are none such."""
    storages = {_storage_of(t) for t in written if isinstance(t, torch.Tensor)}
    shared = [isinstance(g, torch.Tensor) and _storage_of(g) in storages for g in gradients]
    if not any(shared):
        return None
    pairs = zip(gradients, shared, strict=True)
    return [g.detach().clone() if is_shared else g for g, is_shared in pairs]
