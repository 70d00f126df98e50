"""Stochastic weight averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras

from fastkeras.training.arguments import integer, optional_integer
from fastkeras.training.model_state import copied, fits, restored, synced
from fastkeras.training.statistics import layers_of, reestimate_batch_normalization

if TYPE_CHECKING:
    from typing import Any


class StochasticWeightAveraging(keras.callbacks.Callback):
    """Give the model, when `fit` ends, the mean of its weights at the ends of the last epochs.

    Every epoch counts the same, in contrast to `ExponentialMovingAverage`. Train with a constant or
    cyclic rate that is not small, from `start` on, so that the epochs end in different places.

    Only trainable weights are averaged. Statistics of BatchNormalization belong to the weights
    under which they were taken, so they are computed anew for the mean, by one pass over `data`
    (`fastkeras.training.reestimate_batch_normalization`); without `data` they stay those of the
    last epoch. Early stopping and checkpoints see the trained weights, not the mean.

    Not for use with `EarlyStopping(restore_best_weights=True)`: when `fit` ends, both give weights
    to the model, in the order of the callbacks, and those of the last one stay.

    Args:
        start: the first epoch whose end counts, from 0.
        every: how many epochs are between two that count.
        data: inputs for the pass, as `reestimate_batch_normalization` takes them.
        batch_size, steps: of that pass.

    Attributes:
        epochs: how many ends were averaged, in the last `fit`.

    Raises:
        ValueError: a number is out of range; or, when `fit` begins, there are `data` and the model
            has no BatchNormalization.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.callbacks import StochasticWeightAveraging
        >>> layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        >>> model = keras.Sequential([keras.Input((2,)), *layers])
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((4, 2)), np.ones(4)
        >>> swa = StochasticWeightAveraging(start=1, data=x)
        >>> history = model.fit(x, y, epochs=3, callbacks=[swa], verbose=0)
        >>> swa.epochs
        2

    Source: Izmailov et al., 2018, "Averaging weights leads to wider optima and better
        generalization", arXiv 1803.05407.
    """

    def __init__(
        self,
        start: int,
        every: int = 1,
        data: Any = None,
        batch_size: int = 32,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.start, self.every = integer("start", start, 0), integer("every", every, 1)
        self.data, self.batch_size = data, integer("batch_size", batch_size, 1)
        self.steps, self.epochs = optional_integer("steps", steps, 1), 0
        self._means: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.epochs, self._means = 0, None
        if self.data is not None and self.model.built:
            layers_of(self.model)  # an error now, not after the last epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if epoch < self.start or (epoch - self.start) % self.every:
            return
        weights = synced(self.model).trainable_variables
        values = [value.astype("float64") for value in copied(weights)]
        if self._means is None or not fits(weights, self._means):
            self.epochs, self._means = 0, values
        self.epochs += 1
        for mean, value in zip(self._means, values, strict=True):
            mean += (value - mean) / self.epochs

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._means is None:
            return
        model = synced(self.model)
        restored(model.trainable_variables, self._means)
        self._means = None
        if self.data is not None:
            reestimate_batch_normalization(model, self.data, self.batch_size, self.steps)
