"""Moments in 8 and 16 bits: how each number is stored, and the random bits that round it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkeras import _core
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import quantization, rounding, update
from narrow_slots import empty_slots, moments, slots_of


@pytest.fixture(params=["portable", "avx2", "avx512"])
def instruction_set(request):
    before = _core.instruction_set()
    try:
        _core.set_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _core.set_instruction_set(before)


def reference(numbers, has_sign, random):
    """The codes and scales, in whole numbers, from the definition of a float32."""
    last = 127 if has_sign else 255
    codes, scales = [], []
    for begin in range(0, len(numbers), 256):
        block = [float(x) for x in numbers[begin : begin + 256]]
        scale = max(map(abs, block))
        scale = max(scale, 2.0**-124) if scale else 0.0
        scales.append(scale)
        for x, bits in zip(block, random[begin:], strict=False):
            relative = np.float32(abs(x)) * (np.float32(4) / np.float32(scale or 1))  # at most 4
            fraction, exponent = np.frexp(max(relative, np.float32(2.0**-100)))  # from 0.5 on
            quarters = int(fraction * 2**24) - 2**23 + (int(exponent) - 3) * 2**23  # of 2^-23
            code = last + (quarters + 32 * int(bits) + 16) // 2**21  # 4 octaves in 16 codes
            sign = 128 if has_sign and x < 0 and code >= 0 else 0
            codes.append(min(max(code, 0), last) + sign)
    return np.array(codes, "uint8"), np.array(scales, "float32")


def bits_for(size, seed=0):
    return np.random.default_rng(seed).integers(0, 2**16, size, "int32")


def halves_of(numbers, random):
    """The bits of each number's bfloat16, by whole numbers."""
    halves = []
    for bits, more in zip(numbers.view("uint32").tolist(), random.tolist(), strict=True):
        is_above_the_largest = bits >> 16 & 0x7FFF == 0x7F7F  # it does not become infinite
        halves.append(bits >> 16 if is_above_the_largest else (bits + more) >> 16)
    return np.array(halves, "uint16")


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


BLOCKS = st.lists(FLOATS, min_size=1, max_size=300).map(lambda x: np.array(x, "float32"))


@pytest.mark.parametrize("has_sign", [True, False])
def test_a_code_is_a_float_of_two_digits(has_sign):
    levels = quantization.LEVELS[has_sign]
    positive = -levels[128:] if has_sign else levels
    upper_bits = np.arange(1 - len(positive), 1, dtype="int32") + (127 << 2)
    np.testing.assert_array_equal(positive, (upper_bits << 21).view("float32"))
    assert positive[-1] == 1 and len(levels) == 256
    assert positive[0] == (2.0**-32 * 1.25 if has_sign else 2.0**-64 * 1.25)
    if has_sign:
        assert levels[0] == 0
        np.testing.assert_array_equal(levels[1:128], positive[1:])


@pytest.mark.parametrize("has_sign", [True, False])
@given(numbers=BLOCKS, seed=st.integers(0, 2**16))
def test_what_becomes_of_a_number(has_sign, numbers, seed):
    numbers = numbers if has_sign else np.abs(numbers)
    random = bits_for(len(numbers), seed)
    codes, scales = quantization.quantize(NUMPY, numbers, has_sign, random)
    expected = reference(numbers, has_sign, random)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(scales, expected[1])
    kept = quantization.dequantize(NUMPY, codes, scales, has_sign)
    by_number = np.repeat(scales, 256)[: len(numbers)]
    smallest = quantization.MAGNITUDES[has_sign][1] * by_number.astype(float)
    if has_sign:
        assert (kept[numbers == 0] == 0).all() and (kept * np.sign(numbers) >= 0).all()
        np.testing.assert_array_equal(codes[np.abs(numbers) > smallest] == 0, False)
    error = np.abs(kept.astype(float) - numbers)
    assert (error <= np.maximum(0.25 * np.abs(numbers), smallest) * (1 + 1e-6) + 1e-45).all()
    largest = np.abs(numbers) == by_number
    np.testing.assert_array_equal(kept[largest], numbers[largest])
    if (scales > 1e-18).all():  # else what is kept may be below the smallest float32
        again, _ = quantization.quantize(NUMPY, kept, has_sign, random[::-1])
        np.testing.assert_array_equal(again, codes)
    order = np.argsort(numbers[:256])
    together = np.full(len(order), random[0])
    ordered, _ = quantization.quantize(NUMPY, numbers[:256][order], has_sign, together)
    assert (np.diff(quantization.LEVELS[has_sign][ordered]) >= 0).all()


