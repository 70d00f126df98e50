"""Callbacks attach to one model, fit after fit, and can be copied."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from callback_fits import MOMENTUM, Record, X, Y, arrays, fit, network, rate, same
from fastkeras import callbacks, layers

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_the_averages_of_a_second_model_are_its_own():
    ema = callbacks.ExponentialMovingAverage(MOMENTUM, apply_at_end=True)
    first, second = network(seed=1), network(seed=2)
    fit(first, ema)
    kept = arrays(first.weights)
    alone = callbacks.ExponentialMovingAverage(MOMENTUM)
    expected = network(seed=2)
    fit(expected, alone)
    ema.set_model(second)
    start = arrays(second.weights)
    ema.apply(), ema.reset()  # there are no averages of this model yet
    same(arrays(second.weights), start)
    fit(second, ema)
    same(arrays(second.weights), alone.values())
    same(arrays(first.weights), kept)


def test_the_best_weights_of_a_second_model_are_its_own():
    scores = iter([9.0, 8.0, 1.0, 2.0])
    evaluate = callbacks.Evaluate(lambda model: next(scores))
    fit(network(seed=1), evaluate, epochs=2)
    assert (evaluate.best, evaluate.best_epoch) == (9.0, 0)
    second, plain = network(seed=2), network(seed=2)
    fit(second, evaluate, epochs=2)
    assert (evaluate.best, evaluate.best_epoch) == (2.0, 1)
    fit(plain, epochs=2)
    same(arrays(second.weights), arrays(plain.weights))


def test_a_second_model_of_another_shape_is_no_error():
    wide = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    wide.compile("sgd", "mse")
    ema = callbacks.ExponentialMovingAverage(MOMENTUM, validate=True)
    evaluate = callbacks.Evaluate(lambda model: 1.0)
    for model in (network(), wide):
        fit(model, ema, evaluate, validation_data=(X, Y))
    assert [value.shape for value in ema.values()] == [(4, 3), (3,), (3, 1), (1,)]


def test_a_model_that_grew_is_averaged_anew_or_named():
    model = network()
    ema, evaluate = callbacks.ExponentialMovingAverage(0.9), callbacks.Evaluate(lambda model: 1.0)
    fit(model, ema, evaluate)
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    for use in (ema.apply, evaluate.restore_best):
        with pytest.raises(ValueError, match="has other weights than those that were"):
            use()
    fit(model, ema)
    assert len(ema.values()) == 4


def test_warm_up_and_schedules_count_the_batches_of_each_model_from_the_start():
    seen = Record(rate)
    warmup = callbacks.Warmup(steps=5)
    for start in (0.1, 0.2):
        fit(network(keras.optimizers.SGD(start)), warmup, seen)
    model = network(keras.optimizers.SGD(0.4))
    fit(model, warmup, seen)
    model.compile(keras.optimizers.SGD(0.8), "mse")  # another optimizer
    fit(model, warmup, seen)
    fifths = np.arange(1, 6) / 5
    np.testing.assert_allclose(seen.seen, np.outer([0.1, 0.2, 0.4, 0.8], fifths).ravel(), 1e-5)


def test_norms_of_a_second_model_have_a_history_of_their_own():
    norms = callbacks.Norms()
    for _ in range(2):
        fit(network(), norms, epochs=2)
        assert norms.history["epoch"] == [0, 1]
    fit(norms.model, norms)
    assert norms.history["epoch"] == [0, 1, 0]


def test_a_schedule_sets_again_what_others_have_changed():
    layer = layers.LossLayer(lambda h: h)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(keras.layers.Dense(1)(inputs)))
    model.compile("sgd")
    schedule = callbacks.ScheduleScalar(layer.weight, {0: 0.5})
    for _ in range(2):
        layer.weight.assign(7.0)
        model.fit(X, epochs=1, verbose=0, callbacks=[schedule])
        assert float(ops.convert_to_numpy(layer.weight.value)) == 0.5


def test_averages_start_anew_where_the_weights_were_replaced():
    ema = callbacks.ExponentialMovingAverage(MOMENTUM)
    model = network()
    start = arrays(model.weights)
    fit(model, ema)
    expected = ema.values()
    model.set_weights(start)  # the next fold of a cross-validation
    fit(model, ema)
    same(ema.values(), expected)


def test_weights_set_after_the_averages_were_applied_are_those_that_train():
    ema = callbacks.ExponentialMovingAverage(MOMENTUM, apply_at_end=True)
    model, again = network(), network()
    start = arrays(model.weights)
    fit(model, ema)
    model.set_weights(start)
    trained = Record(lambda model: arrays(model.weights))
    fit(model, ema, trained)
    fit(again)
    same(trained.seen[-1], arrays(again.weights))


def test_callbacks_are_copied_and_pickled_with_what_they_hold():
    model = network()
    pytest.importorskip("rich", reason="rich is not installed")
    console = None
    given = [
        callbacks.ExponentialMovingAverage(0.5),
        callbacks.Evaluate(sum_of_weights),
        callbacks.PrintSamples(name_of, print=nothing),
        callbacks.Norms((X, Y)),
        callbacks.Warmup(steps=3),
        callbacks.PiecewiseLinearRate({1: 1.0}),
        callbacks.RichProgress(console),
        callbacks.SampleSheet("x.png", X),
    ]
    for callback in given:
        copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))
    fit(model, *given[:6])
    for make in (copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))):
        ema, evaluate = make(given[0]), make(given[1])
        same(ema.values(), given[0].values())
        assert evaluate.best == given[1].best
        with ema.applied():
            same(arrays(ema.model.weights), ema.values())
        for callback in given[2:6]:
            make(callback)


def sum_of_weights(model):
    return float(sum(array.sum() for array in arrays(model.weights)))


def name_of(model):
    return model.name


def nothing(line):
    pass
