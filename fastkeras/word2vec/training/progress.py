"""How training shows its progress: as a bar (of rich) in a terminal, else as lines now and then."""

import contextlib
import sys
import time
from typing import NamedTuple

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_LINES_OF_A_LOG = 60


class Status(NamedTuple):
    """Where training is, after a block of about a quarter of a second.

    Attributes:
        epoch: the current one, from 0.
        epochs: how many there are.
        progress: how much of all epochs is done, 0 to 1.
        loss: the mean of a prediction's loss, over about the last 20 blocks.
        learning_rate: at the beginning of the block.
        words_per_second: words of the corpus, in the last blocks.
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
    """Give the function that shows the progress of `vocabulary.build`; None if not `shown`."""
    progress = _rich(shown)
    if progress is None:
        yield _counting_lines() if shown else None
        return
    with progress.Progress() as display:
        task = display.add_task("words", total=None)
        line = _counting_lines() if _is_log(display) else lambda done, total: None

        def show(done, total):
            display.update(task, completed=done, total=total)
            line(done, total)

        yield show


@contextlib.contextmanager
def bar(shown):
    """Give a function that shows a `Status`: as a bar in a terminal, else as lines.

    Outside a terminal rich draws a bar only once, at its end, hence the lines.
    """
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
        line = _log_lines() if _is_log(display) else lambda status: None

        def show(status):
            epoch, figures = _texts(status)
            display.update(task, completed=status.progress, epoch=epoch, figures=figures)
            line(status)

        yield show


def _texts(status):
    figures = (
        f"{status.words_per_second / 1e3:,.0f} k words/s  loss {status.loss:.4f}  "
        f"learning rate {status.learning_rate:.5f}"
    )
    return f"{status.epoch + 1}/{status.epochs}", figures


def _lines():
    due = _now_and_then(SECONDS_BETWEEN_LINES, at_once=True)

    def show(status):
        if due() or status.progress == 1:
            _print(status)

    return show


def _log_lines():
    due = _now_and_then(SECONDS_BETWEEN_LINES_OF_A_LOG)
    return lambda status: _print(status) if due() else None


def _counting_lines():
    due = _now_and_then(SECONDS_BETWEEN_LINES_OF_A_LOG)

    def show(done, total):
        if due():
            share = f"{done / total:4.0%}" if total else f"{done:,}"
            print(f"counting words  {share}", file=sys.stderr, flush=True)

    return show


def _print(status):
    epoch, figures = _texts(status)
    left = f"{status.seconds_left:.0f} s left"
    line = f"epoch {epoch}  {status.progress:4.0%}  {figures}  {left}"
    print(line, file=sys.stderr, flush=True)


def _now_and_then(seconds, at_once=False):
    """Return a function that returns True at most once in so many seconds."""
    next_time = time.monotonic() + (0 if at_once else seconds)

    def due():
        nonlocal next_time
        if time.monotonic() < next_time:
            return False
        next_time = time.monotonic() + seconds
        return True

    return due


def _is_log(display):
    """Whether output goes to a file or a pipe, where a bar cannot be redrawn."""
    return not (display.console.is_terminal or display.console.is_jupyter)


def _rich(shown):
    try:
        from rich import progress
    except ImportError:
        return None
    return progress if shown else None