@given(size=st.floats(2.0**-50, 1, width=32), has_sign=st.booleans())
def test_the_mean_over_all_random_bits_is_the_number(size, has_sign):
    numbers = np.full((2**16 // 128, 256), size, "float32")
    numbers[:, ::2] = 1
    random = np.zeros(numbers.shape, "int32")
    random[:, 1::2] = np.arange(2**16).reshape(-1, 128)
    kept = quantization.dequantize(
        NUMPY, *quantization.quantize(NUMPY, numbers, has_sign, random), has_sign
    )[:, 1::2]
    assert len(np.unique(kept)) <= 2
    lowest, smallest = quantization.MAGNITUDES[has_sign][:2]
    expected = max(np.float32(size), lowest)
    if has_sign and size < smallest:  # then it may become 0
        expected = (expected - lowest) / (smallest - lowest) * smallest
    compared = {"rtol": 2.0**-18, "atol": 2.0**-16 * smallest}
    np.testing.assert_allclose(kept.mean(dtype=float), expected, **compared)


@pytest.mark.parametrize("size", [1, 15, 255, 256, 257, 3000, 20000])
def test_the_kernels_write_the_same_codes(instruction_set, size):
    parameter, gradient, slots = np.zeros(size, np.float32), moments(size), empty_slots(size)
    settings = {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.0, "engine": "native"}
    update("adam", [parameter], [gradient], [slots], step=5, **settings)  # the moments are g, g²
    seed = rounding.seeds(NUMPY, np.int32(5), np.arange(1, dtype="int32"))[0]
    elements = np.arange(size, dtype="int32")
    for k, (moment, has_sign) in enumerate(((gradient, True), (gradient * gradient, False))):
        random = rounding.dither_bits_of_slot(NUMPY, seed, k, elements)
        codes, scales = reference(moment, has_sign, random)
        np.testing.assert_array_equal(slots[2 * k], codes)
        np.testing.assert_array_equal(slots[2 * k + 1], scales)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 3000, 20000])
def test_the_kernels_write_the_same_halves(instruction_set, size):
    parameter, gradient = np.zeros(size, np.float32), moments(size)
    slots = slots_of(16, size, 2)
    settings = {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.0, "engine": "native"}
    update("adam", [parameter], [gradient], [slots], step=5, **settings)  # the moments are g, g²
    seed = rounding.seeds(NUMPY, np.int32(5), np.arange(1, dtype="int32"))[0]
    elements = np.arange(size, dtype="int32")
    for k, moment in enumerate((gradient, gradient * gradient)):
        random = rounding.dither_bits_of_slot(NUMPY, seed, k, elements)
        np.testing.assert_array_equal(slots[k].view("uint16"), halves_of(moment, random))


def random_bits_differ(a, b):
    return abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(len(a))


def test_random_bits_are_uniform_and_of_their_own():
    elements = np.arange(50_000, dtype="int32")
    seeds = rounding.seeds(NUMPY, np.int32(3), np.arange(2, dtype="int32"))
    after = rounding.seeds(NUMPY, np.int32(4), np.arange(1, dtype="int32"))
    bits = [rounding.dither_bits(NUMPY, seed, elements) for seed in (*seeds, *after)]
    for seed in (*seeds, *after):
        bits += [rounding.dither_bits_of_slot(NUMPY, seed, slot, elements) for slot in range(3)]
    for k, of_one in enumerate(bits):
        counts = np.bincount(of_one >> 8, minlength=256)
        assert of_one.min() >= 0 and len(counts) == 256
        assert np.abs(counts - 50_000 / 256).max() < 6 * np.sqrt(50_000 / 256)
        assert random_bits_differ(of_one[1:], of_one[:-1])
        assert all(random_bits_differ(of_one, other) for other in bits[:k])


@pytest.mark.parametrize("scale", [1e-45, 2e-39, 1e-38, 1e30, 3e38])
@pytest.mark.parametrize("has_sign", [True, False])
def test_blocks_of_the_smallest_and_the_largest_numbers(has_sign, scale):
    numbers = np.float32([0, 0.5, 1, 1e-7, 1e-30]) * np.float32(scale)
    codes, scales = quantization.quantize(NUMPY, numbers, has_sign, bits_for(len(numbers)))
    kept = quantization.dequantize(NUMPY, codes, scales, has_sign)
    assert abs(kept[0]) <= 2.0**-63 * scale and np.isfinite(kept).all()
    np.testing.assert_allclose(kept[1:3], numbers[1:3], rtol=1e-6, atol=3e-38)
    assert has_sign or scale < 1e-18 or (kept > 0).all()
