"""Numbers that change while training: coefficients, and the learning rate batch by batch."""

from __future__ import annotations

import numbers
from itertools import pairwise
from typing import TYPE_CHECKING

import keras
from keras import backend, ops

from fastkeras._arrays import as_numpy
from fastkeras.training.arguments import one_of, optional_integer
from fastkeras.training.callbacks.batches import BatchCount, inner_optimizer
from fastkeras.training.model_state import retraced, synced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class ScheduleScalar(keras.callbacks.Callback):
    """Set a variable before each epoch, or each batch: the coefficient of a loss, a temperature.

    The value is in the logs of each epoch, under the variable's name. On JAX, if the variable is
    not one of the model's (but of a loss, as in `SmoothedCrossentropy`), the training step is
    compiled again whenever it changes: change it rarely there, or make it a variable of a layer.

    With `steps_per_execution=n` a value can be set only once in n batches: that of the first of
    them holds for all.

    Args:
        variable: a `keras.Variable`, or anything with `assign`.
        schedule: function of the epoch (or the batch) from 0; or a dict, whose values hold from
            their key on: {0: 0.1, 100: 0.01}. Schedules of the learning rate, such as
            `fastkeras.optimizers.PiecewiseLinear`, are functions too.
        by: "epoch" or "batch"; batches are counted over all fits of one model.
        name: name in the logs.

    Raises:
        ValueError: `variable` has no `assign`, `schedule` is neither a function nor a dict of
            numbers with a value for 0, or `by` is neither "epoch" nor "batch".

    Example:
        >>> from fastkeras.losses import SmoothedCrossentropy
        >>> loss = SmoothedCrossentropy(0.1)
        >>> callback = ScheduleScalar(loss.smoothing, {0: 0.1, 100: 0.01})

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    def __init__(
        self,
        variable: Any,
        schedule: Callable[[int], Any] | Mapping[int, float],
        by: str = "epoch",
        name: str | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(variable, "assign"):
            raise ValueError(f"variable={variable!r} must be a keras.Variable, or have `assign`")
        one_of("by", by, ("epoch", "batch"))
        if isinstance(schedule, dict):
            _checked("schedule", schedule)
            if min(schedule, default=1) > 0:
                raise ValueError(f"schedule must have a value for 0, got {schedule}")
        elif not callable(schedule):
            raise ValueError(f"schedule={schedule!r} must be a function or a dict")
        self.variable, self.schedule, self.by = variable, schedule, by
        self.name = getattr(variable, "name", "scheduled") if name is None else name
        self._count = BatchCount()
        self._value: float | None = None

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; count batches from 0 if it is another one."""
        if model is not self._model:
            self._count = BatchCount()
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._value = None  # others may have changed the variable since

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.by == "epoch":
            self._set(epoch)
        else:
            self._count.begin_epoch(synced(self.model), self.params)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.by == "batch":
            self._count.begin(batch)
            self._set(self._count.done)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.end(batch, self.params)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.end_epoch(self.model)
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
    """Multiply the learning rate by a factor that is piecewise linear in the number of the batch.

    Factor 1 stands for the rate with which training begins. After the last point the callback
    leaves the rate alone, so that other callbacks can change it. (If the whole course is known when
    compiling, `fastkeras.optimizers.PiecewiseLinear` in the optimizer is better: it is saved with
    the optimizer, and changes at each batch even with `steps_per_execution`, whereas this callback
    sets the rate once for each execution, to that of its first batch.)

    Args:
        points: dict of batch and factor, {0: 0, 1000: 1, 9000: 0.1}. Batches count from 1, over all
            fits of one model with one optimizer: at batch 1000 the factor is 1. Before the first
            point it is that of the first. With an optimizer of fastkeras whose `schedule_by` is
            "updates", it is updates that count, each of `gradient_accumulation_steps` batches.

    Raises:
        ValueError: `points` is not a dict of numbers, or is empty; the optimizer has a schedule,
            whose rate cannot be set.

    Example:
        >>> callback = PiecewiseLinearRate({0: 0, 1000: 1, 9000: 0.1})

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    _batches = 1  # for each that counts

    def __init__(self, points: Mapping[int, float]) -> None:
        super().__init__()
        if not isinstance(points, dict) or not points:
            raise ValueError(f"points={points!r} must be a dict of batch and factor, not empty")
        self.points = sorted(_checked("points", points).items())
        self._forget()

    def _forget(self):
        self._count, self._rate, self._optimizer = BatchCount(), None, None

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; start anew if it is another one."""
        if model is not self._model:
            self._forget()
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        optimizer = inner_optimizer(synced(self.model))
        by_updates = getattr(optimizer, "schedule_by", "calls") == "updates"
        self._batches = (optimizer.gradient_accumulation_steps or 1) if by_updates else 1
        self._prepare()
        if self._optimizer is not optimizer:  # compiled anew, maybe with another rate
            self._forget()
        if self._rate is None:
            schedule = keras.optimizers.schedules.LearningRateSchedule
            if isinstance(optimizer._learning_rate, schedule):
                raise ValueError("the optimizer has a schedule of its own: its rate cannot be set")
            self._rate, self._optimizer = _float(optimizer.learning_rate), optimizer

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.begin_epoch(synced(self.model), self.params)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.begin(batch)
        number = self._number(self._count.done)
        if number <= self._last:
            self._set(self.factor(number))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before = self._number(self._count.done)
        self._count.end(batch, self.params)
        if before < self._last < self._number(self._count.done):  # it was inside an execution
            self._set(self.points[-1][1])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.end_epoch(synced(self.model))

    def _number(self, done):
        """The number, from 1, of what the batch after so many belongs to: itself, or an update."""
        return done // self._batches + 1

    @property
    def _last(self):
        return max(self.points[-1][0], 1)

    def _set(self, factor):
        synced(self.model).optimizer.learning_rate = self._rate * factor

    def factor(self, batch: float) -> float:
        """The factor at a batch."""
        points = self.points
        if batch <= points[0][0]:
            return points[0][1]
        for (begin, low), (end, high) in pairwise(points):
            if batch <= end:
                return low + (high - low) * (batch - begin) / (end - begin)
        return points[-1][1]

    def _prepare(self):
        """A hook for subclasses whose points depend on the training."""


