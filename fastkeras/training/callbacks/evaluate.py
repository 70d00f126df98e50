"""Any Python metric at the end of each epoch, and the weights that were best by it."""

import keras

from fastkeras.training.model_state import copied, restored, synced


class Evaluate(keras.callbacks.Callback):
    """Compute any metric after each epoch; keep the best weights and put them back in the end.

    The result is in the logs, so that the history, the progress bar and callbacks after this one
    (EarlyStopping, ReduceLROnPlateau) see it. Where the metric is one of Keras', ModelCheckpoint
    and EarlyStopping do the same without this.

    Args:
        fn: function of the model (and of `data`, if given) that returns a number, or a dict of
            numbers.
        data: anything, passed on to `fn`.
        monitor: name of the number in the logs; which of them decides, if there are several.
        mode: "max" or "min".
        keep_best: whether the model has its best weights when training ends. After an interrupt
            (Ctrl-C) Keras tells no callback: call `restore_best`.
        every: epochs from one evaluation to the next.

    Attributes:
        best: the best value so far, over all fits, or None.
        best_epoch: its epoch.

    Raises:
        ValueError: `mode` or `every` is out of range, or `fn` returns no `monitor`.

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

    def __init__(self, fn, data=None, monitor="score", mode="max", keep_best=True, every=1):
        super().__init__()
        if mode not in ("max", "min"):
            raise ValueError(f'mode={mode!r} must be "max" or "min"')
        if every < 1:
            raise ValueError(f"every={every!r} must be at least 1")
        self.fn, self.data, self.monitor, self.mode = fn, data, monitor, mode
        self.keep_best, self.every = keep_best, every
        self.best = self.best_epoch = self._weights = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        model = synced(self.model)
        result = self.fn(model) if self.data is None else self.fn(model, self.data)
        result = dict(result) if isinstance(result, dict) else {self.monitor: result}
        if self.monitor not in result:
            raise ValueError(f"monitor={self.monitor!r} must be one of {sorted(result)}")
        result = {name: float(value) for name, value in result.items()}
        if logs is not None:
            logs.update(result)
        value, sign = result[self.monitor], 1 if self.mode == "max" else -1
        if value == value and (self.best is None or sign * value > sign * self.best):
            self.best, self.best_epoch = value, epoch
            if self.keep_best:
                self._weights = copied(model.weights)

    def on_train_end(self, logs=None):
        if self.keep_best:
            self.restore_best()

    def restore_best(self):
        """Give the model the best weights seen; nothing happens before the first evaluation."""
        if self._weights is not None:
            restored(synced(self.model).weights, self._weights)


class PrintSamples(keras.callbacks.Callback):
    """Print what a function makes of the model, each few epochs: titles, translations, ….

    Args:
        fn: function of the model that returns a text, or a list of them.
        every: epochs from one print to the next.
        print: what prints a line.

    Example:
        >>> callback = PrintSamples(lambda model: "a line", every=5)
    """

    def __init__(self, fn, every=1, print=print):
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every!r} must be at least 1")
        self.fn, self.every, self.print = fn, every, print

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every == 0:
            samples = self.fn(synced(self.model))
            for line in [samples] if isinstance(samples, str) else samples:
                self.print(line)
