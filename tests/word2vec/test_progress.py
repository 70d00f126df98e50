"""What a training shows meanwhile: bars, lines of a log, and what callbacks get."""

import sys

import numpy as np
import pytest

from fastkeras.word2vec.training import loop as training
from word2vec.topics import QUIET, planted, small


def test_bar_shows_what_is_asked_for(rng, capsys):
    pytest.importorskip("rich", reason="rich is not installed")
    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    printed = capsys.readouterr().out
    for part in ("epoch 2/2", "words/s", "loss", "learning rate", "100%"):
        assert part in printed


def test_lines_stand_in_for_the_bar(rng, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    first, last = capsys.readouterr().err.splitlines()  # one at once, one at the end
    assert first.startswith("epoch 1/2") and last.startswith("epoch 2/2  100%")
    small(epochs=2).fit(ids, vocabulary=vocabulary, **QUIET)
    assert capsys.readouterr().err == ""


def test_a_log_gets_a_line_now_and_then(rng, capsys, monkeypatch):
    pytest.importorskip("rich", reason="rich is not installed")
    from fastkeras.word2vec.training import progress

    ids, vocabulary, _ = planted(rng, sentences=50)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    assert capsys.readouterr().err == ""  # it was too short
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES_OF_A_LOG", 0)
    small(epochs=2).fit(ids, vocabulary=vocabulary)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 1/2") and lines[-1].startswith("epoch 2/2  100%")
    small(min_count=1, epochs=1).fit([["a", "b"]] * 3)
    assert capsys.readouterr().err.startswith("counting words  100%\nepoch 1/1")


def test_callbacks_see_the_schedule_and_stop_it(rng, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)
    ids, vocabulary, _ = planted(rng)
    seen = []

    def stop_in_second_epoch(status):
        seen.append(status)
        return status.epoch == 1

    model = small(epochs=4, learning_rate=0.1, end_learning_rate=0.02)
    model.fit(ids, vocabulary=vocabulary, callbacks=[stop_in_second_epoch], **QUIET)
    assert len(model.history["loss"]) == 1
    progress = [status.progress for status in seen]
    assert progress == sorted(progress)
    assert 0.25 < progress[-1] < 0.5
    begin = 16384 / (4 * len(ids))
    np.testing.assert_allclose(seen[0].learning_rate, 0.1)
    np.testing.assert_allclose(seen[1].learning_rate, 0.1 - 0.08 * begin)
    assert all(status.words_per_second > 0 and status.seconds_left > 0 for status in seen)
    assert seen[-1].loss < seen[0].loss
