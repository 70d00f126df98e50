"""The loop over blocks of a corpus, and what happens between two of them."""

import math
import signal
import threading
import time

from fastkeras.word2vec import sampling
from fastkeras.word2vec.problem import BLOCK, BLOCKS_IN_ROUND, Schedule
from fastkeras.word2vec.progress import Status, bar

BLOCK_SECONDS = 0.25
CUT = 4 * BLOCK * BLOCKS_IN_ROUND  # blocks end at multiples of a round
SMOOTHING = 0.05  # of what is shown
DIVERGED = 1e3  # no prediction of a sane model loses so much


def train(
    engine, matrices, tables, settings, ids, state, config, save,
    progress=True, callbacks=(), checkpoint=None, checkpoint_minutes=10,
):  # fmt: skip
    """Train from the place in `state` on, and do meanwhile what `Word2Vec.fit` promises.

    Args:
        engine: module of an engine.
        matrices, tables, settings: for it.
        ids, state, config: as in `run`.
        save: writes the model to a path.
        progress, callbacks, checkpoint, checkpoint_minutes: as in `Word2Vec.fit`.
    """
    saved = time.monotonic()

    def pass_over(begin, end, key, schedule):
        of_slice = key, schedule, config["num_threads"], config["deterministic"]
        return engine.train(ids, begin, end, *matrices, tables, settings, *of_slice)

    def between(status):
        nonlocal saved
        show(status)
        stops = [callback(status) for callback in callbacks]
        if checkpoint is not None and time.monotonic() - saved >= 60 * checkpoint_minutes:
            save(checkpoint)
            saved = time.monotonic()
        return interrupted.asked or any(stop is True for stop in stops)

    with Interrupted() as interrupted, bar(progress) as show:
        run(pass_over, ids, state, config, between)
        if checkpoint is not None:
            save(checkpoint)
    if interrupted.asked:
        raise KeyboardInterrupt


class Interrupted:
    """Notes SIGINT instead of raising it, once; outside of the main thread it does nothing."""

    def __enter__(self):
        self.asked = False
        self._usual = None
        if threading.current_thread() is threading.main_thread():
            self._usual = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_):
        self.asked = True
        self._restore()  # whoever asks twice wants it now

    def _restore(self):
        if self._usual is not None:
            signal.signal(signal.SIGINT, self._usual)
            self._usual = None

    def __exit__(self, *_):
        self._restore()


def run(pass_over, ids, state, config, between):
    """Train from the place in `state` to the end of its epochs.

    Args:
        pass_over: `pass_over(begin, end, key, schedule)` trains a slice.
        ids: the encoded corpus.
        state: dict, kept up to date: `epoch` and `position` are next; `first_epoch` is what the
            random numbers count from; `epochs`; `loss`, `predictions` and `seconds` of this epoch;
            `history` of the epochs before.
        config: the rates, `early_stopping`, and `seed` of the random numbers.
        between: called with a `Status` after each block; whether to stop.
    """
    size = len(ids)
    total = state["epochs"] * size
    slope = (config["end_learning_rate"] - config["learning_rate"]) / max(total, 1)
    block, speed, shown_loss = 8 * CUT, 0.0, math.nan
    while state["epoch"] < state["epochs"]:
        epoch_begin = state["epoch"] * size
        schedule = Schedule(config["learning_rate"] + slope * epoch_begin, slope)
        key = sampling.key_of(config["seed"], state["first_epoch"] + state["epoch"])
        while (begin := state["position"]) < size:
            end = min((begin + block) // CUT * CUT, size)
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
            block = max(int((end - begin) / seconds * BLOCK_SECONDS), CUT)
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


def new_state(epochs, first_epoch=0, history=None):
    """Return the state of a run that has not begun."""
    return {
        "epoch": 0,
        "epochs": epochs,
        "first_epoch": first_epoch,
        "position": 0,
        "loss": 0.0,
        "predictions": 0,
        "seconds": 0.0,
        "history": history or {"loss": [], "words_per_second": []},
    }
