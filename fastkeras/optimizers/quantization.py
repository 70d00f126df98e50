"""Moments in 8 bits: each block of 256 numbers is codes times its largest magnitude, the scale.

The dynamic codes of Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization",
https://arxiv.org/abs/2110.02861: seven decades below 1, divided into 1, 2, 4, ... 64 equal steps
(twice as many without a sign), and 0 and 1. Without a sign only 0 is coded as 0. Bytes are laid out
as in csrc/optimizers/quantize.h.
"""

import numpy as np

BLOCK = 256
DECADES = 7
SMALLEST = 4096  # smaller variables are not worth it
SMALLEST_SCALE = 3e-39


def _levels(has_sign):
    """Return what each byte stands for."""
    values = np.zeros(256)
    for decade in range(DECADES):
        steps = 2**decade if has_sign else 2 ** (decade + 1)
        first = steps if has_sign else steps - 1
        end = 10.0 ** (decade - DECADES + 1)
        j = np.arange(steps)
        values[first + j] = end * (0.1 + 0.9 * (j + 0.5) / steps)
    if has_sign:
        values[128:] = -values[:128]
    values[128 if has_sign else 255] = 1.0
    return values


def _tables(has_sign):
    levels = _levels(has_sign)
    order = np.argsort(levels, kind="stable")
    middles = (levels[order][1:] + levels[order][:-1]) / 2
    return levels.astype("float32"), middles.astype("float32"), order.astype("uint8")


TABLES = {has_sign: _tables(has_sign) for has_sign in (True, False)}


def scales_of(size):
    """Return how many scales that many numbers have."""
    return -(-size // BLOCK)


def is_worth_it(path, shape):
    """Tell whether a variable is large, and not an embedding, whose rows change too seldom."""
    return np.prod(shape, dtype=int) >= SMALLEST and not path.endswith("embeddings")


def with_float_slots(xp, p, g, slots, c, update):
    """Do a rule's `update` on slots given as codes, scales, codes, ...; the first has a sign."""
    has_signs = (True, False)
    numbers = [
        dequantize(xp, codes, scales, has_sign)
        for codes, scales, has_sign in zip(slots[::2], slots[1::2], has_signs, strict=False)
    ]
    change, numbers = update(xp, p, g, numbers, c)
    pairs = (quantize(xp, x, sign) for x, sign in zip(numbers, has_signs, strict=False))
    return change, tuple(array for pair in pairs for array in pair)


def dequantize(xp, codes, scales, has_sign):
    """Return the numbers, float32, in the shape of the codes."""
    levels, _, _ = TABLES[has_sign]
    numbers = xp.take(xp.convert_to_tensor(levels), xp.cast(xp.reshape(codes, (-1,)), "int32"))
    by_number = xp.repeat(scales, BLOCK)[: numbers.shape[0]]
    return xp.reshape(numbers * by_number, codes.shape)


def quantize(xp, numbers, has_sign):
    """Return codes, uint8, in the shape of the numbers, and the scales of their blocks."""
    _, middles, order = TABLES[has_sign]
    flat = xp.reshape(numbers, (-1,))
    size = flat.shape[0]
    count = scales_of(size)
    blocks = xp.reshape(xp.pad(flat, (0, count * BLOCK - size)), (count, BLOCK))
    above, below = xp.max(blocks, axis=1), -xp.min(blocks, axis=1)
    scales = xp.where(above >= below, above, -below) + xp.sum(blocks - blocks, axis=1)
    is_small = xp.abs(scales) < SMALLEST_SCALE  # the inverse would be infinite, and NaN times 0
    inverse = 1 / xp.where(is_small, xp.ones_like(scales), scales)
    inverse = xp.where(is_small, xp.sign(scales) / SMALLEST_SCALE, inverse)
    relative = xp.reshape(blocks * inverse[:, None], (-1,))
    places = xp.searchsorted(xp.convert_to_tensor(middles), relative, side="right")
    codes = xp.take(xp.convert_to_tensor(order), xp.cast(places, "int32"))[:size]
    if not has_sign:  # with a second moment of 0 the next step would divide by epsilon
        codes = xp.where((flat != 0) & (codes == 0), xp.ones_like(codes), codes)
    return xp.reshape(codes, numbers.shape), scales
