"""The moments of `torch_optim.AdamW` in its state, in 32, 16 and 8 bits."""

import numpy as np
import torch

from fastkeras._arrays import NUMPY
from fastkeras.optimizers.quantization import dequantize, quantize, scales_of

WIDE = ("exp_avg", "exp_avg_sq")  # or bfloat16; the names of torch
CODES = ("exp_avg_codes", "exp_avg_scales", "exp_avg_sq_codes", "exp_avg_sq_scales")
_HAVE_SIGN = (True, False)


def are_codes(state):
    """Whether the moments in a state are of 8 bits."""
    return CODES[0] in state


def of(state):
    """The moments in a state, in the order in which the kernels take them."""
    return [state[name] for name in (CODES if CODES[0] in state else WIDE)]


def of_all(states):
    """The moments in each of these states."""
    try:  # the quick way, since it is part of every step
        return [(state["exp_avg"], state["exp_avg_sq"]) for state in states]
    except KeyError:  # some are codes
        return [of(state) for state in states]


def zeros(bits, parameter):
    """New moments of so many bits."""
    dtype = torch.bfloat16 if bits == 16 else parameter.dtype
    forms = ((parameter.shape, dtype),)
    if bits == 8:
        forms = (parameter.shape, torch.uint8), ((scales_of(parameter.numel()),), torch.float32)
    names = zip(CODES if bits == 8 else WIDE, forms * 2, strict=True)
    return {
        name: torch.zeros(shape, dtype=kind, device=parameter.device)
        for name, (shape, kind) in names
    }


def converted(saved, bits, parameter):
    """The moments of a saved state, as a parameter keeps them that has so many bits.

    To the nearest, since there is no step here by whose number to round at random.
    """
    device, held = parameter.device, of(saved)
    if are_codes(saved) and bits == 8:
        return dict(zip(CODES, (m.to(device) for m in held), strict=True))
    if are_codes(saved):
        arrays = [m.cpu().numpy() for m in held]
        pairs = zip(arrays[::2], arrays[1::2], _HAVE_SIGN, strict=True)
        held = [torch.from_numpy(dequantize(NUMPY, *pair)) for pair in pairs]
    if bits != 8:
        dtype = torch.bfloat16 if bits == 16 else parameter.dtype
        return dict(zip(WIDE, (m.to(device, dtype) for m in held), strict=True))
    codes = []
    for moment, has_sign in zip(held, _HAVE_SIGN, strict=True):
        to_nearest = np.full(moment.shape, 2**15, "int32")  # of 2**16 that random bits may be
        codes += quantize(NUMPY, moment.float().cpu().numpy(), has_sign, to_nearest)
    return dict(zip(CODES, (torch.from_numpy(array).to(device) for array in codes), strict=True))
