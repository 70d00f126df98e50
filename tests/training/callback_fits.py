"""What the tests of callbacks share: a small model, its fit, and a record of what happens in it."""

import keras
import numpy as np
import pytest
from keras import ops

X = np.random.default_rng(3).standard_normal((20, 4)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")
MOMENTUM = 0.5


def network(optimizer=None, seed=5, normalised=False, **options):
    keras.utils.set_random_seed(seed)
    inner = [keras.layers.BatchNormalization()] if normalised else []
    model = keras.Sequential([keras.Input((4,)), *inner, keras.layers.Dense(1, name="d")])
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **options)
    return model


def fit(model, *given, epochs=1, **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, callbacks=list(given), **options)


def arrays(variables):
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v))) for v in variables]


def same(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)


def differ(ours, others):
    return max(np.abs(a - b).max() for a, b in zip(ours, others, strict=True)) > 1e-4


class Record(keras.callbacks.Callback):
    """Records values after each execution, and its number of batches as told by Keras."""

    def __init__(self, read, at="batch"):
        super().__init__()
        self.read, self.at, self.seen = read, at, []

    def note(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(self.read(self.model))

    def on_train_batch_end(self, batch, logs=None):
        if self.at == "batch":
            self.note()

    def on_epoch_end(self, epoch, logs=None):
        if self.at == "epoch":
            self.note()


def rate(model):
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


def executions(model, count):
    if keras.config.backend() == "torch":
        pytest.skip("Keras has no steps_per_execution with torch")
    model.compile(model.optimizer, model.loss, steps_per_execution=count)
    return model
