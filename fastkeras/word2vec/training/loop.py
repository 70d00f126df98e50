"""The loop over blocks of a corpus, and what happens after each of them."""

import math
import signal
import sys
import threading
import time
import warnings

import numpy as np

from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.progress import Status, bar
from fastkeras.word2vec.training.settings import BLOCK, BLOCKS_IN_ROUND, Schedule

BLOCK_SECONDS = 0.25
CUT = 4 * BLOCK * BLOCKS_IN_ROUND  # blocks end at multiples of a round
SMOOTHING = 0.05  # weight of the last block in the loss and speed that are shown
DIVERGED = 1e3  # mean losses above it mean that training has diverged
SCHEDULE = ("learning_rate", "end_learning_rate", "begin")
FEW_KEPT, FEW_PREDICTED = 0.2, 0.1  # shares of the words; less is worth a warning


def train(
    train_slice, ids, state, config, model,
    progress=True, callbacks=(), epoch_callbacks=(), checkpoint=None, checkpoint_minutes=10,
    block=None,
):  # fmt: skip
    """Train from the place in `state` on, with the progress and checkpoints of `Word2Vec.fit`.

    Args:
        train_slice: an engine's `train`, of which `begin, end, key, schedule, num_threads,
            deterministic` are left to be given.
        ids, state, config: as in `run`.
        model: what `epoch_callbacks` get, and what has `save(path)`.
        progress, callbacks, epoch_callbacks, checkpoint, checkpoint_minutes: as in `Word2Vec.fit`.
        block: as in `run`.
    """
    saved = time.monotonic()
    seen = Seen()

    def pass_over(begin, end, key, schedule):
        of_config = config["num_threads"], config["deterministic"]
        done = train_slice(begin, end, key, schedule, *of_config)
        seen.add(begin, *done[1:])
        if end == len(ids):
            seen.end_epoch(ids, config)
        return done

    def between(status):
        nonlocal saved
        show(status)
        stops = [callback(status) for callback in callbacks]
        if checkpoint is not None and time.monotonic() - saved >= 60 * checkpoint_minutes:
            try:
                model.save(checkpoint)
            except OSError as error:  # the disk may have room again next time
                warnings.warn(f"training goes on without a checkpoint: {error}", stacklevel=6)
            saved = time.monotonic()
        return interrupted.asked or any(stop is True for stop in stops)

    def after_epoch():
        return any([callback(model) is True for callback in epoch_callbacks])

    with Interrupted() as interrupted, bar(progress) as show:
        run(pass_over, ids, state, config, between, after_epoch, block)
        if checkpoint is not None:
            model.save(checkpoint)
    if interrupted.asked:
        raise KeyboardInterrupt(
            "the model keeps what it has learnt; to go on: model.resume(corpus)"
            if checkpoint is None
            else f"to go on: Word2Vec.load({str(checkpoint)!r}).resume(corpus)"
        )


class Seen:
    """Warns, once, if an epoch made hardly any predictions, and tells what to change."""

    def __init__(self):
        self.told = False
        self._begin()

    def _begin(self):
        self.begin, self.kept, self.predictions = None, 0, 0

    def add(self, begin, predictions, kept):
        if self.begin is None:
            self.begin = begin
        self.predictions += predictions
        self.kept += kept

    def end_epoch(self, ids, config):
        begin, kept, predictions = self.begin, self.kept, self.predictions
        self._begin()
        if self.told:
            return
        words = len(ids) - begin
        if kept < FEW_KEPT * words:  # only then count the words exactly
            words = int(np.count_nonzero(np.asarray(ids[begin:]) >= 0))
        if kept < FEW_KEPT * words and config["sample"] > 0:
            self.told = True
            reason = (
                f"sample={config['sample']:g} left {kept} of {words} words, for it thins out words "
                "that are frequent in a text of many different ones: pass sample=0, or a larger one"
            )
        elif predictions < FEW_PREDICTED * kept:
            self.told = True
            reason = (
                f"{kept} words have few others beside them: sentences must have two words at "
                "least that the vocabulary knows"
            )
        else:
            return
        warnings.warn(
            f"an epoch made {predictions} predictions: {reason}", RuntimeWarning, stacklevel=7
        )


class Interrupted:
    """Notes the first SIGINT instead of raising it; does nothing outside the main thread."""

    def __enter__(self):
        self.asked = False
        self._usual = None
        if threading.current_thread() is threading.main_thread():
            self._usual = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_):
        self.asked = True
        print("training ends after this block; Ctrl-C again ends it at once", file=sys.stderr)
        self._restore()  # a second Ctrl-C stops at once

    def _restore(self):
        if self._usual is not None:
            signal.signal(signal.SIGINT, self._usual)
            self._usual = None

    def __exit__(self, *_):
        self._restore()


