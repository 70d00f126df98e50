"""Callbacks attach to one model, count batches, and save what was scored."""

import copy
import io
import os
import pickle

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import callbacks, layers, losses

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(3)
X = RNG.standard_normal((20, 4)).astype("float32")
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


# one model at a time


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


# two fits in a row


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


# batches, not executions


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


# one update of several batches


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


# what was scored is what is saved


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


# copies


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


# messages


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.ExponentialMovingAverage("0.9"), r"momentum='0.9' must be from 0 to"),
        (lambda: callbacks.ExponentialMovingAverage(float("nan")), r"momentum=nan must be from 0"),
        (lambda: callbacks.ExponentialMovingAverage(True), r"momentum=True must be from 0 to"),
        (lambda: callbacks.Evaluate(None), r"fn=None must be a function"),
        (lambda: callbacks.Evaluate(len, every=0), r"every=0 must be an integer of at least 1"),
        (lambda: callbacks.Evaluate(len, every=1.5), r"every=1.5 must be an integer"),
        (lambda: callbacks.Evaluate(len, mode="auto"), r'mode=\'auto\' must be "max" or "min"'),
        (lambda: callbacks.PrintSamples("fn"), r"fn='fn' must be a function"),
        (lambda: callbacks.Norms(every=None), r"every=None must be an integer"),
        (lambda: callbacks.Norms(X), r"data must be \(x, y\) or .* got ndarray"),
        (lambda: callbacks.SampleSheet("a.png", X, every="2"), r"every='2' must be an integer"),
        (lambda: callbacks.Warmup(epochs="2"), r"epochs='2' or steps=None: give one of them"),
        (lambda: callbacks.Warmup(steps=0), r"epochs=None or steps=0: give one of them, above 0"),
        (lambda: callbacks.PiecewiseLinearRate([1, 2]), r"points=\[1, 2\] must be a dict"),
        (lambda: callbacks.PiecewiseLinearRate({}), r"points=\{\} must be a dict .*not empty"),
        (lambda: callbacks.PiecewiseLinearRate({"a": 1}), r"points must be a dict of numbers"),
        (lambda: callbacks.ScheduleScalar(0.1, {0: 1}), r"variable=0.1 must be a keras.Variable"),
        (lambda: smoothing({1: 0.1}), r"schedule must have a value for 0"),
        (lambda: smoothing({}), r"schedule must have a value for 0"),
        (lambda: smoothing({0: None}), r"schedule must be a dict of numbers, got 0: None"),
        (lambda: smoothing(0.1), r"schedule=0.1 must be a function or a dict"),
    ],
)
def test_arguments_of_callbacks_are_named_with_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_told_before_training(tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    tmp_path.chmod(0o500)
    sheet = callbacks.SampleSheet(tmp_path / "a.png", X, generator=network())
    with pytest.raises(PermissionError):
        fit(network(), sheet)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("taken", "path: it is a folder"),
        ("file/a.png", "file"),
        ("{epoch}{loss}.png", "may have .{epoch}. in it, and no other braces"),
        ("{", "may have .{epoch}. in it, and no other braces"),
    ],
)
def test_a_path_of_no_picture_is_told_before_training(path, message, tmp_path):
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    model = network()
    before = arrays(model.weights)
    with pytest.raises((OSError, ValueError), match=message):
        fit(model, callbacks.SampleSheet(tmp_path / path, X, generator=network()))
    same(arrays(model.weights), before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "taken"]


def test_a_sheet_needs_a_generator():
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    with pytest.raises(ValueError, match="generator: the model has none"):
        fit(network(), callbacks.SampleSheet("a.png", X))


def smoothing(schedule):
    return callbacks.ScheduleScalar(losses.SmoothedCrossentropy(0.1).smoothing, schedule)


def test_what_a_metric_returns_is_named_if_it_is_no_number():
    with pytest.raises(ValueError, match=r"fn must return a number, .* got None for 'score'"):
        fit(network(), callbacks.Evaluate(lambda model: None))
    with pytest.raises(ValueError, match="fn must return a text, or a list of them; got None"):
        fit(network(), callbacks.PrintSamples(lambda model: None))
