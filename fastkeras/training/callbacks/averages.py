"""Exponential moving averages of all weights."""

import contextlib

import keras
import numpy as np

from fastkeras.training.model_state import copied, restored, synced


class ExponentialMovingAverage(keras.callbacks.Callback):
    """Average all weights of a model over its steps, BatchNormalization's statistics among them.

    It does not change how the model trains. `apply` and `reset` are safe at any time and in any
    order: before the first step, twice, while training (a step always starts from the trained
    weights). Validation in `fit` and callbacks after this one see the trained weights, unless
    `validate`. Weights that are no floats are not averaged. The average starts at the weights as
    they are when training begins.

    Keras' optimizers have `use_ema` and `SwapEMAWeights`, which average what they train and nothing
    else; the fastkeras optimizers have a bias correction too.

    Args:
        momentum: the average moves by 1 − momentum of the way at each step; from 0 to below 1.
        validate: whether validation in `fit` sees the averages.
        apply_at_end: whether the model has the averages when `fit` ends.

    Raises:
        ValueError: `momentum` is out of range.

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

    def __init__(self, momentum=0.999, validate=False, apply_at_end=False):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum!r} must be from 0 to below 1")
        self.momentum, self.validate, self.apply_at_end = momentum, validate, apply_at_end
        self._averages = self._trained = None
        self._training = False

    def apply(self):
        """Give the model the averages; nothing happens if it has them, or before there are any."""
        if self._trained is None and self._averages is not None:
            variables = synced(self.model).weights
            self._trained = copied(variables)
            restored(variables, self._averages)

    def reset(self):
        """Give the model back the trained weights; nothing happens if it has them."""
        if self._trained is not None:
            restored(synced(self.model).weights, self._trained)
            self._trained = None

    @contextlib.contextmanager
    def applied(self):
        """Averages inside the block; after it, what was before."""
        had = self._trained is not None
        self.apply()
        try:
            yield self.model
        finally:
            if not had:
                self.reset()

    def on_train_begin(self, logs=None):
        self.reset()
        self._training = True
        if self._averages is None:
            self._averages = copied(synced(self.model).weights)

    def on_train_batch_begin(self, batch, logs=None):
        self.reset()

    def on_train_batch_end(self, batch, logs=None):
        for average, value in zip(self._averages, copied(synced(self.model).weights), strict=True):
            if np.issubdtype(average.dtype, np.floating):
                average += (1 - self.momentum) * (value - average)
            else:
                average[...] = value

    def on_epoch_end(self, epoch, logs=None):
        self.reset()

    def on_test_begin(self, logs=None):
        if self._training and self.validate:
            self.apply()

    def on_test_end(self, logs=None):
        if self._training and self.validate:
            self.reset()

    def on_train_end(self, logs=None):
        self._training = False
        if self.apply_at_end:
            self.apply()
