"""Callbacks: the values that they set, keep, restore and record, step by step."""

import io
import struct
import sys
from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import callbacks, layers, losses, optimizers, training

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(3)
X = RNG.standard_normal((16, 4)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")


def network(optimizer=None, normalised=False):
    keras.utils.set_random_seed(5)
    inner = [keras.layers.BatchNormalization()] if normalised else []
    dense = keras.layers.Dense(1, name="d")
    model = keras.Sequential([keras.Input((4,)), *inner, dense])
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse")
    return model


def fit(model, *given, epochs=3, **options):
    options = {"batch_size": 4, "shuffle": False, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, callbacks=list(given), **options)


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


class Record(keras.callbacks.Callback):
    """Records a number after each batch."""

    def __init__(self, read):
        super().__init__()
        self.read, self.seen = read, []

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(self.read(self.model))


def rate(model):
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_best_weights_by_any_metric_come_back(mode):
    scores = iter([1.0, 3.0, float("nan"), 2.0] if mode == "max" else [3.0, 1.0, float("nan"), 2.0])
    kept = []

    def score(model, data):
        assert data == "data"
        kept.append(arrays(model.weights))
        return {"f1": next(scores), "other": 7}

    evaluate = callbacks.Evaluate(score, "data", "f1", mode)
    model = network()
    history = fit(model, evaluate, epochs=4).history
    assert history["other"] == [7] * 4 and len(history["f1"]) == 4
    assert (evaluate.best, evaluate.best_epoch) == (3.0 if mode == "max" else 1.0, 1)
    for now, best, last in zip(arrays(model.weights), kept[1], kept[3], strict=True):
        np.testing.assert_array_equal(now, best)
        assert np.abs(best - last).max() > 1e-4


def test_other_callbacks_see_the_metric_and_the_last_weights_stay_on_demand():
    evaluate = callbacks.Evaluate(lambda model: 1.0, keep_best=False, every=2)
    stopping = keras.callbacks.EarlyStopping("score", mode="max", patience=0)
    plain, model = network(), network()
    fit(plain)
    with pytest.warns(UserWarning, match="Early stopping conditioned on metric"):
        fit(model, evaluate, stopping)
    assert evaluate.best_epoch == 1
    for a, b in zip(arrays(plain.weights), arrays(model.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"monitor='f1' must be one of \['f2'\]"):
        fit(model, callbacks.Evaluate(lambda model: {"f2": 1}, monitor="f1"))


@pytest.mark.parametrize("where", ["layer", "loss"])
def test_a_scheduled_coefficient_is_that_of_the_loss_in_its_epoch(where):
    x, labels = np.ones((4, 2), "float32"), np.zeros(4, "int32")
    keras.utils.set_random_seed(5)
    scores = keras.layers.Dense(3)(inputs := keras.Input((2,)))
    if where == "layer":
        layer = layers.LossLayer(lambda s: ops.mean(s * 0 + 1, -1))
        model = keras.Model(inputs, layer(scores))
        model.compile(keras.optimizers.SGD(0.0))
        variable, expected = layer.weight, [0.5, 0.5, 0.25]
    else:
        loss = losses.SmoothedCrossentropy(0.0)
        model = keras.Model(inputs, scores)
        model.compile(keras.optimizers.SGD(0.0), loss)
        logs = arrays([ops.log_softmax(model(x))])[0]
        variable = loss.smoothing
        expected = [-(1 - e) * logs[:, 0].mean() - e * logs.mean() for e in (0.5, 0.5, 0.25)]
    schedule = callbacks.ScheduleScalar(variable, {0: 0.5, 2: 0.25}, name="e")
    target = None if where == "layer" else labels
    history = model.fit(x, target, epochs=3, verbose=0, callbacks=[schedule]).history
    np.testing.assert_allclose(history["loss"], expected, 1e-5)
    assert history["e"] == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("by", ["epoch", "batch"])
def test_the_weights_move_by_the_coefficient_in_force(by):
    """The length of a step of plain descent is proportional to the coefficient, in every weight."""
    layer = layers.LossLayer(lambda h: h)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(keras.layers.Dense(1)(inputs)))
    model.compile(keras.optimizers.SGD(1.0))
    weights = Record(lambda model: arrays(model.trainable_variables))
    start = arrays(model.trainable_variables)
    schedule = callbacks.ScheduleScalar(layer.weight, {0: 1.0, 1: 0.0, 2: 0.25}, by)
    model.fit(X, batch_size=len(X), epochs=3, verbose=0, callbacks=[schedule, weights])
    gradient = [X.mean(0)[:, None], np.ones(1)]
    for (before, after), coefficient in zip(
        pairwise([start, *weights.seen]), (1.0, 0.0, 0.25), strict=True
    ):
        for b, a, g in zip(before, after, gradient, strict=True):
            np.testing.assert_allclose(b - a, coefficient * g, 1e-4, 1e-6)


def test_a_schedule_by_batch_may_be_any_function():
    layer = layers.LossLayer(lambda h: ops.sum(h) * 0 + 1)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layer(keras.layers.Dense(1)(inputs)))
    model.compile("sgd")
    seen = Record(lambda model: float(ops.convert_to_numpy(layer.weight.value)))
    schedule = optimizers.PiecewiseLinear({0: 0.0, 4: 1.0})
    given = [callbacks.ScheduleScalar(layer.weight, schedule, by="batch"), seen]
    model.fit(X, batch_size=4, epochs=2, verbose=0, callbacks=given)
    assert seen.seen == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="by='step' must be one of epoch, batch"):
        callbacks.ScheduleScalar(layer.weight, schedule, by="step")


