"""Numbers that move while training: coefficients, and the learning rate by batch."""

from itertools import pairwise

import keras
from keras import backend, ops

from fastkeras.training.model_state import retraced, synced


class ScheduleScalar(keras.callbacks.Callback):
    """Set a variable before each epoch, or each batch: the coefficient of a loss, a temperature.

    The value is in the logs of each epoch, under the variable's name. On JAX a variable that is
    none of the model's own (that of a loss, as in `SmoothedCrossentropy`) makes the training step
    compile again whenever it changes: change it rarely there, or hold it in a layer.

    Args:
        variable: a `keras.Variable`, or anything with `assign`.
        schedule: function of the epoch (or the batch) from 0; or a dict, whose values hold from
            their key on: {0: 0.1, 100: 0.01}. Schedules of the learning rate, such as
            `fastkeras.optimizers.PiecewiseLinear`, are functions too.
        by: "epoch" or "batch"; batches are counted over all fits with this callback.
        name: name in the logs.

    Raises:
        ValueError: `by` is neither, or a dict has no value for 0.

    Example:
        >>> from fastkeras.losses import SmoothedCrossentropy
        >>> loss = SmoothedCrossentropy(0.1)
        >>> callback = ScheduleScalar(loss.smoothing, {0: 0.1, 100: 0.01})

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    def __init__(self, variable, schedule, by="epoch", name=None):
        super().__init__()
        if by not in ("epoch", "batch"):
            raise ValueError(f'by={by!r} must be "epoch" or "batch"')
        if isinstance(schedule, dict) and 0 not in schedule:
            raise ValueError(f"schedule must have a value for 0, got {schedule}")
        self.variable, self.schedule, self.by = variable, schedule, by
        self.name = name or getattr(variable, "name", "scheduled")
        self._batches, self._value = 0, None

    def on_epoch_begin(self, epoch, logs=None):
        if self.by == "epoch":
            self._set(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        if self.by == "batch":
            self._set(self._batches)
            self._batches += 1

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and self._value is not None:
            logs[self.name] = self._value

    def _set(self, step):
        if isinstance(self.schedule, dict):
            value = self.schedule[max(key for key in self.schedule if key <= step)]
        else:
            value = _float(self.schedule(step))
        if value == self._value:
            return
        self._value = value
        if backend.backend() == "jax":
            synced(self.model)
        self.variable.assign(value)
        own = (*self.model.variables, *self.model.optimizer.variables)
        if not any(self.variable is other for other in own):
            retraced(self.model)


class PiecewiseLinearRate(keras.callbacks.Callback):
    """Multiply the learning rate by a factor that runs in straight lines from batch to batch.

    The rate when training begins has factor 1. From the last point on the callback leaves the rate
    alone, so that other callbacks can have it. (Where the whole course is known when compiling,
    `fastkeras.optimizers.PiecewiseLinear` in the optimizer is better: it is saved with it.)

    Args:
        points: dict of batch and factor, {0: 0, 1000: 1, 9000: 0.1}. Batches count from 1, over all
            fits with this callback: at batch 1000 the factor is 1. Before the first point it is
            that of the first.

    Raises:
        ValueError: there is no point; the optimizer has a schedule, whose rate cannot be set.

    Example:
        >>> callback = PiecewiseLinearRate({0: 0, 1000: 1, 9000: 0.1})

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    def __init__(self, points):
        super().__init__()
        if not points:
            raise ValueError("points must be at least one")
        self.points = sorted(points.items())
        self._batches, self._rate = 0, None

    def on_train_begin(self, logs=None):
        self._prepare()
        if self._rate is None:
            optimizer = synced(self.model).optimizer
            if isinstance(
                optimizer._learning_rate, keras.optimizers.schedules.LearningRateSchedule
            ):
                raise ValueError("the optimizer has a schedule of its own: its rate cannot be set")
            self._rate = _float(optimizer.learning_rate)

    def on_train_batch_begin(self, batch, logs=None):
        self._batches += 1
        if self._batches <= max(self.points[-1][0], 1):
            synced(self.model).optimizer.learning_rate = self._rate * self.factor(self._batches)

    def factor(self, batch):
        """The factor at a batch."""
        points = self.points
        if batch <= points[0][0]:
            return points[0][1]
        for (begin, low), (end, high) in pairwise(points):
            if batch <= end:
                return low + (high - low) * (batch - begin) / (end - begin)
        return points[-1][1]

    def _prepare(self):
        """For subclasses that learn their points from the training."""


class Warmup(PiecewiseLinearRate):
    """Let the learning rate rise from 0 to its value over the first epochs, batch by batch.

    The first batch has 1/n of the rate, not 0. Works with any optimizer and with callbacks that
    change the rate later.

    Args:
        epochs: how many; may be a fraction.
        steps: how many batches instead; needed where the number of batches is not known.

    Raises:
        ValueError: not exactly one of them is given, or it is not above 0.

    Example:
        >>> callback = Warmup(epochs=2)
    """

    def __init__(self, epochs=None, steps=None):
        if (epochs is None) == (steps is None) or (epochs or steps) <= 0:
            raise ValueError(f"epochs={epochs} or steps={steps}: give one of them, above 0")
        super().__init__({0: 0.0, steps or 1: 1.0})
        self._epochs = epochs

    def _prepare(self):
        if self._epochs is None:
            return
        steps = self.params.get("steps")
        if not steps:
            raise ValueError("epochs: the number of batches is not known, give steps")
        self.points = [(0, 0.0), (max(1, round(self._epochs * steps)), 1.0)]


def _float(value):
    return float(ops.convert_to_numpy(ops.convert_to_tensor(value)))
