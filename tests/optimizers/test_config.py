"""Every argument of an optimizer is saved and restored, even if it is falsy."""

import json

import keras
import numpy as np
import pytest

from fastkeras import optimizers
from fastkeras.optimizers import transforms
from fastkeras.optimizers.fused.classes import newer, stock

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = [ours.__name__ for ours in (*stock.OPTIMIZERS, *newer.NEWER)] + [
    "Muon",
    "AdamMini",
    "SOAP",
    "APOLLO",
]
ONE = (transforms.clip_by_norm(1.0),)
# Each argument of `Fused`, and some of Keras', with a falsy value and another one.
VALUES = {
    "learning_rate_multipliers": [[("body", 0.0)], [(".", 0.0)], [0, 0.0, 0, 0], [], {"bias": 2}],
    "gradient_transforms": [[("body", ())], (), [("bias", transforms.scale(0.0))], {"bias": ONE}],
    "weight_decay_overrides": [[("bias", 0.0)], [(".", 0)], {"kernel": 0.0}, [], [("head", 0.3)]],
    "ema_bias_correction": [False, True],
    "moment_bits": [32, 8, 16],
    "lazy": [None, False, [], ["kernel"], True],
    "layer_adaptation": [None, False, [], ["head"], True],
    "lookahead_period": [None, 1, 3],
    "slow_step_size": [0.5, 0.25, 1],
    "master_weights": [False, True],
    "stochastic_rounding": [False, True],
    "schedule_by": ["calls", "updates"],
    "weight_decay": [0.0, 0.1],
    "clipnorm": [None, 0.5],
    "ema_momentum": [0.0, 0.9],
    "gradient_accumulation_steps": [None, 2],
}
CASES = [(name, value) for name, values in VALUES.items() for value in values]

BY_SIZE = ("lazy", "layer_adaptation")
BY_WHOLES = ("Lamb", "Adafactor", "Muon", "StableAdamW", "AdamMini", "SOAP", "APOLLO")
REFUSED = dict.fromkeys(BY_WHOLES, BY_SIZE)
REFUSED |= dict.fromkeys(("ScheduleFreeAdamW", "ScheduleFreeSGD"), (*BY_SIZE, "lookahead_period"))


def network(names=("body", "head"), units=8):
    layers = [keras.layers.Dense(units, name=names[0]), keras.layers.Dense(1, name=names[1])]
    return keras.Sequential([keras.Input((4,)), *layers])


def made(name, settings):
    settings = {"momentum": 0.9} | settings if name in ("SGD", "RMSprop") else settings
    return getattr(optimizers, name)(0.01, use_ema=True, **settings)


def told(optimizer):
    """Return all settings on which the step of a built optimizer depends."""
    settings = optimizer._settings
    plain = ("ema_bias_correction", "moment_bits", "lookahead_period", "slow_step_size")
    plain += (
        "schedule_by",
        "master_weights",
        "stochastic_rounding",
        "weight_decay",
        "ema_momentum",
    )
    return {
        "multipliers": optimizer.learning_rate_multipliers,
        "chains": settings.chains,
        "decays": settings.decays,
        "lazy": settings.lazy,
        "adapted": settings.adapted,
        **{name: getattr(optimizer, name) for name in plain},
    }


@pytest.mark.parametrize("argument, value", CASES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_argument_comes_back(name, argument, value):
    model = network()
    settings = {argument: value} if argument != "moment_bits" or name == "Adam" else {}
    try:
        optimizer = made(name, settings)
        configs = [optimizer.get_config()]  # as given, ...
        optimizer.build(model.trainable_variables)
    except ValueError:  # Lamb is never lazy, and Adafactor not adapted
        assert argument in REFUSED.get(name, ())
        return
    configs.append(optimizer.get_config())  # ... and as resolved
    for config in configs:
        config = json.loads(json.dumps(config))
        again = type(optimizer).from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config
        again.build(model.trainable_variables)
        assert told(again) == told(optimizer)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_bias_that_does_not_decay_does_not_after_loading(decay, tmp_path):
    model = network()
    model.compile(optimizers.AdamW(0.1, weight_decay_overrides=[("bias", decay)]), "mse")
    model.layers[0].bias.assign(np.ones(8))
    x = np.zeros((4, 4))
    model.train_on_batch(x, np.asarray(model(x)))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, again):
        each.train_on_batch(x, np.asarray(each(x)))
    np.testing.assert_array_equal(again.layers[0].bias, model.layers[0].bias)
    assert (np.asarray(model.layers[0].bias) == 1).all() == (decay == 0)


def test_numbers_of_numpy_are_numbers():
    model = network()
    optimizer = optimizers.AdamW(
        learning_rate_multipliers=[("body", np.float32(0.5)), ("head", np.int64(0))],
        weight_decay_overrides=[("bias", np.float32(0))],
        gradient_transforms=transforms.scale(np.float32(0.25)),
    )
    json.dumps(optimizer.get_config())
    optimizer.build(model.trainable_variables)
    assert optimizer.learning_rate_multipliers == [0.5, 0.5, 0, 0]
    json.dumps(optimizer.get_config())


