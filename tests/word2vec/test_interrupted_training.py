"""Training that is killed or interrupted, or whose disk is full, leaves a model that goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastkeras
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.training import checkpoint
from word2vec.topics import QUIET, planted, small

ROOT = Path(fastkeras.__file__).parents[1]
HERE = Path(__file__).parent

SCRIPT = """
import sys
import numpy as np
from word2vec.topics import planted, small
from fastkeras.word2vec.training import loop as training
training.BLOCK_SECONDS = 0
ids, vocabulary, _ = planted(np.random.default_rng(3))
model = small(epochs=100_000)
tell = lambda status: print(status.epoch, flush=True)
options = dict(progress=False, callbacks=[tell], checkpoint=sys.argv[1], checkpoint_minutes=0)
try:
    model.fit(ids, vocabulary=vocabulary, **options)
except KeyboardInterrupt:
    print("interrupted", np.isfinite(model.input_embeddings).all(), flush=True)
"""


def start(path):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE.parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, path],
        cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    for _ in range(10):
        assert process.stdout.readline()
    return process


def test_kill_while_checkpoints_are_written_leaves_a_valid_one(tmp_path, rng):
    path = tmp_path / "model"
    for wait in (0.0, 0.013, 0.05):
        with start(path) as process:
            time.sleep(wait)
            process.kill()
        model = Word2Vec.load(path)
        ids, _, _ = planted(np.random.default_rng(3))
        state = model._state
        at = state["epoch"], state["position"]
        assert at > (0, 0)
        model.resume(ids, callbacks=[lambda status: True], **QUIET)
        assert (state["epoch"], state["position"]) > at


def test_interrupt_leaves_a_checkpoint_and_a_model(tmp_path):
    path = tmp_path / "model"
    with start(path) as process:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert rest.endswith("interrupted True\n")
    assert Word2Vec.load(path)._state["epoch"] >= 0
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_training_outside_of_the_main_thread_works(rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=1)
    thread = threading.Thread(
        target=model.fit, args=(ids,), kwargs={"vocabulary": vocabulary, **QUIET}
    )
    thread.start()
    thread.join()
    assert len(model.history["loss"]) == 1


def test_failed_write_leaves_the_old_file(rng, tmp_path, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=1).fit(ids, vocabulary=vocabulary, **QUIET)
    model.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_interrupt_says_how_to_go_on(rng, tmp_path, monkeypatch, capsys):
    ids, vocabulary, _ = planted(rng, sentences=50)
    interrupt = [lambda status: signal.raise_signal(signal.SIGINT)]
    model = small(epochs=3)
    with pytest.raises(KeyboardInterrupt, match=r"to go on: model\.resume\(corpus\)"):
        model.fit(ids, vocabulary=vocabulary, callbacks=interrupt, **QUIET)
    assert "Ctrl-C again ends it at once" in capsys.readouterr().err
    path = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt, match=rf"Word2Vec\.load\('{path}'\)\.resume\(corpus\)"):
        model.fit(ids, vocabulary=vocabulary, callbacks=interrupt, checkpoint=path, **QUIET)
    assert len(Word2Vec.load(path).resume(ids, **QUIET).history["loss"]) == 3


def test_a_disk_that_is_full_for_a_while_does_not_end_training(rng, tmp_path, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=50)
    usual, calls = checkpoint.np.savez, []

    def full_at_first(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return usual(*arguments, **options)

    monkeypatch.setattr(checkpoint.np, "savez", full_at_first)
    path = tmp_path / "model"
    with pytest.warns(UserWarning, match="goes on without a checkpoint: .*No space left"):
        small(epochs=2).fit(
            ids, vocabulary=vocabulary, checkpoint=path, checkpoint_minutes=0, **QUIET
        )
    assert Word2Vec.load(path)._state["epoch"] == 2
