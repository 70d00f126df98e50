"""The C++ kernels on tensors of torch: CPU tensors, updated in place in their own memory."""

from itertools import pairwise

import torch

from fastkeras.optimizers._engines import native

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    written = [*parameters, *(s for of_one in slots for s in of_one), *extras.remainders]
    *_, finite = native.step(
        rule,
        [_array_of(parameter) for parameter in parameters],
        _readable(gradients, parameters, written),
        [[_array_of(slot) for slot in of_parameter] for of_parameter in slots],
        [bool(is_frozen) for is_frozen in _array_of(frozen)],
        _array_of(coefficients),
        _array_of(decays),
        chains,
        extras._replace(
            rows=[_array_of(rows) for rows in extras.rows],
            remainders=[_array_of(remainder) for remainder in extras.remainders],
            rates=_array_of(extras.rates),
            seeds=_array_of(extras.seeds),
        ),
    )
    for tensor in written:  # so that autograd finds out if it still needs the old values
        if isinstance(tensor, torch.Tensor) and not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)
    return parameters, slots, extras.remainders, finite


def why_not(tensors):
    """Return why the kernels cannot update these in place, in words, or None if they can."""
    if torch.compiler.is_compiling():
        return "the step is compiled by torch"
    for tensor in tensors:
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            return f"a variable is a {type(tensor).__name__} with the layout {tensor.layout}"
        if tensor.device.type != "cpu":
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


def _readable(gradients, parameters, written):
    """The gradients as arrays of a dtype that the kernels take, in memory nobody writes."""
    storages = {_storage_of(t) for t in written if isinstance(t, torch.Tensor)}
    arrays = []
    for gradient, parameter in zip(gradients, parameters, strict=True):
        if isinstance(gradient, torch.Tensor):
            is_wide = parameter.dtype is torch.float64
            if gradient.dtype not in DTYPES or is_wide != (gradient.dtype is torch.float64):
                gradient = gradient.to(parameter.dtype)
            gradient = gradient.detach().contiguous()
            if _storage_of(gradient) in storages:
                gradient = gradient.clone()
        arrays.append(_array_of(gradient))
    return arrays


def _array_of(tensor):
    """A NumPy array of the same memory; what is no tensor comes back as it is."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach()
    if tensor.dtype is not torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes  # which Keras brings along

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
