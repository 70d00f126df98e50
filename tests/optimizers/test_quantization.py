"""Moments in 8 and 16 bits: how they are stored, the engines, and training."""

import keras
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_parameters import engines_of
from fastkeras import _core, optimizers
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import quantization, rounding, update
from fastkeras.optimizers.rules import RULES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module", params=engines_of("optimizers"))
def engine(request):
    return request.param


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


def moments(size, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10.0 ** rng.uniform(-12, 1, size)).astype(np.float32)


def bits_for(size, seed=0):
    return np.random.default_rng(seed).integers(0, 2**16, size, "int32")


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


def halves_of(numbers, random):
    """The bits of each number's bfloat16, by whole numbers."""
    pairs = zip(numbers.view("uint32").tolist(), random.tolist(), strict=True)
    return np.array([(bits + more) >> 16 for bits, more in pairs], "uint16")


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


def is_close_call(rule, gradient, slots):
    """Where rounding decides Lion's direction, the sign of β₁m + (1−β₁)g."""
    if rule != "lion":
        return np.zeros(gradient.shape, bool)
    m = 0.9 * quantization.dequantize(NUMPY, *slots, True).astype(float)
    g = (1 - 0.9) * gradient.astype(float)
    return np.abs(m + g) <= 2.0**-22 * (np.abs(m) + np.abs(g))  # each is rounded three times


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if row.signs])
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1, 300, 5000]), half=st.booleans())
def test_every_engine_does_the_same_step_on_codes(engine, rule, seed, size, half):
    rng = np.random.default_rng(seed)
    parameter = rng.standard_normal(size).astype(np.float16 if half else np.float32)
    signs = RULES[rule].signs
    slots = empty_slots(size, len(signs))
    product = {"u_product": 0.5} if rule == "nadam" else {}
    results = []
    for step in (1, 2, 3):
        gradient = rng.standard_normal(size).astype(parameter.dtype)
        before = [array.copy() for array in (parameter, *slots)]
        settings = {"learning_rate": 0.1, "step": step, "engine": engine} | product
        update(rule, [parameter], [gradient], [slots], **settings)
        results.append((gradient, before, [array.copy() for array in (parameter, *slots)]))
    for step, (gradient, before, after) in enumerate(results, start=1):
        parameter, *slots = (array.copy() for array in before)
        close = is_close_call(rule, gradient, slots)
        settings = {"learning_rate": 0.1, "step": step, "engine": "reference"} | product
        update(rule, [parameter], [gradient], [tuple(slots)], **settings)
        tolerance = 1e-3 if half else 1e-6
        compared = {"rtol": tolerance, "atol": tolerance}
        np.testing.assert_allclose(after[0][~close], parameter[~close], **compared)
        for k, sign in enumerate(signs):
            own = after[1 + 2 * k : 3 + 2 * k]
            # of what is added up, or of what is left where it cancels
            terms = max(1, np.square(gradient.astype(float)).max(), slots[2 * k + 1].max())
            compared = {"rtol": 1e-6, "atol": 2.0**-22 * terms}
            np.testing.assert_allclose(own[1], slots[2 * k + 1], **compared)
            # a number next to where it is rounded up or down may be rounded either way
            decoded = quantization.dequantize(NUMPY, *own, sign == "s")
            expected = quantization.dequantize(NUMPY, *slots[2 * k : 2 * k + 2], sign == "s")
            np.testing.assert_allclose(decoded, expected, rtol=0.25, atol=2.0**-22 * terms)
            assert (own[0] != slots[2 * k]).sum() <= 2