class Warmup(PiecewiseLinearRate):
    """Let the learning rate rise from 0 to its value over the first epochs, batch by batch.

    The first of n batches has 1/n of the rate, not 0. Works with any optimizer and with callbacks
    that change the rate later. A model that is compiled anew, or another model, is warmed up anew.

    Args:
        epochs: how many; may be a fraction.
        steps: how many batches instead, or updates if the optimizer's `schedule_by` is "updates";
            needed if the number of batches is not known.

    Raises:
        ValueError: not exactly one of them is given, or it is not a number above 0.

    Example:
        >>> callback = Warmup(epochs=2)
    """

    def __init__(self, epochs: float | None = None, steps: int | None = None) -> None:
        given: Any = steps if epochs is None else epochs
        if (epochs is None) == (steps is None) or not _is_number(given) or not given > 0:
            raise ValueError(f"epochs={epochs!r} or steps={steps!r}: give one of them, above 0")
        optional_integer("steps", steps, 1)
        super().__init__({0: 0.0, steps or 1: 1.0})
        self._epochs = epochs

    def _prepare(self):
        if self._epochs is None:
            return
        steps = self.params.get("steps")
        if not steps:
            raise ValueError("epochs: the number of batches is not known, give steps")
        self.points = [(0, 0.0), (max(1, round(self._epochs * steps / self._batches)), 1.0)]


def _checked(name, points):
    for key, value in points.items():
        if not _is_number(key) or not _is_number(value):
            raise ValueError(f"{name} must be a dict of numbers, got {key!r}: {value!r}")
    return points


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _float(value):
    return float(as_numpy(ops.convert_to_tensor(value)))
