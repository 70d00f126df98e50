"""A progress bar of rich for `fit`."""

import keras


class RichProgress(keras.callbacks.Callback):
    """One bar for all epochs, with the time left and the metrics: `fit(…, verbose=0)`.

    Args:
        console: a `rich.console.Console` to print to.

    Raises:
        ImportError: rich is not installed.

    Example:
        >>> callback = RichProgress()
    """

    def __init__(self, console=None):
        super().__init__()
        try:
            from rich import progress
        except ImportError as error:
            raise ImportError("RichProgress needs rich: pip install rich") from error
        self._columns = (
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[logs]}"),
        )
        self._make = lambda: progress.Progress(*self._columns, console=console)
        self._bar = None

    def on_train_begin(self, logs=None):
        steps, epochs = self.params.get("steps"), self.params.get("epochs", 1)
        self._epochs = epochs
        self._bar = self._make()
        self._bar.start()
        total = steps * epochs if steps else None
        self._task = self._bar.add_task("", total=total, epoch=f"1/{epochs}", logs="")

    def on_epoch_begin(self, epoch, logs=None):
        done = epoch * (self.params.get("steps") or 0)
        text = f"{epoch + 1}/{self._epochs}"
        self._bar.update(self._task, epoch=text, completed=done or None)

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(self._task, advance=1, logs=_text(logs))

    def on_epoch_end(self, epoch, logs=None):
        self._bar.update(self._task, logs=_text(logs))

    def on_train_end(self, logs=None):
        self._bar.stop()


def _text(logs):
    return "  ".join(f"{name} {float(value):.4g}" for name, value in (logs or {}).items())
