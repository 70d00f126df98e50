"""Exponential moving averages of all weights."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import keras

from fastkeras.training.arguments import flag, number
from fastkeras.training.callbacks.batches import BatchCount, batches_seen_by, inner_optimizer
from fastkeras.training.model_state import (
    HOLDING,
    copied,
    fingerprint,
    fits,
    has_changed,
    notice,
    restored,
    synced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray


class ExponentialMovingAverage(keras.callbacks.Callback):
    """Average all weights of a model over its steps, including BatchNormalization's statistics.

    It does not change how the model trains. `apply` and `reset` are safe at any time and in any
    order: before the first step, twice, while training (a step always starts from the trained
    weights). Without `validate`, validation in `fit` and other callbacks see the trained weights.
    Weights other than floats are not averaged; averages of float16 and bfloat16 are kept in
    float32.

    A step is one update of the weights. So with `gradient_accumulation_steps=n` the average moves
    only once in n batches; and with `steps_per_execution=n`, where callbacks see the weights only
    once in n updates, it then moves by 1 − momentumⁿ of the way.

    The average starts at the weights with which training begins, and goes on from fit to fit. It
    starts anew with another model, and if the weights were replaced between two fits. A model that
    has the averages at that time keeps them.

    Keras' optimizers have `use_ema` and `SwapEMAWeights`, which average only trainable weights; the
    fastkeras optimizers add a bias correction.

    Args:
        momentum: the average moves by 1 − momentum of the way at each step; from 0 to below 1.
        validate: whether validation in `fit` sees the averages. The model then has them until the
            next epoch begins, so that ModelCheckpoint, EarlyStopping and `Evaluate` save what was
            scored, wherever they are in the list; BackupAndRestore saves them too. In the list of
            callbacks, an EarlyStopping with `restore_best_weights` must come after this one.
        apply_at_end: whether the model has the averages when `fit` ends. If an exception or Ctrl-C
            ends it, Keras does not tell callbacks: call `reset` for the trained weights.

    Raises:
        ValueError: `momentum` is out of range; `apply` raises it if the model has been given other
            weights in the meantime.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> ema = ExponentialMovingAverage(0.9)
        >>> history = model.fit(np.ones((4, 2)), np.ones(4), callbacks=[ema], verbose=0)
        >>> with ema.applied():
        ...     predictions = model.predict(np.ones((4, 2)), verbose=0)

    Source: Su Jianlin, 2019, https://kexue.fm/archives/6575.
    """

    def __init__(
        self, momentum: float = 0.999, validate: bool = False, apply_at_end: bool = False
    ) -> None:
        super().__init__()
        self.momentum = number("momentum", momentum, "from 0 to below 1", lambda m: 0 <= m < 1)
        self.validate = flag("validate", validate)
        self.apply_at_end = flag("apply_at_end", apply_at_end)
        self._forget()

    def _forget(self):
        self._averages = self._trained = None
        self._given = self._ended = None  # fingerprints: of the averages, of the last fit's weights
        self._training = False
        self._count, self._seen, self._is_used = BatchCount(), None, False

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; start anew if it is another one."""
        if model is not self._model:
            self._forget()
        super().set_model(model)

    def set_params(self, params: dict[str, Any]) -> None:
        """Take the parameters of the `fit` or `evaluate` that begins."""
        super().set_params(params)
        self._training = False

    def values(self) -> list[NDArray[Any]] | None:
        """Copies of the averages, in the order of `model.weights`; None before there are any."""
        return self._averages and [average.copy() for average in self._averages]

    def apply(self) -> None:
        """Give the model the averages; do nothing if it has them, or if there are none yet."""
        if self._averages is None:
            return
        model = synced(self.model)
        if self._trained is None:
            if not fits(model.weights, self._averages):
                raise ValueError(
                    f"model: {model.name!r} has other weights than those that were averaged; "
                    "train it with this callback first"
                )
            self._trained = copied(model.weights)
            restored(model.weights, self._averages)
            self._given = fingerprint(model)
            HOLDING.add(self)
        notice(model, self)

    def reset(self) -> None:
        """Give the model back the trained weights; do nothing if it has them."""
        if self._trained is not None:
            restored(synced(self.model).weights, self._trained)
            self._trained = None

    def release(self) -> None:
        """Let the model keep the weights that it has now; `reset` then does nothing."""
        self._trained = None

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averages inside the block, and afterwards what it had before."""
        had = self._trained is not None
        self.apply()
        try:
            yield self.model
        finally:
            if not had:
                self.reset()

    def _reset_unless_replaced(self):
        """Reset, unless the averages in the model were replaced; return whether they were."""
        replaced = self._trained is not None and has_changed(synced(self.model), self._given)
        if replaced:
            self.release()
        self.reset()
        return replaced

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._reset_unless_replaced()
        model = synced(self.model)
        replaced = self._ended is not None and has_changed(model, self._ended)
        if self._averages is None or replaced or not fits(model.weights, self._averages):
            self._averages = [_wide(array) for array in copied(model.weights)]
        self._training, self._ended = True, None
        self._seen, self._is_used = batches_seen_by(model), False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.reset()

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.reset()
        self._count.begin(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        model = synced(self.model)
        updates = self._updates(model, self._count.end(batch, self.params))
        if not updates:
            return
        share = 1 - self.momentum**updates
        for average, value in zip(self._averages, copied(model.weights), strict=True):
            if keras.backend.is_float_dtype(str(average.dtype)):
                average += share * (value.astype(average.dtype) - average)
            else:
                average[...] = value

    def _updates(self, model, batches):
        """How many updates so many batches made: by the optimizer's count, if it is in use."""
        before, now = self._seen, batches_seen_by(model)
        self._seen = now
        self._is_used = self._is_used or now != before
        if now is None or not self._is_used:
            return batches  # the model has a `train_step` of its own
        every = inner_optimizer(model).gradient_accumulation_steps or 1
        return max(now // every - (before or 0) // every, 0)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self.validate:
            self.apply()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._training and self.validate:
            self.apply()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._training = False
        replaced = self._reset_unless_replaced()
        self._ended = fingerprint(synced(self.model))
        if self.apply_at_end and not replaced:
            self.apply()


def _wide(array):
    """An array wide enough to average: bfloat16 would lose a change of a thousandth."""
    is_narrow = str(array.dtype) in ("float16", "bfloat16")
    return array.astype("float32") if is_narrow else array