def run(pass_over, ids, state, config, between, after_epoch=lambda: False, block=None):
    """Train from the place in `state` to the end of its epochs.

    Args:
        pass_over: `pass_over(begin, end, key, schedule)` trains a slice.
        ids: the encoded corpus.
        state: dict, kept up to date: `epoch` and `position` come next; the random numbers count
            epochs from `first_epoch`; `epochs`; `loss`, `predictions` and `seconds` of this epoch;
            `history` of the epochs before; `schedule`, of `new_schedule`.
        config: `early_stopping`, and `seed` of the random numbers.
        between: called with a `Status` after each block; returns whether to stop.
        after_epoch: called after each epoch; returns whether to stop.
        block: positions of a slice; None takes what can be trained in `BLOCK_SECONDS`.
    """
    size = len(ids)
    total = state["epochs"] * size
    first, last, since = (state["schedule"][name] for name in SCHEDULE)
    slope = (last - first) / max(total - since, 1)
    size_of_block, speed, shown_loss = block or 8 * CUT, 0.0, math.nan
    while state["epoch"] < state["epochs"]:
        epoch_begin = state["epoch"] * size
        schedule = Schedule(first + slope * (epoch_begin - since), slope)
        key = sampling.key_of(config["seed"], state["first_epoch"] + state["epoch"])
        while (begin := state["position"]) < size:
            end = min((begin + size_of_block) // CUT * CUT, size)
            start = time.perf_counter()
            loss, predictions, _ = pass_over(begin, end, key, schedule)
            seconds = max(time.perf_counter() - start, 1e-6)
            rate = schedule.learning_rate + slope * begin
            if not loss <= DIVERGED * predictions:
                lost = f"the loss is {loss / max(predictions, 1):.3g}"
                raise FloatingPointError(f"{lost}: learning_rate={rate:g} is too large")
            state["position"] = end
            state["loss"] += loss
            state["predictions"] += predictions
            state["seconds"] += seconds
            if block is None:
                size_of_block = max(int((end - begin) / seconds * BLOCK_SECONDS), CUT)
            speed = _smooth(speed or math.nan, (end - begin) / seconds)
            if predictions:
                shown_loss = _smooth(shown_loss, loss / predictions)
            done = (epoch_begin + end) / total
            left = (total - epoch_begin - end) / speed
            status = Status(state["epoch"], state["epochs"], done, shown_loss, rate, speed, left)
            if between(status):
                return
        _end_epoch(state, size)
        if _has_converged(state["history"]["loss"][-2:], config["early_stopping"]):
            state["epochs"] = state["epoch"]
        if after_epoch():
            return


def _smooth(old, new):
    return new if math.isnan(old) else old + SMOOTHING * (new - old)


def _end_epoch(state, size):
    history = state["history"]
    history["loss"].append(state["loss"] / max(state["predictions"], 1))
    history["words_per_second"].append(size / max(state["seconds"], 1e-6))
    state.update(epoch=state["epoch"] + 1, position=0, loss=0.0, predictions=0, seconds=0.0)


def _has_converged(last, early_stopping):
    if early_stopping is None or len(last) < 2:
        return False
    return last[1] > last[0] * (1 - early_stopping)


def new_schedule(config, **rates):
    """Return a schedule of all epochs; rates that are not given are those of `config`."""
    return {name: rates.get(name, config[name]) for name in SCHEDULE[:2]} | {"begin": 0}


def schedule_from_here(state, size, rates):
    """Return a schedule from the place in `state` to the end of its epochs.

    Without a `learning_rate` in `rates` it begins at that of this place.
    """
    first, last, begin = (state["schedule"][name] for name in SCHEDULE)
    here = state["epoch"] * size + state["position"]
    passed = (here - begin) / max(state["epochs"] * size - begin, 1)
    rate = first + (last - first) * passed
    return dict(zip(SCHEDULE, (rate, last, here), strict=True)) | rates


def new_state(epochs, schedule, first_epoch=0, history=None):
    """Return the state of a run that has not begun."""
    return {
        "schedule": schedule,
        "epoch": 0,
        "epochs": epochs,
        "first_epoch": first_epoch,
        "position": 0,
        "loss": 0.0,
        "predictions": 0,
        "seconds": 0.0,
        "history": history or {"loss": [], "words_per_second": []},
    }
