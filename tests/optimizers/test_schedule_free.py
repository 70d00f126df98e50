"""The averages of ScheduleFree, and what Keras computes: its formula is in test_rules.py."""

import inspect

import keras
import numpy as np
import pytest

from fastkeras import optimizers
from fastkeras.optimizers import set_learning_rate_multiplier

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ("ScheduleFreeAdamW", "ScheduleFreeSGD")


def gradients(count):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((6, 4)).astype("float32") for _ in range(count)]


def made(name, value=1.0, **settings):
    variable = keras.Variable(np.full((6, 4), value, "float32"), name="weight")
    optimizer = getattr(optimizers, name)(0.1, **settings)
    optimizer.build([variable])
    return variable, optimizer


@pytest.mark.parametrize("name", CLASSES)
def test_the_average_is_that_of_all_steps_and_training_goes_on_as_before(name):
    variable, optimizer = made(name)
    steps = []
    for gradient in gradients(6):
        optimizer.apply([gradient], [variable])
        steps.append(optimizer._momentums[0].numpy())
        trained = variable.numpy().copy()
        with optimizer.averages():
            np.testing.assert_allclose(variable.numpy(), np.mean(steps, axis=0), 1e-5, 1e-6)
        np.testing.assert_array_equal(variable.numpy(), trained)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_that_are_loaded_after_the_optimizer_was_built_are_the_start(name):
    first, optimizer = made(name, 1.0)
    first.assign(np.full((6, 4), 3.0, "float32"))
    with optimizer.averages():
        np.testing.assert_array_equal(first.numpy(), np.full((6, 4), 3.0))
    other, fresh = made(name, 3.0)
    for gradient in gradients(3):
        optimizer.apply([gradient], [first])
        fresh.apply([gradient], [other])
    np.testing.assert_array_equal(first.numpy(), other.numpy())


def test_a_frozen_variable_has_no_average_and_is_saved_like_that_of_keras():
    variable, optimizer = made("ScheduleFreeAdamW")
    set_learning_rate_multiplier(variable, 0.0)
    for gradient in gradients(2):
        optimizer.apply([gradient], [variable])
    with optimizer.averages():
        np.testing.assert_array_equal(variable.numpy(), np.ones((6, 4)))
    store = {}
    optimizer.save_own_variables(store)
    assert "behind" not in store


def test_states_go_to_keras_and_back():
    theirs = getattr(keras.optimizers, "ScheduleFreeAdamW", None)
    if theirs is None:
        pytest.skip("this Keras has no ScheduleFreeAdamW")
    steps, values = gradients(4), []
    for classes in ((theirs, optimizers.ScheduleFreeAdamW), (optimizers.ScheduleFreeAdamW, theirs)):
        variables = [keras.Variable(np.ones((6, 4), "float32"), name="weight") for _ in classes]
        source, target = (optimizer(0.1) for optimizer in classes)
        source.build(variables[:1]), target.build(variables[1:])
        for gradient in steps[:3]:
            source.apply([gradient], variables[:1])
        store = {}
        source.save_own_variables(store)
        target.load_own_variables(store)
        variables[1].assign(variables[0])
        for a, b in zip(source.variables, target.variables, strict=True):
            assert a.path.partition("/")[2] == b.path.partition("/")[2]
            np.testing.assert_array_equal(a.numpy(), b.numpy())
        ours = classes.index(optimizers.ScheduleFreeAdamW)
        (source, target)[ours].apply(steps[3:], variables[ours : ours + 1])
        values.append((source, target)[ours]._velocities[0].numpy())
    # of 1 - beta_2, since Keras rounds beta_2 before; its step is not that of the paper
    np.testing.assert_allclose(*values, rtol=2.0**-24 / 0.001)


def test_arguments_are_those_of_keras():
    theirs = getattr(keras.optimizers, "ScheduleFreeAdamW", None)
    if theirs is None:
        pytest.skip("this Keras has no ScheduleFreeAdamW")
    expected = [
        (name, parameter.default)
        for name, parameter in inspect.signature(theirs).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    ours = inspect.signature(optimizers.ScheduleFreeAdamW).parameters
    assert [(name, ours[name].default) for name, _ in expected] == expected
    assert list(ours)[: len(expected)] == [name for name, _ in expected]


@pytest.mark.parametrize("name, arguments, message", [
    ("ScheduleFreeAdamW", {"beta_1": 0.0}, "beta_1 must be above 0 and below 1, got 0.0"),
    ("ScheduleFreeSGD", {"momentum": 1.0}, "momentum must be above 0 and below 1, got 1.0"),
    ("ScheduleFreeSGD", {"lookahead_period": 5}, "lookahead_period must be None"),
    ("ScheduleFreeSGD", {"layer_adaptation": True}, "layer_adaptation and lazy are not for"),
    ("ScheduleFreeAdamW", {"warmup_steps": -1}, "warmup_steps must be a number at least 0"),
    ("AdEMAMix", {"beta_3": 1.0}, "beta_3 must be a number from 0 to below 1, got 1.0"),
    ("AdEMAMix", {"gamma": 1.0}, "got an unexpected keyword argument 'gamma'"),
])  # fmt: skip
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        made(name, **arguments)


@pytest.mark.parametrize("name", CLASSES)
def test_a_model_that_is_saved_with_the_averages_predicts_but_is_not_trained_on(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(getattr(optimizers, name)(0.1), "mse")
    x, y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
    model.fit(x, y, epochs=3, batch_size=4, verbose=0)
    with model.optimizer.averages():
        expected = model.predict(x, verbose=0)
        model.save(tmp_path / "averages.keras")
    model.save(tmp_path / "model.keras")
    averages, again = (
        keras.models.load_model(tmp_path / f"{file}.keras") for file in ("averages", "model")
    )
    np.testing.assert_array_equal(averages.predict(x, verbose=0), expected)
    with pytest.raises(ValueError, match=r"saved within optimizer.averages\(\)"):
        averages.fit(x, y, verbose=0)
    store = {}
    with model.optimizer.averages():
        model.optimizer.save_own_variables(store)
    with pytest.raises(ValueError, match=r"saved within optimizer.averages\(\)"):
        again.optimizer.load_own_variables(store)
    for each in (model, again):
        each.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
