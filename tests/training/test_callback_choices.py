"""What a callback has scored is what is saved and put back."""

import keras
import numpy as np
import pytest

from callback_fits import X, Y, arrays, differ, fit, network, same
from fastkeras import callbacks

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("first", ["averages", "checkpoint"])
def test_a_checkpoint_chosen_by_the_averages_has_them(first, tmp_path):
    path = tmp_path / "best.keras"
    model = network(normalised=True)
    ema = callbacks.ExponentialMovingAverage(0.9, validate=True)
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_best_only=True)
    given = [ema, checkpoint] if first == "averages" else [checkpoint, ema]
    history = fit(model, *given, epochs=3, validation_data=(X, Y)).history
    best = keras.models.load_model(path)
    assert best.evaluate(X, Y, verbose=0) == pytest.approx(min(history["val_loss"]), 1e-4)
    plain = network(normalised=True)
    fit(plain, epochs=3)
    same(arrays(model.weights), arrays(plain.weights))  # training was not affected


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_early_stopping_puts_back_what_was_scored(order):
    model = network(keras.optimizers.SGD(0.9))  # it diverges
    ema = callbacks.ExponentialMovingAverage(0.9, validate=True)
    stop = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    given = [ema, stop]
    history = fit(model, *(given[i] for i in order), epochs=4, validation_data=(X, Y)).history
    assert np.argmin(history["val_loss"]) < len(history["val_loss"]) - 1
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(min(history["val_loss"]), 1e-4)


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_the_best_averages_are_those_that_evaluate_keeps(with_checkpoint, tmp_path):
    model = network(normalised=True)
    ema = callbacks.ExponentialMovingAverage(0.9)
    scored = []

    def score(model):
        with ema.applied():
            scored.append(arrays(model.weights))
            return -model.evaluate(X, Y, verbose=0)

    evaluate = callbacks.Evaluate(score)
    path = tmp_path / "best.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, "score", save_best_only=True, save_weights_only=True, mode="max"
    )
    fit(model, ema, evaluate, *([checkpoint] if with_checkpoint else []), epochs=3)
    same(arrays(model.weights), scored[evaluate.best_epoch])
    assert -model.evaluate(X, Y, verbose=0) == pytest.approx(evaluate.best, 1e-4)
    if with_checkpoint:
        model.load_weights(path)
        same(arrays(model.weights), scored[evaluate.best_epoch])
    plain, trained = (
        network(normalised=True),
        callbacks.Evaluate(lambda model: 0.0, keep_best=False),
    )
    fit(plain, trained, epochs=3)
    model = network(normalised=True)
    ema.apply_at_end = False
    fit(model, ema, callbacks.Evaluate(score, keep_best=False), epochs=3)
    same(arrays(model.weights), arrays(plain.weights))


@pytest.mark.parametrize("best", [0, 2])
@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_evaluate_puts_back_stays_whichever_epoch_was_best(order, validate, best):
    model = network()
    ema = callbacks.ExponentialMovingAverage(0.9, validate=validate)
    scored = []

    def score(model):
        if validate:
            scored.append(arrays(model.weights))
        else:
            with ema.applied():
                scored.append(arrays(model.weights))
        return float(len(scored) == best + 1)

    given = [ema, callbacks.Evaluate(score)]
    data = (X, Y) if validate else None
    fit(model, *(given[i] for i in order), epochs=3, validation_data=data)
    assert differ(scored[best], scored[1])
    same(arrays(model.weights), scored[best])


def test_the_trained_weights_can_be_had_after_an_interrupt():
    class Interrupt(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, plain = network(), network()
    ema = callbacks.ExponentialMovingAverage(0.9, validate=True)
    with pytest.raises(KeyboardInterrupt):
        fit(model, ema, Interrupt(), validation_data=(X, Y))
    fit(plain)
    assert differ(arrays(model.weights), arrays(plain.weights))
    model.evaluate(X, Y, verbose=0, callbacks=[ema])
    ema.reset()
    same(arrays(model.weights), arrays(plain.weights))
    fit(model, ema), fit(plain)
    same(arrays(model.weights), arrays(plain.weights))
