"""Variables and moments of float16 and bfloat16: what they hold, what remains, random rounding.

A bfloat16 has 8 binary digits, so rounding to nearest loses updates below 1/256 of a variable.
Either a float32 beside it keeps the remainder, so that both together are a float32 master weight
(Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740); or the variable is rounded up or down
at random, with the right mean (Gupta et al. 2015, https://arxiv.org/abs/1502.02551). Moments in
bfloat16 are always rounded at random: the nearest of an average that moves by a thousandth is what
it was.
"""

import math
import re

import numpy as np

from fastkeras._arrays import NUMPY

HALVES = ("float16", "bfloat16")
LARGEST_BFLOAT16 = np.float32(255 * 2.0**120)


def widened(xp, parameter, remainder):
    """Return the value to compute with: float32 for float16 and bfloat16."""
    if name_of(parameter.dtype) not in HALVES:
        return parameter
    value = xp.cast(parameter, "float32")
    return value if remainder is None else value + remainder


def narrowed(xp, value, dtype, keeps_remainder, random=None):
    """Return a value rounded to `dtype`, and what remains of it, or None.

    Args:
        xp: the functions of an array library.
        value: array, what was computed.
        dtype: string.
        keeps_remainder: bool.
        random: None to round to nearest; or 16 random bits for each element, int32, which decide
            how a bfloat16 is rounded.
    """
    if random is not None and dtype == "bfloat16":
        return xp.cast(_towards_zero(xp, value, random), dtype), None
    if not keeps_remainder or dtype not in HALVES:
        return xp.cast(value, dtype), None
    held = _held(xp, value, dtype)
    rest = value - held
    return xp.cast(held, dtype), xp.where(xp.isfinite(rest), rest, xp.zeros_like(rest))


def name_of(dtype):
    """Return the name of a dtype of any library: "bfloat16" of torch.bfloat16, for instance."""
    return re.search(r"b?float\d+", str(dtype))[0]


def with_wide_slots(xp, p, g, slots, c, update, seed, count, elements=None):
    """Do a rule's `update` on slots of bfloat16; return new ones that bfloat16 holds exactly.

    Args:
        xp: the functions of an array library.
        p, g, c: the parameter, its gradient, the coefficients.
        slots: tuple of arrays, of which the first ones are bfloat16.
        update: function (xp, p, g, slots, c).
        seed: int32 scalar, of this variable and step.
        count: how many slots are bfloat16.
        elements: the places of the numbers in their variable, int32; by default it is whole.
    """
    wide = [xp.cast(slot, "float32") for slot in slots[:count]]
    change, numbers = update(xp, p, g, [*wide, *slots[count:]], c)
    if elements is None:
        elements = xp.reshape(xp.arange(math.prod(p.shape), dtype="int32"), p.shape)
    bits = [dither_bits_of_slot(xp, seed, slot, elements) for slot in range(count)]
    pairs = zip(numbers, bits, strict=False)
    halves = [_towards_zero(xp, number, random) for number, random in pairs]
    return change, (*halves, *numbers[count:])


def seeds(xp, step, positions):
    """Return an int32 for each of the positions of variables, int32, different at each step.

    The step is one for all variables, or one of each; int32.
    """
    of_positions = positions * _signed(0x9E3779B1)
    return _mixed(xp, xp.bitwise_xor(of_positions, xp.reshape(step, (-1,)) * _signed(0x85EBCA77)))


def dither_bits(xp, seed, elements):
    """Return 16 random bits for each element number, as in csrc/optimizers/sweeps/bits.h."""
    return _shifted(xp, _hash(xp, seed, elements), 16)


def dither_bits_of_slot(xp, seed, slot, elements):
    """Return 16 other ones for a slot, given the seed of its variable: two slots share a hash."""
    of_two = xp.bitwise_xor(seed, _signed((slot // 2 + 1) * 0xC2B2AE3D % 2**32))
    bits = _hash(xp, of_two, elements)
    return xp.bitwise_and(bits, 0xFFFF) if slot % 2 else _shifted(xp, bits, 16)


def _hash(xp, seed, elements):
    return _mixed(xp, xp.bitwise_xor(elements * _signed(0x9E3779B9), seed))


def _mixed(xp, bits):
    bits = xp.bitwise_xor(bits, _shifted(xp, bits, 16)) * _signed(0x85EBCA6B)
    return xp.bitwise_xor(bits, _shifted(xp, bits, 13)) * _signed(0xC2B2AE35)


def _signed(constant):
    return np.array(constant, "uint32").astype("int32")[()]  # its products wrap too


def _shifted(xp, bits, places):
    """Shift to the right as if unsigned."""
    return xp.bitwise_and(xp.right_shift(bits, places), (1 << (32 - places)) - 1)


def _held(xp, value, dtype):
    """Round to what the type holds, as float32.

    Not by a cast to it and back, which XLA optimizes away.
    """
    if xp is NUMPY:
        return value.astype(dtype).astype("float32")
    digits, smallest, largest = (8, 0.0, np.inf) if dtype == "bfloat16" else (11, 2.0**-14, 65504)
    is_large = xp.abs(value) > 2.0**100  # so that its product with the next number is infinite
    small = xp.where(is_large, value * 2.0**-24, value)
    spread = small * (2.0 ** (24 - digits) + 1)
    held = spread - (spread - small)
    held = xp.where(is_large, held * 2.0**24, held)
    if smallest:  # below it the numbers of float16 are evenly spaced
        grid = smallest * 2.0**13 * 1.5
        held = xp.where(xp.abs(value) < smallest, (value + grid) - grid, held)
    held = xp.where(xp.abs(held) > largest, value * np.inf, held)
    return xp.where(xp.isfinite(value), held, value)


def _towards_zero(xp, value, random):
    """Add random bits below the last digit of a bfloat16, and truncate.

    What is larger than the largest bfloat16 is only truncated, so it does not become infinite.
    """
    if xp is NUMPY:
        bits = value.view("uint32")
        cut = ((bits + random.astype("uint32")) & np.uint32(0xFFFF0000)).view("float32")
        cut = np.where(np.isfinite(cut), cut, np.copysign(LARGEST_BFLOAT16, value))
        return np.where(np.isfinite(value), cut, value)
    magnitude = xp.abs(value)
    exponent = xp.floor(xp.log2(xp.maximum(magnitude, 2.0**-118)))
    is_too_large = (xp.power(2.0, exponent) > magnitude) & (exponent > -118)  # log2 was rounded up
    exponent = exponent - xp.cast(is_too_large, "float32")
    digit = xp.power(2.0, exponent - 7)  # the value of a bfloat16's last digit
    up = xp.floor(magnitude / digit + xp.cast(random, "float32") * 2.0**-16)
    size = xp.minimum(up * digit, LARGEST_BFLOAT16)
    return xp.where(xp.isfinite(value), xp.sign(value) * size, value)