SETTINGS = {
    "learning_rate_multipliers": [("body", 0.1)],
    "gradient_transforms": [("body", transforms.scale(2.0))],
    "weight_decay_overrides": [("body", 0.0)],
    "layer_adaptation": ["body"],
    "lazy": ["kernel"],
}


def config_of(argument, model):
    optimizer = optimizers.AdamW(**{argument: SETTINGS[argument]})
    optimizer.build(model.trainable_variables)
    return optimizer.get_config()


@pytest.mark.parametrize("argument", SETTINGS)
def test_another_model_of_as_many_variables_is_refused(argument):
    again = optimizers.AdamW.from_config(config_of(argument, network()))
    with pytest.raises(
        ValueError, match=f"{argument} was saved for 4 variables.*'.*encoder/kernel"
    ):
        again.build(network(("encoder", "classifier")).trainable_variables)


def test_layers_without_names_are_told_apart_by_their_shapes():
    def unnamed(units):
        layers = [keras.layers.Dense(units), keras.layers.Dense(1)]
        return keras.Sequential([keras.Input((4,)), *layers])

    first = unnamed(8)
    optimizer = optimizers.Adam(learning_rate_multipliers=[(first.layers[0], 0.1)])
    optimizer.build(first.trainable_variables)
    config = optimizer.get_config()
    again = optimizers.Adam.from_config(config)
    again.build(unnamed(8).trainable_variables)
    assert again.learning_rate_multipliers == [0.1, 0.1, 1, 1]
    with pytest.raises(ValueError, match="learning_rate_multipliers was saved for"):
        optimizers.Adam.from_config(config).build(unnamed(5).trainable_variables)


@pytest.mark.parametrize("argument", SETTINGS)
def test_unfreezing_says_what_is_new(argument):
    model = network()
    model.layers[1].trainable = False
    again = optimizers.AdamW.from_config(config_of(argument, model))
    model.layers[1].trainable = True
    with pytest.raises(ValueError, match=r"it says nothing of 'sequential.*/head/kernel'"):
        again.build(model.trainable_variables)


def test_freezing_and_another_order_keep_what_belongs_to_each():
    model = network()
    given = [("head/kernel", 0.5), ("head/bias", 0.25), ("body/bias", 0.1)]
    optimizer = optimizers.SGD(learning_rate_multipliers=given)
    optimizer.build(model.trainable_variables)
    config = optimizer.get_config()
    backwards = optimizers.SGD.from_config(config)
    backwards.build(model.trainable_variables[::-1])
    assert backwards.learning_rate_multipliers == [0.25, 0.5, 0.1, 1]
    model.layers[0].trainable = False
    fewer = optimizers.SGD.from_config(config)
    fewer.build(model.trainable_variables)
    assert fewer.learning_rate_multipliers == [0.5, 0.25]


@keras.saving.register_keras_serializable("test_config")
class Own(keras.Model):
    """A model whose layers were not named, so that their names differ after loading."""

    def __init__(self, **options):
        super().__init__(**options)
        inner = [keras.layers.Dense(3, name="same"), keras.layers.Dense(3)]
        self.first, self.second = (keras.Sequential(inner[:1], name=name) for name in "ab")
        self.last = inner[1]

    def call(self, x):
        return self.last(self.second(self.first(x)))


def test_a_loaded_model_of_an_own_class_keeps_its_rates(tmp_path):
    model = Own()
    given = [("dense.*/bias", 0.5)]
    model.compile(optimizers.Adam(0.01, learning_rate_multipliers=given), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 3)), verbose=0)
    model.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    rates = again.optimizer.learning_rate_multipliers
    assert rates == model.optimizer.learning_rate_multipliers
    assert rates.count(0.5) == 1


@pytest.mark.parametrize("bad, message", [
    ({"weight_decay_overrides": [("bias", None)]}, "'bias' must have a finite number, got None"),
    ({"weight_decay_overrides": [0.1]}, "weight_decay_overrides must be pairs"),
    ({"weight_decay_overrides": 0.1}, "weight_decay_overrides must be a list, got 0.1"),
    ({"weight_decay_overrides": [("bias", float("nan"))]}, "must have a finite number, got nan"),
    ({"learning_rate_multipliers": 0.5}, "learning_rate_multipliers must be a list, got 0.5"),
    ({"learning_rate_multipliers": "body"}, "learning_rate_multipliers must be a list, got 'body'"),
    ({"gradient_transforms": 0.5}, "gradient_transforms must be a list, got 0.5"),
    ({"lazy": 3}, "lazy must be a list, got 3"),
    ({"beta_1": 1.0}, "beta_1 must be a number from 0 to below 1, got 1.0"),
    ({"epsilon": -1}, "epsilon must be a number at least 0, got -1"),
], ids=str)  # fmt: skip
def test_bad_settings_are_named(bad, message):
    with pytest.raises((ValueError, TypeError), match=message):
        optimizers.AdamW(**bad)
