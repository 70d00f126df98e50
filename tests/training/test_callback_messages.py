"""Bad arguments of callbacks are named with what is allowed."""

import os

import pytest

from callback_fits import X, arrays, fit, network, same
from fastkeras import callbacks, losses

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.ExponentialMovingAverage("0.9"), r"momentum='0.9' must be from 0 to"),
        (lambda: callbacks.ExponentialMovingAverage(float("nan")), r"momentum=nan must be from 0"),
        (lambda: callbacks.ExponentialMovingAverage(True), r"momentum=True must be from 0 to"),
        (lambda: callbacks.Evaluate(None), r"fn=None must be a function"),
        (lambda: callbacks.Evaluate(len, every=0), r"every=0 must be an integer of at least 1"),
        (lambda: callbacks.Evaluate(len, every=1.5), r"every=1.5 must be an integer"),
        (lambda: callbacks.Evaluate(len, mode="auto"), "mode='auto' must be one of max, min"),
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
