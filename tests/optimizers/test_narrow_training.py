"""Optimizers of Keras with moments in 8 and 16 bits: training, and what is saved."""

from itertools import permutations

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import quantization, rounding
from fastkeras.optimizers.fused import states
from fastkeras.optimizers.rules import RULES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    return model.fit(x, y, epochs=epochs, batch_size=64, shuffle=False, verbose=0).history["loss"]


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
        return sum(ops.convert_to_numpy(v.value).nbytes for v in optimizer.variables)

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


def moments_of(optimizer):
    """The numbers that moments stand for, in the order of the variables."""
    signs, found = RULES[optimizer._rule()].signs, []
    for position in range(len(optimizer._trainable_variables)):
        for slot, sign in zip(optimizer._slots(position), signs, strict=True):
            scales = optimizer._scales.of.get(id(slot))
            value = states.numpy_of(slot)
            if scales is not None:
                value = quantization.dequantize(NUMPY, value, states.numpy_of(scales), sign == "s")
            found.append(value.astype("float32"))
    return found


@pytest.mark.parametrize("bits, other", list(permutations((32, 16, 8), 2)))
def test_a_saved_state_goes_on_in_moments_of_other_bits(bits, other, tmp_path):
    model, again = (network(optimizers.AdamW(2e-3, moment_bits=b)) for b in (bits, other))
    train(model, 2)
    again.optimizer.build(again.trainable_variables)
    model.save_weights(tmp_path / "model.weights.h5")
    again.load_weights(tmp_path / "model.weights.h5")
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) > 0
    pairs = zip(moments_of(again.optimizer), moments_of(model.optimizer), strict=True)
    for found, expected in pairs:
        largest = np.abs(expected).max()
        digits = 3 if 8 in (bits, other) else 8
        np.testing.assert_allclose(found, expected, rtol=2.0**-digits, atol=2.0**-32 * largest)
    np.testing.assert_allclose(train(again, 1), train(model, 1), rtol=0.1)


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


def built(bits, optimizer=optimizers.SGD):
    """A checkpoint of TensorFlow for an optimizer, and that."""
    tf = pytest.importorskip("tensorflow", reason="the checkpoints are of TensorFlow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the variables are of another backend here")
    settings = {"moment_bits": bits} if optimizer is optimizers.SGD else {}
    made = optimizer(momentum=0.9, **settings)
    made.build([keras.Variable(np.zeros((64, 64), np.float32)), keras.Variable(np.zeros(3))])
    return tf.train.Checkpoint(optimizer=made), made


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_checkpoint_restores_moments_of_its_bits_and_refuses_others(bits, tmp_path):
    checkpoint, optimizer = built(bits)
    value = np.full((64, 64), 7)
    optimizer.momentums[0].assign(value)
    path = checkpoint.write(tmp_path / "checkpoint")
    checkpoint, again = built(bits)
    checkpoint.read(path).assert_consumed().assert_existing_objects_matched()
    np.testing.assert_array_equal(states.numpy_of(again.momentums[0]).astype(int), value)
    for other in {8, 16, 32} - {bits}:
        message = f"the checkpoint has moments of {bits} bits, .* made with moment_bits={other}"
        with pytest.raises(ValueError, match=message):
            built(other)[0].read(path)


def test_a_checkpoint_of_keras_has_moments_of_32_bits(tmp_path):
    path = built(32, keras.optimizers.SGD)[0].write(tmp_path / "checkpoint")
    built(32)[0].read(path).assert_consumed().assert_existing_objects_matched()
    with pytest.raises(ValueError, match="the checkpoint has moments of 32 bits"):
        built(8)[0].read(path)


def test_a_checkpoint_with_other_codes_is_refused(tmp_path, monkeypatch):
    path = built(8)[0].write(tmp_path / "checkpoint")
    monkeypatch.setattr(quantization, "LAYOUT", quantization.LAYOUT + 1)
    with pytest.raises(ValueError, match=r"8-bit moments .* another version"):
        built(8)[0].read(path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_a_half_holds_and_what_remains_are_the_same_bits_as_in_numpy(dtype):
    """Also where a number times 65537, by which it is split, would be infinite."""
    numbers = [1e34, 3e38, 3.39e38, 3.4e38, 5.1e33, 5.3e33, 2.0**100, 65519, 65520, 7e4, 1.1, 1e-5]
    numbers = np.float32([*numbers, 0, np.inf])
    numbers = np.concatenate([numbers, -numbers, [np.float32(np.nan)]])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = rounding.narrowed(NUMPY, numbers, dtype, True)
    found = rounding.narrowed(ops, ops.convert_to_tensor(numbers), dtype, True)
    for ours, theirs in zip(found, expected, strict=True):
        wide = ops.convert_to_numpy(ops.cast(ours, "float32"))
        np.testing.assert_array_equal(wide, theirs.astype("float32"))


@pytest.mark.parametrize("value", [1e34, 3e38])
def test_large_weights_stay_what_they_are_with_the_same_bits(value):
    variable = keras.Variable(np.full(5, value, "float32"), dtype="bfloat16")
    settings = {"lookahead_period": 1, "slow_step_size": 1.0, "master_weights": True}
    optimizer = optimizers.SGD(0.1, **settings)
    optimizer.build([variable])
    before = ops.convert_to_numpy(ops.cast(variable, "float32"))
    optimizer.apply([ops.zeros((5,), "bfloat16")], [variable])
    after = ops.convert_to_numpy(ops.cast(variable, "float32"))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name, refused", [
    ("Adafactor", (8, 16)),
    ("ScheduleFreeAdamW", (8, 16)),
    ("SGD", (8, 16)),
    ("Adagrad", (8, 16)),
])  # fmt: skip
def test_rules_without_narrow_moments_say_so(name, refused):
    for bits in refused:
        with pytest.raises(ValueError, match=rf"moment_bits={bits} is for the rules .*adam"):
            getattr(optimizers, name)(moment_bits=bits)


def test_bits_are_8_16_or_32():
    with pytest.raises(ValueError, match="moment_bits must be 8, 16 or 32, got 4"):
        optimizers.Adam(moment_bits=4)
