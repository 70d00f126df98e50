"""`fit_on_workers` in one process; tests/optimizers/test_distribution.py has it in two."""

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the strategies are of TensorFlow")
if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

from fastkeras.training import fit_on_workers  # noqa: E402
from fastkeras.training.workers import _batch_size  # noqa: E402

X = np.random.default_rng(0).normal(size=(22, 3)).astype("float32")
DATA = tf.data.Dataset.from_tensor_slices((X, X.sum(1, keepdims=True))).batch(8)


def network(units=1):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse", metrics=["mae"])
    return model


def test_it_trains_as_fit_does_on_full_batches_and_validates_on_all(tmp_path):
    ours, theirs = network(), network()
    history = fit_on_workers(ours, DATA, 3, validation_data=DATA, verbose=0)
    expected = theirs.fit(DATA.take(2), epochs=3, validation_data=DATA, shuffle=False, verbose=0)
    assert set(history.history) == set(expected.history) == {"loss", "mae", "val_loss", "val_mae"}
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-6)
    np.testing.assert_allclose(ours.get_weights()[0], theirs.get_weights()[0], rtol=1e-6)


class Stop(keras.callbacks.Callback):
    """Ask to stop after a batch, or fail there."""

    def __init__(self, batch, error=None):
        super().__init__()
        self.batch, self.error = batch, error

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == self.batch:
            if self.error:
                raise self.error
            self.model.stop_training = True


def of_epoch(epoch):
    return DATA.unbatch().shuffle(22, seed=epoch).batch(8)


@pytest.mark.parametrize("backup_every, left", [(None, 2), (1, 1)])
def test_it_goes_on_where_it_was_saved(backup_every, left, tmp_path):
    whole, first, second = network(), network(), network()
    settings = {"backup": tmp_path, "backup_every": backup_every, "verbose": 0}
    expected = fit_on_workers(whole, of_epoch, 3, verbose=0)
    with pytest.raises(InterruptedError):
        fit_on_workers(first, of_epoch, 3, callbacks=[Stop(4, InterruptedError())], **settings)
    seen = []
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    history = fit_on_workers(second, of_epoch, 3, callbacks=[count], **settings)
    assert len(seen) == 2 + left
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values[1:], rtol=1e-6)
    np.testing.assert_array_equal(second.get_weights()[0], whole.get_weights()[0])
    third = network()  # all is done
    assert not fit_on_workers(third, of_epoch, 3, **settings).history
    np.testing.assert_array_equal(third.get_weights()[0], whole.get_weights()[0])
    with pytest.raises(ValueError, match="another model"):
        fit_on_workers(network(units=2), DATA, 3, **settings)


def test_a_wish_to_stop_counts_at_the_end_of_the_epoch_and_after_a_restart(tmp_path):
    for _ in range(2):
        model = network()
        fit_on_workers(model, DATA, 5, callbacks=[Stop(3)], backup=tmp_path, verbose=0)
        assert model.optimizer.iterations == 4


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="a batch of 8 cannot be divided equally among 3"):
        _batch_size("data", DATA, 3)


class NotBuilt(keras.Model):
    def call(self, x):
        return x


def unbuilt():
    model = NotBuilt()
    model.compile("sgd", "mse")
    return model


REFUSED = {
    "not compiled": (lambda: keras.Sequential([keras.Input((3,))]), {}, "not compiled"),
    "not built": (unbuilt, {}, "not built"),
    "arrays": (network, {"data": X}, "must be a tf.data.Dataset of batches, got ndarray"),
    "no end": (network, {"data": DATA.repeat()}, r"no end: use data.take"),
    "no batches": (network, {"data": DATA.unbatch().map(lambda x, y: y[0])}, "no batches"),
    "nothing": (network, {"data": DATA.take(0)}, "no batches"),
    "an epoch of nothing": (
        network,
        {"data": lambda epoch: DATA.take(1 - epoch), "epochs": 2, "verbose": 0},
        "data has no full batch of 8 in epoch 1",
    ),
    "arrays to validate": (
        network,
        {"validation_data": (X, X)},
        "validation_data must be a tf.data.Dataset of batches, got tuple",
    ),
    "epochs": (network, {"epochs": -1}, "epochs=-1 must be an integer of at least 0"),
    "no folder": (network, {"backup_every": 3}, "needs a folder"),
    "never": (network, {"backup": "x", "backup_every": 0}, "backup_every=0 must be"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_done_is_refused(kind):
    make, given, message = REFUSED[kind]
    with pytest.raises(ValueError, match=message):
        fit_on_workers(**({"model": make(), "data": DATA} | given))


def test_another_backend_is_sent_to_its_own_ways(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"use keras\.distribution and model\.fit"):
        fit_on_workers(network(), DATA)
