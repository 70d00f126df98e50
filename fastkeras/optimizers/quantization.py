"""Moments in 8 bits: each block of 256 numbers is codes relative to its largest magnitude.

A code is an 8-bit float: two binary digits after the first, and the exponent. With a sign it
reaches down to 2^-32, and code 0 is 0. Without, it reaches down to 2^-64, and there is no 0, since
with a second moment of 0 the next step would divide by epsilon alone. The last one is 1, so that
the largest of a block, which is its scale, is kept exactly. Bytes are laid out as in
csrc/optimizers/sweeps/quantize.h.

Numbers are rounded up or down at random, with the right mean (Zamirai et al. 2020,
https://arxiv.org/abs/2010.06192): the change of an average in one step is smaller than the
distance of two codes, and rounded to the nearest it would never move.
"""

import numpy as np

from fastkeras.optimizers import rounding

BLOCK = 256
DIGITS = 2  # binary ones of a code, after the first
# What saved codes mean: numbers of a block; bits of the exponent, digits, and whether there is a 0,
# with a sign and without.
LAYOUT = np.array([BLOCK, 5, DIGITS, 1, 6, DIGITS, 0], "int32")
SMALLEST = 4096  # smaller variables are not worth it
SMALLEST_SCALE = 2.0**-124  # the inverse of a smaller one would be infinite


def _magnitudes(has_sign):
    """Return the floats that codes without their sign are, relative to the scale; the last is 1."""
    last = 127 if has_sign else 255
    octaves, steps = np.divmod(np.arange(last + 1) - last, 2**DIGITS)
    return np.ldexp(1 + steps / 2**DIGITS, octaves).astype("float32")


MAGNITUDES = {has_sign: _magnitudes(has_sign) for has_sign in (True, False)}
# What all codes stand for. With a sign, the first is not the float that it would be, but 0.
LEVELS = {
    True: np.concatenate([[np.float32(0)], MAGNITUDES[True][1:], -MAGNITUDES[True]]),
    False: MAGNITUDES[False],
}


def check_layout(layout):
    """Raise a ValueError if saved codes, marked by this or None, are not ours."""
    if layout is None or not np.array_equal(layout, LAYOUT):
        raise ValueError(
            "the 8-bit moments in this file were saved by another version, in codes that mean "
            f"other numbers ({layout}, here {LAYOUT}): load the weights alone, in Keras with "
            "model.load_weights, and begin with new moments"
        )


def scales_of(size):
    """Return how many scales that many numbers have."""
    return -(-size // BLOCK)


def is_worth_it(shape):
    """Tell whether a variable is large enough."""
    return np.prod(shape, dtype=int) >= SMALLEST


def with_float_slots(xp, p, g, slots, c, update, signs, seed):
    """Do a rule's `update` on slots given as codes, scales, codes, ..., and then those without.

    Args:
        xp: the functions of an array library.
        p, g, c: the parameter, its gradient, the coefficients.
        slots: tuple of arrays.
        update: function (xp, p, g, slots, c).
        signs: of the rule, see `Rule`.
        seed: int32 scalar, of this variable and step.
    """
    count = 2 * len(signs)
    pairs = zip(slots[:count:2], slots[1:count:2], signs, strict=True)
    numbers = [dequantize(xp, codes, scales, sign == "s") for codes, scales, sign in pairs]
    change, numbers = update(xp, p, g, [*numbers, *slots[count:]], c)
    elements = xp.reshape(xp.arange(_size_of(p.shape), dtype="int32"), p.shape)
    new = []
    for slot, (values, sign) in enumerate(zip(numbers, signs, strict=False)):
        random = rounding.dither_bits_of_slot(xp, seed, slot, elements)
        new += quantize(xp, values, sign == "s", random)
    return change, (*new, *numbers[len(signs) :])


def dequantize(xp, codes, scales, has_sign):
    """Return the numbers, float32, in the shape of the codes."""
    levels = xp.convert_to_tensor(LEVELS[has_sign])
    numbers = xp.take(levels, xp.cast(xp.reshape(codes, (-1,)), "int32"))
    by_number = xp.repeat(scales, BLOCK)[: numbers.shape[0]]
    return xp.reshape(numbers * by_number, codes.shape)


def quantize(xp, numbers, has_sign, random):
    """Return codes, uint8, in the shape of the numbers, and the scales of their blocks.

    Args:
        xp: the functions of an array library.
        numbers: array, float32.
        has_sign: bool.
        random: 16 random bits for each number, int32: it is rounded up if they are many enough.
    """
    flat, size = xp.reshape(numbers, (-1,)), _size_of(numbers.shape)
    blocks = xp.reshape(xp.pad(flat, (0, -size % BLOCK)), (scales_of(size), BLOCK))
    scales = xp.max(xp.abs(blocks), axis=1)
    scales = xp.where((scales > 0) & (scales < SMALLEST_SCALE), SMALLEST_SCALE, scales)
    scales = xp.cast(scales, "float32") + xp.sum(blocks - blocks, axis=1)  # NaN stays
    inverse = 4 / xp.where(scales == 0, xp.ones_like(scales), scales)  # 1 / scale may be subnormal
    relative = xp.reshape(xp.abs(blocks) * inverse[:, None], (-1,))[:size]
    codes = _rounded(xp, relative, 4 * MAGNITUDES[has_sign], xp.reshape(random, (-1,)))
    if has_sign:
        codes = xp.where((flat < 0) & (codes >= 0), codes + 128, codes)
    codes = xp.maximum(codes, xp.zeros_like(codes))
    return xp.reshape(xp.cast(codes, "uint8"), numbers.shape), scales


def _rounded(xp, sizes, levels, random):
    """Return the number of the level below or above each size; -1 if it is below all.

    The distance to the level below, in parts of 2^-21 of that to the next, is a whole number. The
    random bits, and half a bit, are added to it, and it is rounded down: a size next to a level
    stays there, by whatever its last digits differ.
    """
    below = xp.cast(xp.searchsorted(xp.convert_to_tensor(levels), sizes, side="right"), "int32")
    below = xp.clip(below - 1, 0, len(levels) - 1)
    to_next = np.append(np.diff(levels), np.float32(np.inf))
    parts = (sizes - xp.take(xp.convert_to_tensor(levels), below)) * xp.take(
        xp.convert_to_tensor((2.0**21 / to_next).astype("float32")), below
    )
    parts = parts + (xp.cast(random, "float32") * 32 + 16)
    return below + xp.cast(parts >= 2.0**21, "int32") - xp.cast(parts < 0, "int32")


def _size_of(shape):
    return int(np.prod(shape, dtype=int))