def three_steps(rule, engine):
    """Return a float32, a frozen one and a bfloat16 and their slots in bfloat16, after steps."""
    rng = np.random.default_rng(0)
    shapes, dtypes = [(300, 3), (5,), (1, 100)], [np.float32, np.float32, ml_dtypes.bfloat16]
    has_rows = RULES[rule].element_wise and not RULES[rule].adapts
    rows = [rng.permutation(300)[:100] if has_rows else None, None, None]
    given = [s if r is None else (len(r), *s[1:]) for s, r in zip(shapes, rows, strict=True)]
    numbers = [
        [rng.standard_normal(s).astype(d) for s, d in zip(of, dtypes, strict=True)]
        for of in (shapes, *[given] * 3)
    ]
    slots = [slots_of(16, shape, len(RULES[rule].slots)) for shape in shapes]
    settings = {"learning_rate": 0.1, "rows": rows, "multipliers": [1.0, 0.0, 0.5]}
    settings |= {"u_product": 0.5} if rule == "nadam" else {}
    parameters, *gradients = numbers
    for step, of_step in enumerate(gradients, start=1):
        update(rule, parameters, of_step, slots, step=step, engine=engine, **settings)
    return [*parameters, *(slot for of_one in slots for slot in of_one)]


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if row.signs])
def test_every_engine_does_the_same_step_on_halves(engine, rule):
    """Up to numbers that are next to where they are rounded up or down."""
    for one, other in zip(three_steps(rule, engine), three_steps(rule, "reference"), strict=True):
        one, other = one.astype("float32"), other.astype("float32")
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)
        assert (np.abs(one - other) > 1e-5).mean() < 0.02


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("rule", ["adam", "rmsprop_momentum"])
def test_threads_do_not_change_a_bit(rule, bits):
    results = []
    for threads in (1, 2, 3, 7):
        parameters, gradients, slots = ([] for _ in range(3))
        for k, size in enumerate((40_000, 300, 100_001)):
            parameters.append(moments(size, k)), gradients.append(moments(size, k + 7))
            slots.append(slots_of(bits, size, len(RULES[rule].signs)))
        _core.set_num_threads(threads)
        _core.set_worth_a_thread(0)
        try:
            for step in (1, 2, 3):
                settings = {"learning_rate": 0.1, "step": step, "engine": "native"}
                update(rule, parameters, gradients, slots, **settings)
        finally:
            _core.set_num_threads(0), _core.set_worth_a_thread(100e3)
        results.append([*parameters, *(array for of_one in slots for array in of_one)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bits", [32, 16, 8])
@pytest.mark.parametrize("rule", ["adam", "nadam", "lion", "rmsprop_momentum", "ademamix"])
def test_where_arrays_begin_in_memory_does_not_change_a_bit(instruction_set, rule, bits):
    size, results = 1500, []
    product = {"u_product": 0.5} if rule == "nadam" else {}
    for offset in (0, 4, 12):  # floats after the begin of a line of the cache

        def placed(values, offset=offset):
            memory = np.zeros(size + 32, np.float32)
            begin = -memory.ctypes.data % 64 // 4 + offset
            memory[begin : begin + size] = values
            return memory[begin : begin + size]

        parameter, gradient = placed(moments(size)), placed(moments(size, 1))
        count = len(RULES[rule].slots)
        slots = slots_of(bits, size, count)
        slots = tuple(placed(0) for _ in range(count)) if bits == 32 else slots
        for step in (1, 2):
            settings = {"learning_rate": 0.1, "step": step, "engine": "native"} | product
            update(rule, [parameter], [gradient], [slots], **settings)
        results.append([parameter, *slots])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rule", ["adam", "momentum"])
def test_an_average_moves_as_in_float32(rule):
    """To the nearest, a change of 0.1 or 1 % of a moment in a step would be lost each time."""
    size, later = 4096, {}
    settings = {"beta_1": 0.99} if rule == "adam" else {"momentum": 0.99}
    for bits in (32, 16, 8):
        parameter, gradient = np.zeros(size, np.float32), np.ones(size, np.float32)
        count = len(RULES[rule].slots)
        slots = slots_of(bits, size, count)
        for step in range(1, 601):
            gradient[::2] = 1 if step <= 200 else 0.01
            settings |= {"learning_rate": 1e-3, "step": step, "engine": "native"}
            update(rule, [parameter], [gradient], [slots], **settings)
        if bits == 8:
            pairs = zip(slots[::2], slots[1::2], RULES[rule].signs, strict=True)
            slots = [quantization.dequantize(NUMPY, c, s, sign == "s") for c, s, sign in pairs]
        later[bits] = [slot[::2].mean(dtype=float) for slot in slots]
    np.testing.assert_allclose(later[8], later[32], rtol=0.05)
    np.testing.assert_allclose(later[16], later[32], rtol=0.005)


def test_a_small_second_moment_is_never_0(engine):
    """Else the next step would divide by epsilon."""
    gradient = np.full(512, 1e-5, np.float32)
    gradient[::2] = 0
    gradient[7] = 1
    parameter, slots = np.zeros(512, np.float32), empty_slots(512)
    for step in range(1, 6):
        settings = {"learning_rate": 1.0, "step": step, "engine": engine}
        update("adam", [parameter], [gradient], [slots], **settings)
        assert (quantization.dequantize(NUMPY, *slots[2:], False) > 0).all()
    assert np.abs(parameter).max() < 6  # no step is longer than the rate
    np.testing.assert_array_equal(parameter != 0, gradient != 0)


def test_a_first_moment_dies_out(engine):
    """Else a word that is seen no more would drift as soon as its second moment is small."""
    gradient, parameter = np.ones(512, np.float32), np.zeros(512, np.float32)
    slots = empty_slots(512, 1)
    for step in range(1, 21):
        settings = {"learning_rate": 1.0, "step": step, "momentum": 0.1, "engine": engine}
        update("momentum", [parameter], [gradient], [slots], **settings)
        gradient[::2] = 0
    np.testing.assert_array_equal(slots[0] == 0, gradient == 0)


@pytest.mark.parametrize("scale", [1e-45, 2e-39, 1e-38, 1e30, 3e38])
@pytest.mark.parametrize("has_sign", [True, False])
def test_blocks_of_the_smallest_and_the_largest_numbers(has_sign, scale):
    numbers = np.float32([0, 0.5, 1, 1e-7, 1e-30]) * np.float32(scale)
    codes, scales = quantization.quantize(NUMPY, numbers, has_sign, bits_for(len(numbers)))
    kept = quantization.dequantize(NUMPY, codes, scales, has_sign)
    assert abs(kept[0]) <= 2.0**-63 * scale and np.isfinite(kept).all()
    np.testing.assert_allclose(kept[1:3], numbers[1:3], rtol=1e-6, atol=3e-38)
    assert has_sign or scale < 1e-18 or (kept > 0).all()


def test_what_is_not_finite_stays_so(engine):
    parameter, gradient = np.zeros(600, np.float32), np.ones(600, np.float32)
    gradient[300] = np.nan
    slots = empty_slots(600)
    for step in (1, 2):
        update(
            "adam", [parameter], [gradient], [slots], learning_rate=0.1, step=step, engine=engine
        )
        gradient[:] = 1
    assert np.isnan(slots[1]).tolist() == [False, True, False]
    assert np.isnan(parameter).sum() == 256


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_of_halves_only_that_number_is_not_finite(engine, bad):
    parameter, gradient = np.zeros(600, np.float32), np.ones(600, np.float32)
    gradient[300] = bad
    slots = slots_of(16, 600, 2)
    for step in (1, 2):
        settings = {"learning_rate": 0.1, "step": step, "engine": engine}
        with np.errstate(invalid="ignore"):  # of the step of an infinite one
            update("adam", [parameter], [gradient], [slots], **settings)
        gradient[:] = 1
    for array in (parameter, *slots):
        assert np.flatnonzero(~np.isfinite(array.astype("float32"))).tolist() == [300]


def network(optimizer):
    keras.utils.set_random_seed(7)
    layers = [
        keras.layers.Embedding(500, 16, name="words"),
        keras.layers.Flatten(),
        keras.layers.Dense(128, "tanh"),
        keras.layers.Dense(64, "tanh"),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((8,), dtype="int32"), *layers])
    model.compile(optimizer, "mse")
    return model


def train(model, epochs):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 500, (512, 8))
    y = np.sin(x.sum(axis=1) / 300)
    return model.fit(x, y, epochs=epochs, batch_size=64, verbose=0).history["loss"]


