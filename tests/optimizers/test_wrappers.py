"""Lazy rows, layer adaptation, Lookahead and narrow variables, on variables of Keras."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from fastkeras import optimizers
from fastkeras.optimizers import transforms
from fastkeras.optimizers.fused import sparse as sparse_gradients

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ["SGD", "Adam", "AdamW", "Nadam", "Lion", "RMSprop", "Adagrad"]


def sparse(values, rows, length=6):
    shape = tf.constant((length, len(values[0])))
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(rows), shape)


def in_graph(optimizer, variables):
    return tf.function(lambda *gradients: optimizer.apply(list(gradients), variables))


def embeddings(value=1.0, path="embeddings", dtype="float32"):
    return keras.Variable(np.full((6, 3), value, "float32"), name=path, dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
def test_lazy_rows_without_a_gradient_stay_and_so_do_their_moments(name):
    table, others = embeddings(), keras.Variable(np.ones((2, 3), "float32"), name="kernel")
    optimizer = getattr(optimizers, name)(0.1, lazy=True)
    optimizer.build([table, others])
    step = in_graph(optimizer, [table, others])
    dense = np.ones((2, 3), np.float32)
    step(sparse([[1.0] * 3, [2.0] * 3, [3.0] * 3], [4, 1, 4]), dense)
    after_first = table.numpy().copy()
    slots = [s.numpy().copy() for s in optimizer._slots(0)]
    step(sparse([[-1.0] * 3], [2]), dense)
    moved = (table.numpy() != after_first).all(axis=1)
    np.testing.assert_array_equal(moved, [False, False, True, False, False, False])
    for slot, before in zip(optimizer._slots(0), slots, strict=True):
        np.testing.assert_array_equal(np.delete(slot.numpy(), 2, 0), np.delete(before, 2, 0))
    # Row 4 has moved by the sum of its two gradients.
    alone, again = keras.Variable(np.ones((1, 3), "float32")), getattr(optimizers, name)(0.1)
    again.build([alone])
    again.apply([np.full((1, 3), 4.0, np.float32)], [alone])
    np.testing.assert_array_equal(after_first[4:5], alone.numpy())


def test_lazy_takes_dense_gradients_and_targets():
    one, other = embeddings(path="one"), embeddings(path="other")
    optimizer = optimizers.Adam(0.1, lazy=["one"])
    optimizer.build([one, other])
    first, second = np.zeros((2, 6, 3), np.float32)
    first[[0, 3]] = second[3] = 1
    step = in_graph(optimizer, [one, other])
    step(first, first)
    step(second, second)
    np.testing.assert_allclose(one.numpy()[:4, 0], [0.9, 1.0, 1.0, 0.8], rtol=1e-5)
    assert other.numpy()[0, 0] < 0.85  # its momentum goes on


def test_lazy_embeddings_train_the_same_with_xla():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 20, (64, 4)), rng.standard_normal((64, 1))
    weights = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Embedding(50, 8), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((4,), dtype="int32"), *layers])
        model.compile(optimizers.AdamW(0.01, lazy=True), "mse", jit_compile=jit_compile)
        before = model.layers[0].embeddings.numpy().copy()
        model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        after = model.layers[0].embeddings.numpy()
        np.testing.assert_array_equal(after[20:], before[20:])  # not even by decay
        assert (after[:20] != before[:20]).any(axis=1).all()
        weights.append(after)
    np.testing.assert_allclose(*weights, atol=1e-5)


def test_a_sparse_gradient_of_sgd_reads_only_its_rows():
    table = embeddings()
    table.assign(np.full((6, 3), np.nan, "float32"))  # NaN would spread from rows that are read
    table.value.scatter_update(sparse([[1.0] * 3], [2]))
    optimizer = optimizers.SGD(0.5)
    optimizer.build([table])
    calls = []
    take = sparse_gradients.rows_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_gradients, "rows_of", lambda g: calls.append(g) or take(g))
        optimizer.apply([sparse([[1.0] * 3], [2])], [table])
    assert len(calls) == 1
    np.testing.assert_array_equal(table.numpy()[2], [0.5] * 3)


def test_a_python_transform_sees_a_lazy_gradient_as_a_whole():
    table, shapes = embeddings(), []

    def doubled(gradient, variable):
        shapes.append((tuple(gradient.shape), tuple(variable.shape)))
        return gradient * 2

    chain = transforms.chain(doubled, transforms.clip_by_value(3.0))
    optimizer = optimizers.Adagrad(1.0, lazy=True, gradient_transforms=chain)
    optimizer.build([table])
    in_graph(optimizer, [table])(sparse([[1.0] * 3, [5.0] * 3], [1, 2]))
    assert shapes == [((6, 3), (6, 3))]
    accumulator = optimizer._slots(0)[0].numpy()[:, 0]
    np.testing.assert_allclose(accumulator, [0.1, 4.1, 9.1, 0.1, 0.1, 0.1], rtol=1e-6)


def trained(optimizer, steps=7, dtype="float32", scale=1.0):
    variable = keras.Variable(0.5 + np.arange(12) / 16, dtype=dtype)
    optimizer.build([variable])
    step, rng = in_graph(optimizer, [variable]), np.random.default_rng(0)
    seen = [np.array(variable.numpy(), "float64")]
    for _ in range(steps):
        step(tf.constant(scale * rng.standard_normal(12), dtype))
        seen.append(np.array(variable.numpy(), "float64"))
    return seen


def test_adam_with_layer_adaptation_is_lamb():
    adapted = trained(optimizers.Adam(0.05, layer_adaptation=True))
    np.testing.assert_allclose(adapted, trained(keras.optimizers.Lamb(0.05)), rtol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion"])
def test_lookahead_is_that_of_the_paper(name):
    settings = {"lookahead_period": 3, "slow_step_size": 0.4}
    seen = trained(getattr(optimizers, name)(0.1, **settings))
    slow = fast = keras.Variable(seen[0], dtype="float32")
    slow = fast.numpy().astype("float64")
    plain, rng = getattr(optimizers, name)(0.1), np.random.default_rng(0)
    plain.build([fast])
    for number, of_seen in enumerate(seen[1:], start=1):
        plain.apply([rng.standard_normal(12).astype("float32")], [fast])
        if number % 3 == 0:
            slow = slow + 0.4 * (fast.numpy() - slow)
            fast.assign(slow)
        np.testing.assert_allclose(of_seen, fast.numpy(), rtol=1e-6)


def test_lookahead_begins_where_the_first_step_does():
    variable = keras.Variable(np.ones(3, "float32"))
    optimizer = optimizers.SGD(1.0, lookahead_period=1, slow_step_size=0.5)
    optimizer.build([variable])
    variable.assign([10.0, 10.0, 10.0])  # as if weights were loaded after building
    optimizer.apply([np.ones(3, "float32")], [variable])
    np.testing.assert_array_equal(variable.numpy(), [9.5] * 3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_master_weights_gather_what_is_too_small_for_the_type(dtype):
    settings = {"dtype": dtype, "steps": 50, "scale": 0.01}
    wide = trained(optimizers.SGD(1e-2), steps=50, scale=0.01)[-1]
    lost = trained(optimizers.SGD(1e-2), **settings)
    assert dtype == "float16" or (lost[-1] == lost[0]).all()
    kept = trained(optimizers.SGD(1e-2, master_weights=True), **settings)[-1]
    digit = 2.0**-8 if dtype == "bfloat16" else 2.0**-11
    np.testing.assert_allclose(kept, wide, atol=0.51 * digit * 2)


def test_master_weights_survive_lookahead_and_saving(tmp_path):
    settings = {"lookahead_period": 2, "master_weights": True}
    wide = trained(optimizers.Adam(1e-4, lookahead_period=2), steps=40)[-1]
    narrow = trained(optimizers.Adam(1e-4, **settings), steps=40, dtype="bfloat16")[-1]
    np.testing.assert_allclose(narrow, wide, atol=2.0**-7)


def test_rounding_at_random_moves_as_far_on_average():
    def moved(**settings):
        variable = keras.Variable(np.ones(20000, "float32"), dtype="bfloat16")
        optimizer = optimizers.SGD(1e-3, **settings)
        optimizer.build([variable])
        step = in_graph(optimizer, [variable])
        for _ in range(20):
            step(tf.ones(20000, "bfloat16"))
        return 1 - np.array(variable.numpy(), "float64").mean()

    assert moved() == 0
    np.testing.assert_allclose(moved(stochastic_rounding=True), 0.02, rtol=0.02)


@pytest.mark.parametrize("name", ["Adam", "Nadam"])
def test_a_skipped_step_counts_in_nothing(name):
    settings = {"gradient_transforms": transforms.sanitize()}
    plain, skipping = (
        keras.Variable(np.ones(3, "float32")),
        keras.Variable(np.ones(3, "float32")),
    )
    optimizer, other = (getattr(optimizers, name)(0.1, **settings) for _ in range(2))
    for optimizer_, variable, gradients in (
        (optimizer, plain, (1.0, 2.0)),
        (other, skipping, (1.0, np.nan, 2.0, np.inf)),
    ):
        optimizer_.build([variable])
        step = in_graph(optimizer_, [variable])
        for gradient in gradients:
            step(tf.fill([3], gradient))
    assert (int(other.iterations), other.skipped_steps) == (2, 2)
    np.testing.assert_array_equal(plain.numpy(), skipping.numpy())


def test_the_average_overwrites_after_updates_only():
    variable = keras.Variable(np.zeros(1, "float32"))
    settings = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
    optimizer = optimizers.SGD(1.0, ema_overwrite_frequency=2, **settings)
    optimizer.build([variable])
    step, seen = in_graph(optimizer, [variable]), []
    for _ in range(8):
        step(tf.constant([-1.0]))
        seen.append(float(variable.numpy()[0]))
    # Updates add 1. The average is 1, then 1.5, which is written; of 2.5 and 3.5 it is 2 and 2.75.
    assert seen == [0.0, 1.0, 1.0, 1.5, 1.5, 2.5, 2.5, 2.75]


@pytest.mark.parametrize("settings", [
    {"lazy": True},
    {"lazy": ["embed"], "lookahead_period": 2, "slow_step_size": 0.3},
    {"layer_adaptation": ["kernel"]},
    {"layer_adaptation": True, "lookahead_period": 3},
], ids=str)  # fmt: skip
def test_a_saved_model_continues_with_the_same_bits(settings, tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Embedding(9, 4), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((2,), dtype="int32"), *layers])
    model.compile(optimizers.AdamW(0.01, **settings), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (32, 2)), rng.standard_normal((32, 1))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name, settings, message", [
    ("Adam", {"lazy": ["kernel"]}, "lazy: 'kernel' matches no variable"),
    ("Lamb", {"lazy": True}, "cannot be lazy"),
    ("Adam", {"lazy": True, "layer_adaptation": True}, "cannot be lazy"),
    ("Adafactor", {"layer_adaptation": True}, "not for Adafactor"),
    ("Adam", {"lookahead_period": 0}, "lookahead_period must be an integer of at least 1, got 0"),
    ("Adam", {"lookahead_period": 2.5}, "lookahead_period must be an integer of at least 1"),
    ("Adam", {"slow_step_size": 0}, "slow_step_size must be a number above 0, at most 1, got 0"),
    ("Adam", {"slow_step_size": "1"}, "slow_step_size must be a number above 0, at most 1, got"),
    ("Adam", {"master_weights": True, "stochastic_rounding": True}, "of no use"),
    ("Adam", {"stochastic_rounding": "no"}, "stochastic_rounding must be True or False, got 'no'"),
    ("Adam", {"master_weights": "yes"}, "master_weights must be True or False, got 'yes'"),
    ("Adam", {"ema_bias_correction": None}, "ema_bias_correction must be True or False, got None"),
], ids=str)  # fmt: skip
def test_bad_settings_are_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        getattr(optimizers, name)(0.1, **settings).build([embeddings()])
