"""What training tells about itself: a bar by rich, or lines where rich is not installed."""

import contextlib
import sys
import time
from typing import NamedTuple

SECONDS_BETWEEN_LINES = 10


class Status(NamedTuple):
    """Where training is, after a block of about a quarter of a second.

    Attributes:
        epoch: the current one, from 0.
        epochs: how many there are.
        progress: what is done of all epochs, 0 to 1.
        loss: mean of a prediction, over about the last 20 blocks.
        learning_rate: at the block's begin.
        words_per_second: of the corpus, in the last blocks.
        seconds_left: an estimate.
    """

    epoch: int
    epochs: int
    progress: float
    loss: float
    learning_rate: float
    words_per_second: float
    seconds_left: float


@contextlib.contextmanager
def counting(shown):
    """Give what `vocabulary.build` tells its progress; None if not `shown`, or without rich."""
    progress = _rich(shown)
    if progress is None:
        yield None
        return
    with progress.Progress() as display:
        task = display.add_task("words", total=None)
        yield lambda done, total: display.update(task, completed=done, total=total)


@contextlib.contextmanager
def bar(shown):
    """Give a function that shows a `Status`: a bar, or lines where rich is not installed."""
    progress = _rich(shown)
    if progress is None:
        yield _lines() if shown else lambda status: None
        return
    columns = (
        progress.TextColumn("epoch {task.fields[epoch]}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[figures]}"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns) as display:
        task = display.add_task("train", total=1.0, epoch="", figures="")

        def show(status):
            epoch, figures = _texts(status)
            display.update(task, completed=status.progress, epoch=epoch, figures=figures)

        yield show


def _texts(status):
    figures = (
        f"{status.words_per_second / 1e3:,.0f} k words/s  loss {status.loss:.4f}  "
        f"learning rate {status.learning_rate:.5f}"
    )
    return f"{status.epoch + 1}/{status.epochs}", figures


def _lines():
    next_time = 0.0

    def show(status):
        nonlocal next_time
        if time.monotonic() >= next_time or status.progress == 1:
            next_time = time.monotonic() + SECONDS_BETWEEN_LINES
            epoch, figures = _texts(status)
            left = f"{status.seconds_left:.0f} s left"
            print(f"epoch {epoch}  {status.progress:4.0%}  {figures}  {left}", file=sys.stderr)

    return show


def _rich(shown):
    try:
        from rich import progress
    except ImportError:
        return None
    return progress if shown else None
