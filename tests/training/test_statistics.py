"""Statistics of BatchNormalization computed anew, against those of NumPy in float64."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.callbacks import StochasticWeightAveraging
from fastkeras.training import reestimate_batch_normalization

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(6)
X = (3 + RNG.standard_normal((22, 4))).astype("float32")
BATCHES = [X[i : i + 8] for i in range(0, 22, 8)]  # of 8, 8 and 6


def network():
    keras.utils.set_random_seed(5)
    x = keras.Input((4,))
    h = keras.layers.BatchNormalization(name="first", momentum=0.9)(x)
    h = keras.layers.Dense(3, "tanh", name="dense")(h)
    h = keras.layers.BatchNormalization(name="second")(h)
    model = keras.Model(x, keras.layers.Dense(1, name="last")(keras.layers.Dropout(0.5)(h)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def statistics_of(model):
    """By hand, in float64: (mean, variance) of both layers."""
    w, b = (array.astype(float) for array in arrays(model.get_layer("dense").weights))
    gamma, beta, *_ = (array.astype(float) for array in arrays(model.get_layer("first").weights))
    sums = 0
    for x in BATCHES:
        x = x.astype(float)
        mean, variance = x.mean(0), x.var(0)
        h = np.tanh(((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta) @ w + b)
        found = [mean, variance, h.mean(0), h.var(0)]
        sums = (
            [len(x) * f for f in found]
            if sums == 0
            else [s + len(x) * f for s, f in zip(sums, found, strict=True)]
        )
    return [s / len(X) for s in sums]


def of_layers(model):
    layers = model.get_layer("first"), model.get_layer("second")
    return arrays([v for layer in layers for v in (layer.moving_mean, layer.moving_variance)])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return BATCHES[i], np.zeros(len(BATCHES[i]))


@pytest.mark.parametrize("data", [X, iter(BATCHES), Batches()], ids=["array", "iterator", "data"])
def test_statistics_are_those_of_one_pass_and_nothing_else_changes(data):
    model = network()
    first = model.get_layer("first")
    first.moving_mean.assign(np.full(4, np.nan))
    before = arrays([v for v in model.variables if "moving" not in v.path])
    assert reestimate_batch_normalization(model, data, batch_size=8) is model
    for ours, expected in zip(of_layers(model), statistics_of(model), strict=True):
        np.testing.assert_allclose(ours, expected, 1e-5, 1e-6)
    after = arrays([v for v in model.variables if "moving" not in v.path])
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.momentum == 0.9


def test_a_layer_that_is_called_twice_counts_both_and_a_frozen_one_stays():
    a, b = keras.Input((4,)), keras.Input((4,))
    shared, frozen = (keras.layers.BatchNormalization() for _ in range(2))
    frozen.trainable = False
    model = keras.Model([a, b], shared(a) + shared(frozen(b)))
    reestimate_batch_normalization(model, [X, 5 + 2 * X], batch_size=22, steps=1)
    mean = (X.mean(0) + (5 + 2 * X.mean(0)) / np.sqrt(1.001)) / 2
    np.testing.assert_allclose(arrays([shared.moving_mean])[0], mean, 1e-5)
    np.testing.assert_array_equal(arrays([frozen.moving_mean])[0], np.zeros(4))


def test_the_mean_of_the_last_epochs_has_its_own_statistics():
    model, ends = network(), []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: ends.append(model.get_layer("dense").get_weights())
    )
    swa = StochasticWeightAveraging(1, every=2, data=X, batch_size=8)

    class Sync(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()

    model.fit(X, X[:, :1], 8, epochs=4, verbose=0, callbacks=[Sync(), keep, swa])
    assert swa.epochs == 2
    for ours, *of_epochs in zip(model.get_layer("dense").get_weights(), *ends, strict=True):
        np.testing.assert_allclose(ours, (of_epochs[1] + of_epochs[3]) / 2, 1e-6, 1e-7)
        assert np.abs(of_epochs[1] - of_epochs[3]).max() > 1e-5
    for ours, expected in zip(of_layers(model), statistics_of(model), strict=True):
        np.testing.assert_allclose(ours, expected, 1e-5, 1e-6)


def test_what_cannot_be_done_is_said():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="has no trainable BatchNormalization"):
        reestimate_batch_normalization(plain, X)
    with pytest.raises(ValueError, match="there is no batch in it"):
        reestimate_batch_normalization(network(), X[:0])
    with pytest.raises(ValueError, match="every=0 must be an integer of at least 1"):
        StochasticWeightAveraging(1, every=0)
    plain.compile("sgd", "mse")
    before = plain.get_weights()
    with pytest.raises(ValueError, match="has no trainable BatchNormalization"):
        plain.fit(X, X[:, :1], verbose=0, callbacks=[StochasticWeightAveraging(0, data=X)])
    for ours, theirs in zip(plain.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)  # nothing was trained
