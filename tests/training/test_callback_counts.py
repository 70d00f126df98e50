"""Callbacks count batches and updates, not executions or calls."""

import io

import keras
import numpy as np
import pytest
from keras import ops

from callback_fits import MOMENTUM, Record, X, Y, arrays, executions, fit, network, rate, same
from fastkeras import callbacks, layers

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_averages_move_once_for_each_update_of_an_execution(count):
    model = network()
    start = arrays(model.weights)
    executions(model, count)
    every = Record(lambda model: (int(model.optimizer.iterations), arrays(model.weights)))
    ema = callbacks.ExponentialMovingAverage(0.9)
    fit(model, ema, every, epochs=2)  # 5 batches each: the last execution may be shorter
    average, before = start, 0
    for iterations, weights in every.seen:
        power = 0.9 ** (iterations - before)
        average = [power * a + (1 - power) * w for a, w in zip(average, weights, strict=True)]
        before = iterations
    assert before == 10
    same(ema.values(), average)


@pytest.mark.parametrize("count", [2, 3])
def test_warm_up_counts_batches(count):
    seen = Record(rate)
    model = executions(network(), count)
    fit(model, seen, callbacks.Warmup(steps=8), epochs=3)
    first = [e * 5 + b + 1 for e in range(3) for b in range(0, 5, count)]
    np.testing.assert_allclose(seen.seen, [0.1 * min(b, 8) / 8 for b in first], 1e-5)


@pytest.mark.parametrize("length", [{"steps": 4}, {"epochs": 1.6}])
@pytest.mark.parametrize(("by", "batches"), [("calls", 1), ("updates", 2)])
def test_warm_up_counts_updates_on_request(by, batches, length):
    from fastkeras import optimizers

    seen = Record(rate)
    model = network(optimizers.SGD(0.1, gradient_accumulation_steps=2, schedule_by=by))
    fit(model, seen, callbacks.Warmup(**length), epochs=2)  # 10 batches, 5 updates
    last = 4 if "steps" in length else 8 // batches
    expected = [0.1 * min(batch // batches + 1, last) / last for batch in range(10)]
    np.testing.assert_allclose(seen.seen, expected, 1e-5)


def test_a_warm_up_that_ends_inside_of_an_execution_ends_with_the_whole_rate():
    model = executions(network(), 4)
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2 if epoch else rate)
    seen = Record(rate, at="epoch")
    fit(model, callbacks.Warmup(steps=3), halve, seen, epochs=3)
    np.testing.assert_allclose(seen.seen, [0.1, 0.05, 0.025], 1e-5)


@pytest.mark.parametrize("count", [1, 2])
def test_schedules_by_batch_count_batches_where_nobody_knows_how_many(count):
    def batches():
        for i in range(0, 20, 4):
            yield X[i : i + 4], Y[i : i + 4]

    layer = layers.LossLayer(lambda h: ops.sum(h) * 0 + 1)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(keras.layers.Dense(1)(inputs)))
    model.compile("sgd")
    if count > 1:
        executions(model, count)
    seen = Record(lambda model: float(ops.convert_to_numpy(layer.weight.value)))
    schedule = callbacks.ScheduleScalar(layer.weight, float, by="batch")
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        spec = tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1))
        data = tf.data.Dataset.from_generator(batches, output_signature=spec)
        given = [schedule, seen]
        with pytest.warns(UserWarning, match="ran out of data"):  # after the first epoch
            model.fit(data, epochs=2, verbose=0, shuffle=False, callbacks=given)
    else:
        fit(model, schedule, seen, epochs=2)
    expected = [e * 5 + b for e in range(2) for b in range(0, 5, count)]
    assert seen.seen == expected


@pytest.mark.parametrize("count", [1, 2])
def test_progress_counts_batches(count):
    console = pytest.importorskip("rich.console", reason="rich is not installed").Console(
        file=io.StringIO(), width=120
    )
    model = network() if count == 1 else executions(network(), count)
    fit(model, callbacks.RichProgress(console), epochs=2)
    assert "10/10" in console.file.getvalue()


def test_progress_leaves_out_what_is_no_number_and_outlives_an_interrupt():
    console = pytest.importorskip("rich.console", reason="rich is not installed").Console(
        file=io.StringIO(), width=120
    )

    class Vector(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            logs["vector"] = [1.0, 2.0]

    class Interrupt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    progress = callbacks.RichProgress(console)
    with pytest.raises(KeyboardInterrupt):
        fit(network(), progress, Interrupt())
    fit(network(), Vector(), progress)
    assert "5/5" in console.file.getvalue()


@pytest.mark.parametrize("fused", [False, True])
def test_averages_move_once_for_each_update_under_accumulation(fused):
    from fastkeras import optimizers

    module = optimizers if fused else keras.optimizers
    model = network(module.SGD(0.1, gradient_accumulation_steps=2))
    average = arrays(model.weights)
    every = Record(lambda model: arrays(model.weights))
    ema = callbacks.ExponentialMovingAverage(MOMENTUM)
    fit(model, ema, every, epochs=2)  # 10 batches, 5 updates: the third is of both epochs
    for weights in every.seen[1::2]:
        average = [(a + w) / 2 for a, w in zip(average, weights, strict=True)]
    same(ema.values(), average)


def test_averages_of_a_model_with_a_step_of_its_own_move_at_each_batch():
    class Stepping(keras.Model):
        def __init__(self):
            super().__init__()
            self.w = self.add_weight(shape=(1,), initializer="zeros")

        def call(self, x):
            return x + self.w

        def train_step(self, *arguments):
            logs = {"one": ops.ones(())}
            if keras.config.backend() == "jax":
                trainable, *rest = arguments[0]
                return logs, ([trainable[0] + 1], *rest)
            self.w.assign(self.w + 1)
            return logs

    model = Stepping()
    model.compile("sgd", "mse")
    ema = callbacks.ExponentialMovingAverage(MOMENTUM)
    fit(model, ema)
    average = 0.0
    for step in range(1, 6):
        average = (average + step) / 2
    same(ema.values(), [[average]])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_averages_of_small_floats_move_by_less_than_their_last_digit(dtype):
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(dtype)
        model = network()
    finally:
        keras.config.set_dtype_policy(policy)
    average = [a.astype("float64") for a in arrays(model.weights)]
    every = Record(lambda model: [a.astype("float64") for a in arrays(model.weights)])
    ema = callbacks.ExponentialMovingAverage(0.999)
    fit(model, ema, every, epochs=2)
    for weights in every.seen:
        average = [a + 0.001 * (w - a) for a, w in zip(average, weights, strict=True)]
    for ours, expected in zip(ema.values(), average, strict=True):
        np.testing.assert_allclose(ours, expected, 1e-5, 1e-7)
    with ema.applied():
        got = arrays(model.weights)
    for ours, expected in zip(got, average, strict=True):
        np.testing.assert_allclose(ours.astype("float64"), expected, 1e-2, 1e-4)
