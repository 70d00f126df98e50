"""A progress bar of rich for `fit`."""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING

import keras
import numpy as np

from fastkeras.training.callbacks.batches import BatchCount

if TYPE_CHECKING:
    from typing import Any


class RichProgress(keras.callbacks.Callback):
    """One bar for all epochs, with the time left and the metrics: `fit(…, verbose=0)`.

    Args:
        console: a `rich.console.Console` to print to.

    Raises:
        ImportError: rich is not installed.

    Example:
        >>> callback = RichProgress()
    """

    def __init__(self, console: Any = None) -> None:
        super().__init__()
        _rich_progress()
        self.console = console
        self._bar: Any = None
        self._count = BatchCount()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._stop()  # the one of a fit that was interrupted
        progress = _rich_progress()
        steps, epochs = self.params.get("steps"), self.params.get("epochs", 1)
        self._epochs, self._count = epochs, BatchCount()
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[logs]}"),
            console=self.console,
        )
        self._bar.start()
        total = steps * epochs if steps else None
        self._task = self._bar.add_task("", total=total, epoch=f"1/{epochs}", logs="")

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        done = epoch * (self.params.get("steps") or 0)
        text = f"{epoch + 1}/{self._epochs}"
        self._bar.update(self._task, epoch=text, completed=done or None)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._count.begin(batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        batches = self._count.end(batch, self.params)
        self._bar.update(self._task, advance=batches, logs=_text(logs))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.update(self._task, logs=_text(logs))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._stop()

    def _stop(self):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _rich_progress():
    try:
        from rich import progress
    except ImportError as error:
        raise ImportError("RichProgress needs rich: pip install rich") from error
    return progress


def _text(logs):
    """The numbers of the logs; metrics that are vectors do not fit in a line."""
    numbers_ = {n: v for n, v in (logs or {}).items() if _is_number(v)}
    return "  ".join(f"{name} {float(value):.4g}" for name, value in numbers_.items())


def _is_number(value):
    return isinstance(value, numbers.Real) or (isinstance(value, np.ndarray) and value.ndim == 0)
