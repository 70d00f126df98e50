"""Bias correction by variable: each counts its own updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine_parameters import engines_of
from fastkeras import optimizers
from fastkeras._arrays import NUMPY
from fastkeras.optimizers import set_learning_rate_multiplier, transforms, update
from fastkeras.optimizers.rules import RULES
from fastkeras.optimizers.rules.coefficients import product_of_nadam
from optimizer_steps import has_rule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CASES = [
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"cautious": True}),
    ("AdamW", {"moment_bits": 8}),
    ("AdamW", {"moment_bits": 16}),
    ("Nadam", {}),
    ("Nadam", {"beta_1": 0.0}),
    ("Lamb", {}),
    ("Adafactor", {}),
    ("Muon", {"exclude_layers": ["later"], "moment_bits": 8}),
    ("AdEMAMix", {"alpha_warmup": 5, "beta_3_warmup": 4}),
    ("ScheduleFreeAdamW", {"warmup_steps": 2, "weight_decay": 0.1}),
    ("ScheduleFreeSGD", {}),
    ("AdamMini", {}),
    ("AdamMini", {"moment_bits": 8}),
    ("StableAdamW", {"weight_decay": 0.1}),
]
SHAPE = (64, 64)


def gradients(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SHAPE).astype("float32") for _ in range(count)]


def variable(name):
    return keras.Variable(np.ones(SHAPE, "float32"), name=name)


def moved(name, settings, steps, calls):
    """Return where a fresh optimizer takes the second of two variables.

    It begins after so many steps, none of which has moved anything, since random bits go by the
    number of the step and the place of the variable.
    """
    both = [variable("first"), variable("later")]
    optimizer = getattr(optimizers, name)(0.01, **settings)
    optimizer.build(both)
    optimizer.iterations.assign(calls)
    optimizer._settings.behind.assign([calls, calls])
    for gradient in gradients(steps):
        optimizer.apply([gradient, gradient], both)
    return both[1].numpy()


@pytest.mark.parametrize("how", ["frozen", "no gradient", "skipped"])
@pytest.mark.parametrize("name, settings", CASES, ids=str)
def test_who_begins_later_begins_like_a_fresh_optimizer(name, settings, how):
    first, later = variable("first"), variable("later")
    if how == "skipped":
        settings = settings | {"gradient_transforms": [("later", transforms.sanitize())]}
    optimizer = getattr(optimizers, name)(0.01, **settings)
    optimizer.build([first, later])
    set_learning_rate_multiplier(later, 0.0 if how == "frozen" else None)
    bad = np.full(SHAPE, np.nan, "float32")
    for gradient in gradients(40, seed=9):
        if how == "no gradient":
            optimizer.apply([gradient], [first])
        else:
            optimizer.apply([gradient, bad if how == "skipped" else gradient], [first, later])
    np.testing.assert_array_equal(later.numpy(), np.ones(SHAPE))
    set_learning_rate_multiplier(later, None)
    calls = int(optimizer.iterations.numpy())
    step = tf.function(lambda a, b: optimizer.apply([a, b], [first, later]))
    for gradient in gradients(3):
        step(gradient, gradient)
    settings = {name: value for name, value in settings.items() if name != "gradient_transforms"}
    np.testing.assert_allclose(later.numpy(), moved(name, settings, 3, calls), rtol=3e-7, atol=1e-7)


def test_no_step_after_300_is_longer_than_the_rate():
    first, later = variable("first"), variable("later")
    optimizer = optimizers.Adam(0.01, learning_rate_multipliers=[("later", 1.0)])
    optimizer.build([first, later])
    set_learning_rate_multiplier(later, 0.0)
    step = tf.function(lambda gradient: optimizer.apply([gradient] * 2, [first, later]))
    for gradient in gradients(300, seed=1):
        step(gradient)
    set_learning_rate_multiplier(later, 1.0)
    before = later.numpy().copy()
    step(gradients(1)[0])
    lengths = np.abs(later.numpy() - before)  # slightly shorter if the gradient is near epsilon
    np.testing.assert_allclose([np.median(lengths), lengths.max()], 0.01, rtol=1e-4)


@pytest.mark.parametrize("engine", engines_of("optimizers"))
@pytest.mark.parametrize("rule", [rule for rule, row in RULES.items() if row.by_number])
def test_update_takes_a_number_for_each_parameter(engine, rule):
    if not has_rule(engine, rule):
        pytest.skip("no kernel")
    rng = np.random.default_rng(0)
    start, gradient = rng.standard_normal((2, 5, 4))

    def slots_of():
        row = RULES[rule]
        return tuple(np.zeros(row.shape_of_slot(name, (5, 4))) for name in row.slots)

    def after(steps):
        parameters, slots = [start.copy() for _ in steps], [slots_of() for _ in steps]
        steps = np.array(steps)
        more = {"u_product": [product_of_nadam(NUMPY, 0.9, np.float64(s)) for s in steps]}
        more = more if rule == "nadam" else {}
        settings = {"learning_rate": 0.1, "step": steps, "engine": engine, **more}
        update(rule, parameters, [gradient] * len(steps), slots, **settings)
        return parameters

    together = after([1, 300])
    np.testing.assert_allclose(together[0], after([1])[0], rtol=1e-14)
    np.testing.assert_allclose(together[1], after([300])[0], rtol=1e-14)
    if rule != "lamb":  # whose steps have a fixed length
        assert np.abs(together[0] - together[1]).max() > 1e-3


def test_the_product_of_nadam_is_that_of_its_momentums():
    momentums = [0.9 * (1 - 0.5 * 0.96**i) for i in range(1, 3001)]
    for beta, factor in ((0.9, 1.0), (0.999, 0.999 / 0.9)):
        steps = np.array([1, 2, 30, 1022, 1023, 1024, 1025, 3000])
        expected = [np.prod(np.array(momentums[:n]) * factor) for n in steps]
        found = product_of_nadam(NUMPY, beta, steps.astype(float))
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert product_of_nadam(NUMPY, 0.0, np.array([1.0])) == 0


def network(optimizer):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, name="body"), keras.layers.Dense(1, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=1):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 4)), rng.standard_normal((64, 1))
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("name, lookahead_period", [
    *((name, k) for name in ("AdamW", "Nadam", "Lamb", "Adafactor", "SGD") for k in (None, 3)),
    ("ScheduleFreeAdamW", None),
])  # fmt: skip
@pytest.mark.parametrize("before", [0, 2])
def test_counts_are_saved(name, lookahead_period, before, tmp_path):
    """Even if a variable was trained and then frozen."""
    settings = {"lookahead_period": lookahead_period}
    model = network(getattr(optimizers, name)(0.01, **settings))
    fit(model, before) if before else model.optimizer.build(model.trainable_variables)
    set_learning_rate_multiplier(model.layers[0], 0.0)
    fit(model)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other = network(getattr(optimizers, name)(0.01, **settings))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / "model.weights.h5")
    for each in (model, loaded, other):
        set_learning_rate_multiplier(each.layers[0], 1.0)
        fit(each)
    for weights in (loaded.get_weights(), other.get_weights()):
        for a, b in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_state_with_a_variable_that_never_moved_goes_to_keras_and_back():
    ours, theirs = (network(of.Adam(0.01)) for of in (optimizers, keras.optimizers))
    ours.optimizer.build(ours.trainable_variables)
    theirs.optimizer.build(theirs.trainable_variables)
    set_learning_rate_multiplier(ours.layers[0], 0.0)
    fit(ours)
    store = {}
    ours.optimizer.save_own_variables(store)
    theirs.optimizer.load_own_variables(store)
    for a, b in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    again = network(optimizers.Adam(0.01))
    again.optimizer.build(again.trainable_variables)
    store = {}
    theirs.optimizer.save_own_variables(store)
    again.optimizer.load_own_variables(store)
    np.testing.assert_array_equal(again.optimizer._settings.behind, [8, 8, 0, 0])


def test_lookahead_of_a_variable_without_a_gradient_waits_for_its_first():
    first, later = variable("first"), variable("later")
    optimizer = optimizers.SGD(0.1, lookahead_period=2)
    optimizer.build([first, later])
    for gradient in gradients(3):
        optimizer.apply([gradient], [first])
    optimizer.apply([gradient, np.zeros(SHAPE, "float32")], [first, later])
    np.testing.assert_array_equal(later.numpy(), np.ones(SHAPE))


# Averages of the weights.
EMA = {"use_ema": True, "ema_momentum": 0.8}


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("frequency", [None, 1, 2, 3])
def test_averages_under_accumulation_are_those_of_the_big_batch(frequency, bias_correction):
    settings = EMA | {
        "ema_overwrite_frequency": frequency,
        "ema_bias_correction": bias_correction,
    }
    big, small = variable("big"), variable("small")
    one = optimizers.Adam(0.01, **settings)
    two = optimizers.Adam(0.01, gradient_accumulation_steps=2, **settings)
    one.build([big]), two.build([small])
    step = tf.function(lambda gradient: two.apply([gradient], [small]))
    for gradient in gradients(7):
        one.apply([gradient], [big])
        before = small.numpy().copy()
        step(0.5 * gradient)
        np.testing.assert_array_equal(small.numpy(), before)
        step(1.5 * gradient)
        np.testing.assert_allclose(small.numpy(), big.numpy(), rtol=1e-6)
        averages = [o._model_variables_moving_average[0].numpy() for o in (one, two)]
        np.testing.assert_allclose(*averages, rtol=1e-6)
    one.finalize_variable_values([big]), two.finalize_variable_values([small])
    np.testing.assert_allclose(small.numpy(), averages[0], rtol=1e-6)
    np.testing.assert_array_equal(big.numpy(), averages[0])


@pytest.mark.parametrize("schedule_by, rates", [
    ("calls", [0.1, 0.3, 0.5]), ("updates", [0.0, 0.1, 0.2]),
])  # fmt: skip
def test_a_schedule_counts_calls_or_updates(schedule_by, rates):
    schedule = optimizers.PiecewiseLinear([(0, 0.0), (100, 10.0)])
    weight = variable("weight")
    settings = {"gradient_accumulation_steps": 2, "schedule_by": schedule_by}
    optimizer = optimizers.SGD(schedule, **settings)
    optimizer.build([weight])
    step = tf.function(lambda gradient: optimizer.apply([gradient], [weight]))
    for rate in rates:
        before = weight.numpy().copy()
        step(np.ones(SHAPE, "float32")), step(np.ones(SHAPE, "float32"))
        np.testing.assert_allclose(before - weight.numpy(), rate, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='schedule_by must be "calls" or "updates", got True'):
        optimizers.SGD(schedule, schedule_by=True)


def test_fit_ends_with_the_averages_in_the_model():
    theirs = network(keras.optimizers.SGD(0.05, **EMA))
    ours = network(optimizers.SGD(0.05, gradient_accumulation_steps=2, **EMA))
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 4)), rng.standard_normal((64, 1))
    theirs.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
    ours.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [
    {"gradient_accumulation_steps": 9},
    {"gradient_transforms": transforms.sanitize()},
], ids=str)  # fmt: skip
def test_a_fit_without_an_update_leaves_the_model_as_it_is(settings):
    model = network(optimizers.Adam(0.1, **EMA, **settings))
    before = model.get_weights()
    bad = np.full((64, 4), np.nan if "gradient_transforms" in settings else 1.0)
    model.fit(bad, np.ones((64, 1)), batch_size=8, verbose=0)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("frequency", [None, 1, 2])
def test_averages_do_not_move_with_a_step_that_is_skipped(frequency):
    settings = EMA | {"ema_overwrite_frequency": frequency}
    results = []
    for skips in (False, True):
        weight = variable("weight")
        optimizer = optimizers.Adam(0.01, gradient_transforms=transforms.sanitize(), **settings)
        optimizer.build([weight])
        for gradient in gradients(5):
            if skips:
                optimizer.apply([gradient * np.float32(np.nan)], [weight])
            optimizer.apply([gradient], [weight])
        results.append([weight.numpy(), optimizer._model_variables_moving_average[0].numpy()])
    np.testing.assert_array_equal(*results)


def test_averages_of_momentum_1_with_bias_correction_are_the_mean():
    weight, seen = variable("weight"), []
    optimizer = optimizers.SGD(0.1, use_ema=True, ema_momentum=1.0, ema_bias_correction=True)
    optimizer.build([weight])
    for gradient in gradients(4):
        optimizer.apply([gradient], [weight])
        seen.append(weight.numpy().copy())
    average = optimizer._model_variables_moving_average[0].numpy()
    np.testing.assert_allclose(average, np.mean(seen, axis=0), rtol=1e-5, atol=1e-6)