@pytest.mark.parametrize("name", ["AdamW", "Lion", "SGD"])
def test_training_with_few_bits_is_training(name):
    settings = {"momentum": 0.9} if name == "SGD" else {}
    rate = {"AdamW": 2e-3, "Lion": 3e-4, "SGD": 0.05}[name]
    losses = []
    for bits in (32, 8, 16):
        model = network(getattr(optimizers, name)(rate, moment_bits=bits, **settings))
        losses.append(train(model, 6))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)
    np.testing.assert_allclose(losses[2], losses[0], rtol=0.02)
    assert losses[1][-1] < 0.7 * losses[1][0]


def test_no_weight_explodes_where_the_gradients_are_of_many_sizes():
    largest = []
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-6, 0, (64, 128))
    for bits in (32, 8):
        variable = keras.Variable(np.zeros((64, 128), "float32"), name="kernel")
        optimizer = optimizers.Adam(0.01, moment_bits=bits)
        optimizer.build([variable])
        rng = np.random.default_rng(1)
        for _ in range(50):
            gradient = (sizes * (1 + 0.1 * rng.standard_normal(sizes.shape))).astype("float32")
            optimizer.apply([gradient], [variable])
        largest.append(np.abs(variable.numpy()).max())
    assert largest[1] < 2 * largest[0]


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("bits, narrow", [(8, "uint8"), (16, "bfloat16")])
def test_only_large_variables_are_narrow_and_in_8_bits_none_that_is_lazy(bits, narrow, lazy):
    model = network(optimizers.AdamW(moment_bits=bits, lazy=["words"] if lazy else None))
    train(model, 1)
    dtypes = [momentum.dtype for momentum in model.optimizer._momentums]
    words = "float32" if lazy and bits == 8 else narrow
    assert dtypes == [words, narrow, "float32", narrow, "float32", "float32", "float32"]


