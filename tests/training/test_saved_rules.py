"""Rules of `train_with` in saved models, and where the optimizer scales the loss."""

import pickle

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers, training
from fastkeras.layers import LossLayer

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(5)
X = RNG.standard_normal((8, 3)).astype("float32")
Y = RNG.standard_normal((8, 2)).astype("float32")


@keras.saving.register_keras_serializable("tests_training")
def twice(objective, values):
    """Twice the gradient, by which a test sees that this rule was followed."""
    return [2 * gradient for gradient in objective.gradients(values)]


@keras.saving.register_keras_serializable("tests_training")
class Wide(keras.Model):
    """A subclassed model, which writes its own configuration."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units, self.dense = units, keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"units": self.units, "name": self.name}


def functional():
    x = keras.Input((3,))
    return keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(4, "tanh")(x)))


def trained_by_its_loss_alone():
    x, y = keras.Input((3,)), keras.Input((2,))
    loss = LossLayer(weight=0.5)(ops.square(keras.layers.Dense(2)(x) - y))
    return keras.Model([x, y], loss)


MODELS = {
    "functional": functional,
    "sequential": lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]),
    "subclassed": lambda: Wide(2),
    "loss": trained_by_its_loss_alone,
}


def made(kind, rule, optimizer=None, trained=True):
    keras.utils.set_random_seed(3)
    model, loss = MODELS[kind](), None if kind == "loss" else "mse"
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, run_eagerly=not trained)
    if trained:
        model.train_on_batch(*data_of(kind))
    return training.train_with(model, rule)


def data_of(kind):
    return ([X, Y], None) if kind == "loss" else (X, Y)


def arrays(model):
    return [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]


@pytest.mark.parametrize("kind", MODELS)
def test_the_rule_is_saved_and_trains_after_loading(kind, tmp_path):
    model = made(kind, twice)
    before = arrays(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again).__name__ == type(model).__name__ == type(MODELS[kind]()).__name__
    assert isinstance(again, type(MODELS[kind]()))
    plain = training.train_with(keras.models.load_model(tmp_path / "model.keras"), None)
    assert type(plain) is type(MODELS[kind]())
    for each in (model, again, plain):
        for a, b in zip(before, arrays(each), strict=True):
            np.testing.assert_array_equal(a, b)
        each.train_on_batch(*data_of(kind))
    steps = zip(before, arrays(model), arrays(again), arrays(plain), strict=True)
    for start, ours, loaded, by_one in steps:
        np.testing.assert_array_equal(ours, loaded)
        np.testing.assert_allclose(ours - start, 2 * (by_one - start), 1e-4, 1e-6)
        assert np.abs(ours - start).max() > 1e-3


def test_every_rule_keeps_its_settings():
    of = "embeddings", "dense/kernel"
    for rule in (
        training.Heun(),
        training.RungeKutta4(),
        training.Extragradient(),
        training.SAM(0.3),
        training.ASAM(0.2, 0.1),
        training.FGM(of, 0.3, 0.5),
        training.PGD(of, 0.3, 0.1, 2, 0.5),
        training.GradientPenalty("kernel", 0.3),
        training.VirtualAdversarial(of, 0.3, 0.1, 2, 0.5, True),
    ):
        model = made("sequential", rule, trained=False)
        again = keras.models.model_from_json(model.to_json())
        assert again._rule == rule


def test_it_is_copied_with_the_model_and_may_be_left_behind(tmp_path):
    model = made("functional", training.SAM(0.3))
    assert pickle.loads(pickle.dumps(model))._rule == training.SAM(0.3)
    clone = keras.models.clone_model(model)
    clone.compile("sgd", "mse")
    clone.train_on_batch(X, Y)
    assert not hasattr(clone, "_rule")
    model.save(tmp_path / "model.keras")
    uncompiled = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not uncompiled.compiled
    assert uncompiled._rule == training.SAM(0.3)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_file_of_hdf5_has_the_model_without_the_rule(tmp_path):
    model = made("sequential", training.SAM(0.3))
    model.save(tmp_path / "model.h5")
    again = keras.models.load_model(tmp_path / "model.h5", compile=False)
    np.testing.assert_array_equal(arrays(again)[0], arrays(model)[0])
    assert not hasattr(again, "_rule")


def scaled(optimizer, factor):
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=factor)


@pytest.mark.parametrize(
    "rule",
    [
        training.Extragradient(),
        training.SAM(0.5),
        training.GradientPenalty("kernel", 2.0),
        training.VirtualAdversarial("kernel", 0.5, 0.1, from_logits=True),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_scaled_loss_gives_the_step_of_the_loss(rule):
    after = [
        arrays(trained(rule, optimizer))
        for optimizer in (
            keras.optimizers.SGD(0.1),
            scaled(keras.optimizers.SGD(0.1), 1024.0),
            scaled(optimizers.SGD(0.1), 1024.0),
            keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
        )
    ]
    start = arrays(trained(lambda o, values: [0 * g for g in o.gradients(values)], None))
    for ours in after[1:]:
        for a, b, before in zip(ours, after[0], start, strict=True):
            np.testing.assert_allclose(a, b, 1e-5, 1e-7)
            assert np.abs(a - before).max() > 1e-3


def trained(rule, optimizer):
    model = made("sequential", rule, optimizer, trained=False)
    model.train_on_batch(X, Y)
    return model


def test_under_float16_small_gradients_count_and_an_overflow_is_skipped():
    """Gradients of 1e-9 are 0 in float16, unless the loss is scaled."""
    seen = []

    def look(objective, values):
        seen.append(objective.gradients(values))
        return seen[-1]

    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    for layer in layers:
        layer.dtype_policy = "mixed_float16"
    tiny = 2.0**-26
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e6), initial_scale=2.0**14),
        lambda y, p: tiny * ops.mean(ops.cast(p - ops.cast(y, p.dtype), "float32"), axis=-1),
        run_eagerly=True,
    )
    training.train_with(model, look)
    before = arrays(model)
    model.train_on_batch(X, Y)
    found = [np.array(ops.convert_to_numpy(ops.stop_gradient(g))) for g in seen[0]]
    hidden = np.tanh(X @ before[0] + before[1])
    kernel = np.repeat(tiny * hidden.mean(0)[:, None] / 2, 2, axis=1)
    np.testing.assert_allclose(found[2], kernel, 5e-3, 1e-12)
    np.testing.assert_allclose(before[2] - arrays(model)[2], 1e6 * found[2], 1e-3, 1e-7)
    before = arrays(model)
    model.train_on_batch(X * np.float32(np.inf), Y)
    for a, b in zip(before, arrays(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(ops.convert_to_numpy(model.optimizer.dynamic_scale)) == 2.0**13
