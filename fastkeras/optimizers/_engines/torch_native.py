"""The C++ kernels on tensors of torch on the CPU, updated in place."""

from itertools import chain

import torch

from fastkeras.optimizers._engines import native
from fastkeras.optimizers._engines.torch_tensors import (  # noqa: F401 - some are for others
    apart,
    as_read,
    have_changed,
    why_not,
)

EXCHANGED = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")  # csrc/doors/tensor_exchange.h


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    def memory(tensors):
        return tensors if EXCHANGED else [_array_of(tensor) for tensor in tensors]

    remainders = [r for r in extras.remainders if r is not None]
    written = [*parameters, *chain.from_iterable(slots), *remainders]

    def do(gradients):
        return native.step_by(
            torch.get_num_threads(),
            rule,
            memory(parameters),
            memory(gradients),
            slots if EXCHANGED else [memory(of_parameter) for of_parameter in slots],
            _array_of(frozen).tolist(),
            _array_of(coefficients),
            _array_of(decays),
            chains,
            extras._replace(
                rows=memory(extras.rows),
                remainders=memory(extras.remainders),
                rates=_array_of(extras.rates),
                seeds=_array_of(extras.seeds),
            ),
        )[-1]

    try:
        finite = do(gradients)
    except (TypeError, ValueError):  # before anything was written
        read = [as_read(g, p) for g, p in zip(gradients, parameters, strict=True)]
        copied = apart(read, written) or read
        if all(one is other for one, other in zip(copied, gradients, strict=True)):
            raise
        finite = do(copied)
    have_changed(written)
    return parameters, slots, extras.remainders, finite


def _array_of(tensor):
    """A NumPy array of the same memory; anything but a tensor is returned as it is."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach()
    if tensor.dtype is not torch.bfloat16:
        return tensor.numpy()
    import ml_dtypes  # which comes with Keras

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
