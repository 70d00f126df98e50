"""Moments in 8 bits: the codes, the engines, and training."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_parameters import engines_of
from fastkeras import _core, optimizers
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import quantization, update
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


@pytest.mark.parametrize("has_sign", [True, False])
def test_codes_are_seven_decades_of_equal_steps_and_0_and_1(has_sign):
    levels = np.sort(quantization.TABLES[has_sign][0])
    assert len(set(levels.tolist())) == 256
    assert {0.0, 1.0} <= set(levels.tolist())
    positive = levels[(levels > 0) & (levels < 1)]
    for decade in range(7):
        inside = positive[(positive > 10.0 ** (decade - 7)) & (positive < 10.0 ** (decade - 6))]
        steps = 2**decade if has_sign else 2 ** (decade + 1)
        assert len(inside) == steps
        np.testing.assert_allclose(np.diff(inside), 0.9 * 10.0 ** (decade - 6) / steps, rtol=1e-3)
    np.testing.assert_array_equal(levels[levels < 0], -positive[::-1] if has_sign else [])


def moments(size, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10.0 ** rng.uniform(-7, 1, size)).astype(np.float32)


def empty_slots(shape, count=2):
    size = int(np.prod(shape))
    pair = [(np.uint8, shape), (np.float32, quantization.scales_of(size))]
    return tuple(np.zeros(s, dtype) for _ in range(count) for dtype, s in pair)


@pytest.mark.parametrize("size", [1, 15, 255, 256, 257, 3000, 20000])
def test_the_kernel_takes_the_nearest_code(instruction_set, size):
    parameter, gradient, slots = np.zeros(size, np.float32), moments(size), empty_slots(size)
    settings = {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.0, "engine": "native"}
    update("adam", [parameter], [gradient], [slots], **settings)  # the moments are g and g²
    for moment, codes, scales, has_sign in (
        (gradient, *slots[:2], True),
        (gradient * gradient, *slots[2:], False),
    ):
        expected, expected_scales = quantization.quantize(NUMPY, moment, has_sign)
        np.testing.assert_array_equal(scales, expected_scales)
        kept = quantization.dequantize(NUMPY, codes, scales, has_sign)
        nearest = quantization.dequantize(NUMPY, expected, scales, has_sign)
        largest = np.repeat(np.abs(scales), 256)[:size]
        assert (np.abs(kept - moment) <= np.abs(nearest - moment) + 1e-6 * largest).all()
        assert (codes == expected).mean() > 0.99
        assert (np.abs(moment) <= largest).all()


@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if row.quantizable])
@given(seed=st.integers(0, 2**16), size=st.sampled_from([1, 300, 5000]), half=st.booleans())
def test_every_engine_does_the_same_step_on_codes(engine, rule, seed, size, half):
    rng = np.random.default_rng(seed)
    parameter = rng.standard_normal(size).astype(np.float16 if half else np.float32)
    slots = empty_slots(size, len(RULES[rule].slots))
    results = []
    for step in (1, 2, 3):
        gradient = rng.standard_normal(size).astype(parameter.dtype)
        before = [array.copy() for array in (parameter, *slots)]
        settings = {"learning_rate": 0.1, "step": step, "engine": engine}
        update(rule, [parameter], [gradient], [slots], **settings)
        results.append((gradient, before, [array.copy() for array in (parameter, *slots)]))
    for step, (gradient, before, after) in enumerate(results, start=1):
        parameter, *slots = (array.copy() for array in before)
        settings = {"learning_rate": 0.1, "step": step, "engine": "reference"}
        update(rule, [parameter], [gradient], [tuple(slots)], **settings)
        tolerance = 1e-3 if half else 1e-6
        np.testing.assert_allclose(after[0], parameter, rtol=tolerance, atol=tolerance)
        for k, has_sign in enumerate((True, False)[: len(slots) // 2]):
            own = quantization.dequantize(NUMPY, *after[1 + 2 * k : 3 + 2 * k], has_sign)
            expected = quantization.dequantize(NUMPY, *slots[2 * k : 2 * k + 2], has_sign)
            largest = np.abs(expected).max()  # between two codes either may be taken
            np.testing.assert_allclose(own, expected, rtol=0, atol=0.015 * largest)
            assert (np.abs(own - expected) > 1e-5 * largest).mean() < 0.02


def test_a_small_second_moment_is_never_0(engine):
    """Else the next step would divide by epsilon."""
    gradient = np.full(512, 1e-5, np.float32)
    gradient[::2] = 0
    gradient[7] = 1
    parameter, slots = np.zeros(512, np.float32), empty_slots(512)
    for step in range(1, 6):
        settings = {"learning_rate": 1.0, "step": step, "engine": engine}
        update("adam", [parameter], [gradient], [slots], **settings)
        numbers = quantization.dequantize(NUMPY, *slots[2:], False)
        np.testing.assert_array_equal(numbers > 0, gradient > 0)
    assert np.abs(parameter).max() < 6  # no step is longer than the rate


@pytest.mark.parametrize("scale", [1e-45, 2e-39, 1e-38, 1e30, 3e38])
@pytest.mark.parametrize("has_sign", [True, False])
def test_blocks_of_the_smallest_and_the_largest_numbers(has_sign, scale):
    numbers = np.float32([0, 0.5, 1, 1e-7, 1e-30]) * np.float32(scale)
    codes, scales = quantization.quantize(NUMPY, numbers, has_sign)
    kept = quantization.dequantize(NUMPY, codes, scales, has_sign)
    assert kept[0] == 0 and np.isfinite(kept).all()
    np.testing.assert_allclose(kept[:3], numbers[:3], rtol=0.01, atol=1e-38)
    if not has_sign:
        np.testing.assert_array_equal(codes > 0, numbers > 0)


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
def test_training_with_8_bits_is_training(name):
    settings = {"momentum": 0.9} if name == "SGD" else {}
    rate = {"AdamW": 2e-3, "Lion": 3e-4, "SGD": 0.05}[name]
    losses = []
    for bits in (32, 8):
        model = network(getattr(optimizers, name)(rate, moment_bits=bits, **settings))
        losses.append(train(model, 6))
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.1)
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


def test_only_large_variables_that_are_no_embeddings_are_quantized():
    model = network(optimizers.AdamW(moment_bits=8))
    train(model, 1)
    dtypes = [momentum.dtype for momentum in model.optimizer._momentums]
    assert dtypes == ["float32", "uint8", "float32", "uint8", "float32", "float32", "float32"]


def test_states_take_a_quarter_of_the_memory():
    def state_bytes(bits):
        optimizer = optimizers.AdamW(moment_bits=bits)
        optimizer.build([keras.Variable(np.zeros((1000, 1000), np.float32))])
        return sum(v.value.numpy().nbytes for v in optimizer.variables)

    assert state_bytes(8) < 0.27 * state_bytes(32)


def test_a_saved_model_continues_with_the_same_bits(tmp_path):
    model = network(optimizers.AdamW(2e-3, moment_bits=8))
    train(model, 1)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    train(model, 1), train(again, 1)
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["RMSprop", "Lamb", "Adafactor", "Adagrad", "Nadam", "SGD"])
def test_rules_without_8_bits_say_so(name):
    with pytest.raises(ValueError, match="moment_bits=8 is for Adam"):
        getattr(optimizers, name)(moment_bits=8)