@pytest.mark.parametrize("given", [{"epochs": 1.5}, {"steps": 6}])
def test_warm_up_rises_by_batch_and_then_lets_go(given):
    seen = Record(rate)
    halve = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate / 2 if epoch == 2 else rate
    )
    model = network()
    fit(model, halve, callbacks.Warmup(**given), seen)
    np.testing.assert_allclose(
        seen.seen, 0.1 * np.array([1, 2, 3, 4, 5, 6, 6, 6, 3, 3, 3, 3]) / 6, 1e-5
    )


def test_the_rate_in_force_is_that_of_the_batch():
    """Not only is the number right, but also the step of the weights."""
    weights = Record(lambda model: arrays(model.weights)[0].copy())
    model = network()
    start = arrays(model.weights)[0]
    fit(model, callbacks.PiecewiseLinearRate({1: 0, 2: 0, 3: 1}), weights, epochs=1)
    moved = [np.abs(b - a).max() for a, b in pairwise([start, *weights.seen])]
    assert moved[0] == moved[1] == 0 and moved[2] > 1e-3


def test_an_optimizer_with_a_schedule_and_bad_settings_are_refused():
    schedule = optimizers.PiecewiseLinear({0: 0.1})
    with pytest.raises(ValueError, match="schedule of its own"):
        fit(network(keras.optimizers.SGD(schedule)), callbacks.Warmup(steps=3))
    with pytest.raises(ValueError, match="give one of them, above 0"):
        callbacks.Warmup()
    with pytest.raises(ValueError, match="momentum=1 must be"):
        callbacks.ExponentialMovingAverage(1)


class Writer:
    """Keeps all that is written."""

    def __init__(self, log_dir=None):
        self.scalars, self.histograms = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars[tag, step] = value

    def add_histogram(self, tag, values, step):
        self.histograms[tag, step] = values


def gradients_by_hand(model):
    kernel, bias = arrays(model.trainable_variables)
    error = 2 * (X @ kernel + bias - Y) / len(X)
    return [X.T @ error, error.sum(0)]


