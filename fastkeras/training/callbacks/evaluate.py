"""Compute any Python metric after each epoch, and keep the best weights by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from fastkeras.training.arguments import flag, function, integer, one_of
from fastkeras.training.model_state import copied, fits, release, restored, scoring, synced

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


class Evaluate(keras.callbacks.Callback):
    """Compute any metric after each epoch; keep the best weights and restore them in the end.

    The result is in the logs, so that the history, the progress bar and callbacks after this one
    (EarlyStopping, ReduceLROnPlateau) see it. For a metric of Keras, its own ModelCheckpoint and
    EarlyStopping do the same.

    The weights kept are those that were scored, so if `fn` scores the averages of an
    `ExponentialMovingAverage` (by `applied` or `apply`), the averages. Callbacks after this one,
    such as ModelCheckpoint, then find the averages in the model; it still trains on from the
    trained weights.

    The best is kept over all fits of one model; with another model it starts anew.

    Args:
        fn: function of the model (and of `data`, if given) that returns a number, or a dict of
            numbers.
        data: anything, passed on to `fn`.
        monitor: name of the number in the logs; if `fn` returns several, the one that decides.
        mode: "max" or "min".
        keep_best: whether to give the model its best weights when training ends. After an interrupt
            (Ctrl-C) Keras does not tell callbacks: call `restore_best`.
        every: evaluate once in so many epochs.

    Attributes:
        best: the best value so far, over all fits, or None.
        best_epoch: its epoch.

    Raises:
        ValueError: `fn`, `mode` or `every` is out of range, or `fn` does not return a number, or no
            `monitor` among its numbers.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> evaluate = Evaluate(lambda model: float(model.count_params()), monitor="size")
        >>> model.fit(np.ones((4, 2)), np.ones(4), callbacks=[evaluate], verbose=0).history["size"]
        [3.0]

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    def __init__(
        self,
        fn: Callable[..., float | dict[str, float]],
        data: Any = None,
        monitor: str = "score",
        mode: str = "max",
        keep_best: bool = True,
        every: int = 1,
    ) -> None:
        super().__init__()
        one_of("mode", mode, ("max", "min"))
        flag("keep_best", keep_best)
        self.fn, self.every = function("fn", fn), integer("every", every, 1)
        self.data, self.monitor, self.mode, self.keep_best = data, monitor, mode, keep_best
        self.best: Any = None
        self.best_epoch: Any = None
        self._weights: Any = None

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; start anew if it is another one."""
        if model is not self._model:
            self.best = self.best_epoch = self._weights = None
        super().set_model(model)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        model = synced(self.model)
        with scoring(model) as noticed:
            result = self.fn(model) if self.data is None else self.fn(model, self.data)
        result, averages = self._checked(result), noticed.averages
        if averages is not None and averages.params is self.params:  # they belong to the same fit
            averages.apply()
        if logs is not None:
            logs.update(result)
        value, sign = result[self.monitor], 1 if self.mode == "max" else -1
        if value == value and (self.best is None or sign * value > sign * self.best):
            self.best, self.best_epoch = value, epoch
            if self.keep_best:
                scored = None if averages is None else averages.values()
                self._weights = scored or copied(synced(model).weights)

    def _checked(self, result):
        result = dict(result) if isinstance(result, dict) else {self.monitor: result}
        if self.monitor not in result:
            raise ValueError(f"monitor={self.monitor!r} must be one of {sorted(result)}")
        for name, value in result.items():
            try:
                result[name] = float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"fn must return a number, or a dict of numbers; got {value!r} for {name!r}"
                ) from None
        return result

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.keep_best and self._weights is not None:
            self.restore_best()
            release(self.model)

    def restore_best(self) -> None:
        """Give the model the best weights so far; do nothing before the first evaluation.

        Raises:
            ValueError: the model has been given other weights since.
        """
        if self._weights is None:
            return
        model = synced(self.model)
        if not fits(model.weights, self._weights):
            raise ValueError(
                f"model: {model.name!r} has other weights than those that were evaluated; use a "
                "new Evaluate for it"
            )
        restored(model.weights, self._weights)


class PrintSamples(keras.callbacks.Callback):
    """Print samples of what the model produces, every few epochs: titles, translations, ….

    Args:
        fn: function of the model that returns a text, or a list of them.
        every: print once in so many epochs.
        print: function that prints a line.

    Raises:
        ValueError: `fn` or `print` is not a function, `every` is below 1, or `fn` does not return
            texts.

    Example:
        >>> callback = PrintSamples(lambda model: "a line", every=5)
    """

    def __init__(
        self,
        fn: Callable[[keras.Model], str | Sequence[str]],
        every: int = 1,
        print: Callable[[str], Any] = print,
    ) -> None:
        super().__init__()
        self.fn, self.print = function("fn", fn), function("print", print)
        self.every = integer("every", every, 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every == 0:
            samples = self.fn(synced(self.model))
            if not isinstance(samples, (str, list, tuple)):
                raise ValueError(f"fn must return a text, or a list of them; got {samples!r}")
            for line in [samples] if isinstance(samples, str) else samples:
                self.print(line)
