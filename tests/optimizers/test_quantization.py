"""Moments in 8 and 16 bits: a step of every engine."""

from itertools import chain

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy import assert_as_accurate_as_reference
from engine_parameters import engines_of
from fastkeras import _core
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import quantization, update
from fastkeras.optimizers.rules import RULES, can_be_of
from narrow_slots import empty_slots, moments, slots_of

NARROW = {  # rules by the bits of their slots, if all of them may be narrow
    bits: [rule for rule, row in RULES.items() if row.has_kernel and can_be_of(rule, bits)]
    for bits in (8, 16)
}


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


@pytest.mark.parametrize("narrow", ["slots", "parameter"])
def test_no_finite_number_becomes_infinite(engine, narrow):
    """In the nearest bfloat16 those above 3.395e38 would, and at random all above 3.389e38."""
    largest = np.finfo("float32").max
    numbers = np.float32([1, 0.99999, 0.9975, 0.9961, 0.5, np.inf]) * largest
    numbers = np.tile(np.concatenate([numbers, -numbers]), 50)
    settings = {"learning_rate": 1.0, "step": 1, "engine": engine}
    if narrow == "slots":
        (slot,), parameter = slots_of(16, len(numbers), 1), np.zeros(len(numbers), np.float32)
        update("lion", [parameter], [numbers], [(slot,)], beta_2=0.0, **settings)
    else:
        slot, gradient = np.zeros(len(numbers), ml_dtypes.bfloat16), -numbers
        update("sgd", [slot], [gradient], [()], stochastic_rounding=True, **settings)
    found = slot.astype("float32")
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(numbers))
    np.testing.assert_array_equal(np.sign(found), np.sign(numbers))
    is_above = np.isfinite(numbers) & (np.abs(numbers) > 3.39e38)
    np.testing.assert_array_equal(np.abs(found[is_above]), np.float32(255 * 2.0**120))


def is_close_call(rule, gradient, slots):
    """Where rounding decides Lion's direction, the sign of β₁m + (1−β₁)g."""
    if rule != "lion":
        return np.zeros(gradient.shape, bool)
    m = 0.9 * quantization.dequantize(NUMPY, *slots, True).astype(float)
    g = (1 - 0.9) * gradient.astype(float)
    return np.abs(m + g) <= 2.0**-22 * (np.abs(m) + np.abs(g))  # each is rounded three times


@pytest.mark.parametrize("rule", NARROW[8])
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


def step_on_halves(rule, engine, held, gradients, rows, step):
    """Return the parameters after a step, and their slots; the second parameter is frozen."""
    parameters, slots = ([array.copy() for array in of_one] for of_one in held)
    count = len(RULES[rule].slots)
    pairs = [tuple(slots[count * i : count * (i + 1)]) for i in range(len(parameters))]
    settings = {"learning_rate": 0.1, "rows": rows, "multipliers": [1.0, 0.0, 0.5], "step": step}
    settings |= {"u_product": 0.5} if rule == "nadam" else {}
    update(rule, parameters, gradients, pairs, engine=engine, **settings)
    return parameters, slots


@pytest.mark.parametrize("rule", NARROW[16])
def test_every_engine_does_the_same_step_on_halves(engine, rule):
    rng = np.random.default_rng(0)
    shapes, dtypes = [(300, 3), (5,), (1, 100)], [np.float32, np.float32, ml_dtypes.bfloat16]
    has_rows = RULES[rule].element_wise and not RULES[rule].adapts
    rows = [rng.permutation(300)[:100] if has_rows else None, None, None]
    given = [s if r is None else (len(r), *s[1:]) for s, r in zip(shapes, rows, strict=True)]
    count = len(RULES[rule].slots)
    slots = [slot for shape in shapes for slot in slots_of(16, shape, count)]
    before = [rng.standard_normal(s).astype(d) for s, d in zip(shapes, dtypes, strict=True)], slots
    for step in (1, 2, 3):
        gradients = [rng.standard_normal(s).astype(d) for s, d in zip(given, dtypes, strict=True)]
        wide = [[x.astype(float) for x in kind] for kind in (*before, gradients)]
        exact = step_on_halves(rule, "reference", wide[:2], wide[2], rows, step)
        rounded = step_on_halves(rule, "reference", before, gradients, rows, step)
        after = step_on_halves(rule, engine, before, gradients, rows, step)
        for found, *others in zip(*map(chain.from_iterable, (after, exact, rounded)), strict=True):
            scale = max(np.square(g.astype(float)).max() for g in gradients)  # of what is added up
            assert_as_accurate_as_reference(found, *others, scale)
        # only a number that is next to where it is rounded up or down may be rounded otherwise
        pairs = zip(after[1], rounded[1], strict=True)
        assert sum((one != other).sum() for one, other in pairs) <= 2
        frozen = slice(count, 2 * count)
        stays = zip(
            [after[0][1], *after[1][frozen]], [before[0][1], *before[1][frozen]], strict=True
        )
        assert all(one.tobytes() == other.tobytes() for one, other in stays)
        before = after


@pytest.mark.parametrize("bits", [8, 16])
def test_the_momentum_of_adam_mini_is_narrow_and_its_second_moments_are_not(bits):
    """Each step is that of a float32 momentum, which is then rounded up or down."""
    rng, shape = np.random.default_rng(0), (20, 300)
    parameter, velocity = np.ones(shape, np.float32), np.zeros((1, 300), np.float32)
    wide, slots, moved = parameter.copy(), slots_of(bits, shape, 1), []
    for step in range(1, 4):
        gradient = rng.standard_normal(shape).astype(np.float32)
        before = slots[0].astype(np.float32)
        if bits == 8:
            before = quantization.dequantize(NUMPY, *slots, True)
        exact, of_exact = before.copy(), velocity.copy()
        settings = {"learning_rate": 0.1, "step": step, "engine": "reference"}
        update("adam_mini", [wide], [gradient], [(exact, of_exact)], **settings)
        update("adam_mini", [parameter], [gradient], [(*slots, velocity)], **settings)
        np.testing.assert_array_equal(parameter, wide)
        np.testing.assert_array_equal(velocity, of_exact)
        after = slots[0].astype(np.float32)
        if bits == 8:
            after = quantization.dequantize(NUMPY, *slots, True)
        largest = np.abs(exact).max()
        np.testing.assert_allclose(
            after, exact, rtol=0.25 if bits == 8 else 2.0**-7, atol=2.0**-31 * largest
        )
        moved.append((after != exact).mean())
    assert min(moved) > 0.9


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


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_what_is_rounded_at_random_needs_the_number_of_the_step(bits):
    parameter = np.zeros(300, np.float32 if bits < 32 else ml_dtypes.bfloat16)
    slots = slots_of(bits, 300, 1)
    settings = {"learning_rate": 0.1, "stochastic_rounding": bits == 32}
    with pytest.raises(ValueError, match="step is missing: slots of 8 and 16 bits and stochastic"):
        update("momentum", [parameter], [parameter], [slots], **settings)


@pytest.mark.parametrize(
    "rule, dtype, kinds, expected",
    [
        ("adam_mini", "float32", ["bfloat16"] * 2, "velocity, must be float32, got bfloat16"),
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