def test_norms_are_those_of_weights_and_gradients():
    model, writer = network(), Writer()
    path = model.weights[0].path.removesuffix("/kernel")
    norms = callbacks.Norms((X, Y), every=2, writer=writer)
    fit(model, norms, epochs=4)
    expected = dict(zip(("kernel", "bias"), gradients_by_hand(model), strict=True))
    assert norms.history["epoch"] == [1, 3]
    for name, array in expected.items():
        np.testing.assert_allclose(
            writer.histograms[f"gradient/{path}/{name}", 3], array.ravel(), 1e-3, 1e-5
        )
        length = pytest.approx(np.linalg.norm(array), 1e-3)
        assert norms.history[f"gradient/{path}/{name}"][-1] == length
        assert writer.scalars[f"gradient_norm/{path}/{name}", 3] == length
    kernel = arrays(model.trainable_variables)[0]
    np.testing.assert_array_equal(writer.histograms[f"weight/{path}/kernel", 3], kernel.ravel())
    assert norms.history[f"weight/{path}/kernel"][-1] == pytest.approx(np.linalg.norm(kernel))


def test_the_gradients_of_a_batch_are_those_of_every_weight():
    model = network()
    gradients = training.gradients_of(model, X, Y)
    for ours, hand in zip(gradients, gradients_by_hand(model), strict=True):
        np.testing.assert_allclose(ours, hand, 1e-4, 1e-5)


