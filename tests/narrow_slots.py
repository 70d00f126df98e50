"""Slots in 8 and 16 bits, for the tests of optimizers."""

import ml_dtypes
import numpy as np

from fastkeras.optimizers import quantization


def empty_slots(shape, count=2):
    size = int(np.prod(shape))
    pair = [(np.uint8, shape), (np.float32, quantization.scales_of(size))]
    return tuple(np.zeros(s, dtype) for _ in range(count) for dtype, s in pair)


def slots_of(bits, shape, count):
    """Slots of zeros in so many bits."""
    if bits == 8:
        return empty_slots(shape, count)
    dtype = np.float32 if bits == 32 else ml_dtypes.bfloat16
    return tuple(np.zeros(shape, dtype) for _ in range(count))


def moments(size, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10.0 ** rng.uniform(-12, 1, size)).astype(np.float32)