def test_states_take_a_quarter_or_half_of_the_memory():
    def state_bytes(bits):
        optimizer = optimizers.AdamW(moment_bits=bits)
        optimizer.build([keras.Variable(np.zeros((1000, 1000), np.float32))])
        return sum(v.value.numpy().nbytes for v in optimizer.variables)

    assert state_bytes(8) < 0.27 * state_bytes(32)
    assert state_bytes(16) < 0.501 * state_bytes(32)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_saved_model_continues_with_the_same_bits(tmp_path, bits):
    model = network(optimizers.AdamW(2e-3, moment_bits=bits))
    train(model, 1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    train(model, 1), train(again, 1)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_of_32_bits_goes_on_in_16_and_back():
    states = {}
    for bits, other in ((32, 16), (16, 32)):
        optimizer, again = (optimizers.Adam(moment_bits=n) for n in (bits, other))
        for each in (optimizer, again):
            each.build([keras.Variable(np.zeros((64, 64), np.float32))])
        optimizer._momentums[0].assign(moments(4096).reshape(64, 64))
        optimizer.save_own_variables(states)
        again.load_own_variables(states)
        one, same = (np.asarray(o._momentums[0], "float32") for o in (optimizer, again))
        np.testing.assert_allclose(same, one, rtol=2.0**-8)


def test_codes_of_another_layout_are_refused():
    optimizer, store = optimizers.Adam(moment_bits=8), {}
    optimizer.build([keras.Variable(np.zeros((64, 64), np.float32))])
    optimizer.save_own_variables(store)
    optimizer.load_own_variables(store)
    for layout in (None, quantization.LAYOUT + 1):
        changed = {name: value for name, value in store.items() if name != "moment_codes"}
        changed |= {} if layout is None else {"moment_codes": layout}
        with pytest.raises(ValueError, match=r"8-bit moments .* another version"):
            optimizer.load_own_variables(changed)


def test_a_checkpoint_with_other_codes_is_refused(tmp_path, monkeypatch):
    tf = pytest.importorskip("tensorflow", reason="the checkpoints are of TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the variables are of another backend here")

    def built():
        optimizer = optimizers.SGD(momentum=0.9, moment_bits=8)
        optimizer.build([keras.Variable(np.zeros((64, 64), np.float32))])
        return optimizer, tf.train.Checkpoint(optimizer=optimizer)

    optimizer, checkpoint = built()
    optimizer.momentums[0].assign(np.full((64, 64), 7, "uint8"))
    path = checkpoint.write(tmp_path / "checkpoint")
    again, checkpoint = built()
    checkpoint.read(path).assert_consumed()
    np.testing.assert_array_equal(again.momentums[0].numpy(), 7)
    monkeypatch.setattr(quantization, "LAYOUT", quantization.LAYOUT + 1)
    with pytest.raises(ValueError, match=r"8-bit moments .* another version"):
        built()[1].read(path)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_what_is_rounded_at_random_needs_the_number_of_the_step(bits):
    parameter = np.zeros(300, np.float32 if bits < 32 else ml_dtypes.bfloat16)
    slots = slots_of(bits, 300, 1)
    settings = {"learning_rate": 0.1, "stochastic_rounding": bits == 32}
    with pytest.raises(ValueError, match="step is missing: slots of 8 and 16 bits and stochastic"):
        update("momentum", [parameter], [parameter], [slots], **settings)


@pytest.mark.parametrize("name", ["Adafactor", "Adagrad", "SGD"])
def test_rules_without_narrow_moments_say_so(name):
    for bits in (8, 16):
        with pytest.raises(ValueError, match=rf"moment_bits={bits} is for the rules .*adam"):
            getattr(optimizers, name)(moment_bits=bits)


@pytest.mark.parametrize(
    "rule, dtype, kinds, expected",
    [
        ("amsgrad", "float32", ["bfloat16"] * 3, "momentum, must be float32, got bfloat16"),
        ("adam", "float64", ["bfloat16"] * 2, "momentum, must be float64, got bfloat16"),
        ("adam", "float32", ["bfloat16", "float32"], "velocity, must be bfloat16, got float32"),
        ("adam", "float32", ["float32", "bfloat16"], "velocity, must be float32, got bfloat16"),
        ("adam", "float32", ["float16", "float16"], "momentum, must be float32, got float16"),
    ],
)
def test_what_slots_must_be(rule, dtype, kinds, expected):
    parameter = np.zeros(5, dtype)
    slots = tuple(np.zeros(5, getattr(ml_dtypes, kind, kind)) for kind in kinds)
    with pytest.raises(ValueError, match=expected):
        update(rule, [parameter], [parameter], [slots], learning_rate=0.1, step=1)


def test_bits_are_8_16_or_32():
    with pytest.raises(ValueError, match="moment_bits must be 8, 16 or 32, got 4"):
        optimizers.Adam(moment_bits=4)