def events_of(folder):
    """Read an event file by tag and step: numbers, or upper limits and counts of histograms."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        parse = tf.compat.v1.Event.FromString
    else:
        parse = pytest.importorskip("tensorboardX.proto.event_pb2").Event.FromString
    (path,) = folder.iterdir()
    content, position, events = path.read_bytes(), 0, {}
    while position < len(content):  # each event: length, its checksum, the event, its checksum
        (length,) = struct.unpack_from("<Q", content, position)
        event = parse(content[position + 12 : position + 12 + length])
        position += length + 16
        for value in event.summary.value:
            events[value.tag, event.step] = number_or_histogram(value)
    return events


def number_or_histogram(value):
    if value.HasField("tensor"):
        import tensorflow as tf

        array = tf.make_ndarray(value.tensor)
        assert value.metadata.plugin_data.plugin_name == ("histograms" if array.ndim else "scalars")
        return array.T[1:] if array.ndim else float(array)
    return (value.histo.bucket_limit, value.histo.bucket) if value.histo.num else value.simple_value


def test_tensorboard_files_have_norms_and_histograms_of_weights_and_gradients(tmp_path):
    if keras.config.backend() != "tensorflow":
        pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    model = network()
    path = model.weights[0].path.removesuffix("/kernel")
    norms = callbacks.Norms((X, Y), log_dir=tmp_path / "logs")
    fit(model, norms, epochs=2)
    events = events_of(tmp_path / "logs")
    assert len(events) == 2 * 2 * 4
    for kind in ("weight", "gradient"):
        for name in ("kernel", "bias"):
            for step in (0, 1):
                expected = norms.history[f"{kind}/{path}/{name}"][step]
                assert events[f"{kind}_norm/{path}/{name}", step] == pytest.approx(expected, 1e-6)
    for kind, kernel in (
        ("weight", arrays(model.weights)[0]),
        ("gradient", gradients_by_hand(model)[0]),
    ):
        limits, counts = events[f"{kind}/{path}/kernel", 1]
        assert sum(counts) == kernel.size
        below = np.cumsum(counts)
        for limit, count in zip(limits, below, strict=True):
            close = 1e-3 * abs(limit) + 1e-6
            assert (kernel < limit - close).sum() <= count <= (kernel <= limit + close).sum()


def test_what_is_not_finite_is_in_no_histogram():
    model, writer = network(), Writer()
    x = X.copy()
    x[0, 0] = np.inf
    norms = callbacks.Norms((x, Y), writer=writer)
    fit(model, norms, epochs=1)
    gradients = [key for key in norms.history if key.startswith("gradient")]
    assert not any(np.isfinite(norms.history[key]).any() for key in gradients)
    assert all(tag.startswith("weight/") for tag, _ in writer.histograms)


def test_without_a_package_for_event_files_the_error_names_one(monkeypatch):
    for name in ("tensorflow", "tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        callbacks.Norms(log_dir="logs")
    with pytest.raises(ValueError, match="log_dir and writer: give one of them"):
        callbacks.Norms(log_dir="logs", writer=Writer())


def test_samples_and_progress_are_printed():
    lines = []
    console = pytest.importorskip("rich.console", reason="rich is not installed").Console(
        file=io.StringIO(), width=120
    )
    printer = callbacks.PrintSamples(lambda model: ["a", model.name], 2, lines.append)
    model = network()
    fit(model, printer, callbacks.RichProgress(console))
    assert lines == ["a", model.name]
    assert "12/12" in console.file.getvalue() and "loss" in console.file.getvalue()


def test_averages_are_those_of_all_weights_after_every_step():
    model = network(normalised=True)
    every = Record(lambda model: arrays(model.weights))
    ema = callbacks.ExponentialMovingAverage(0.5)
    ema.apply(), ema.reset()  # before there is a model
    expected = arrays(model.weights)
    ema.set_model(model)
    ema.apply(), ema.reset()
    fit(model, ema, every, epochs=1)
    for weights in every.seen:
        expected = [(a + b) / 2 for a, b in zip(expected, weights, strict=True)]
    trained = arrays(model.weights)
    ema.apply(), ema.apply()
    for a, b, c in zip(arrays(model.weights), expected, trained, strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)
        assert np.abs(a - c).max() > 1e-5
    fit(model, ema, every, epochs=1)  # goes on from the trained weights
    again = network(normalised=True)
    fit(again, epochs=2)
    for a, b in zip(arrays(model.weights), arrays(again.weights), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6)
    ema.reset(), ema.reset()
    with ema.applied():
        assert np.abs(arrays(model.weights)[0] - arrays(again.weights)[0]).max() > 1e-6
    np.testing.assert_array_equal(*arrays([model.weights[0], again.weights[0]]))


def test_validation_can_see_the_averages():
    model, ema = network(), callbacks.ExponentialMovingAverage(0.5, validate=True)
    history = fit(model, ema, epochs=1, validation_data=(X, Y)).history
    trained = model.evaluate(X, Y, verbose=0)
    with ema.applied():
        averaged = model.evaluate(X, Y, verbose=0)
    assert history["val_loss"] == [pytest.approx(averaged, 1e-5)]
    assert abs(trained - averaged) > 1e-4


def test_outputs_of_inner_layers_by_name():
    class Sub(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3, name="inner")

        def call(self, x):
            return ops.tanh(self.inner(x))

    shared = keras.layers.Dense(4, name="shared")
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(1, name="out")(Sub()(shared(shared(x)))))
    seen = training.intermediate_outputs(model, X, ["inner", "shared", "out"])
    once = arrays([shared(X)])[0]
    np.testing.assert_allclose(seen["shared"][0], once, 1e-5)
    np.testing.assert_allclose(seen["shared"][1], arrays([shared(once)])[0], 1e-5)
    np.testing.assert_allclose(seen["out"], model.predict(X, verbose=0), 1e-5, 1e-6)
    kernel, bias = arrays(model.get_layer("out").weights)
    np.testing.assert_allclose(np.tanh(seen["inner"]) @ kernel + bias, seen["out"], 1e-4, 1e-5)
    assert "call" not in shared.__dict__
    shared.__dict__["call"] = patched = lambda x: 2 * x
    training.intermediate_outputs(model, X, ["shared", "inner"])
    assert shared.__dict__.pop("call") is patched
    for wrong in (None, 3, [shared]):
        with pytest.raises(ValueError, match=r"names=.* must be a name or a list of names"):
            training.intermediate_outputs(model, X, wrong)
    with pytest.raises(ValueError, match=r"'nothing' is no layer of the model: .*shared"):
        training.intermediate_outputs(model, X, "nothing")
