"""Training that goes on with other rates and threads, and what is called after each epoch."""

import numpy as np
import pytest

from fastkeras.word2vec import Vocabulary, Word2Vec
from fastkeras.word2vec.training import loop

WORDS = [f"w{i}" for i in range(40)]
VOCABULARY = Vocabulary(WORDS, [10] * 40)
QUIET = {"progress": False}


@pytest.fixture
def ids(rng, monkeypatch):
    monkeypatch.setattr(loop, "BLOCK_SECONDS", 0)  # blocks of CUT words
    sentences = [np.append(rng.integers(0, 40, 30), -1) for _ in range(300)]
    return np.concatenate(sentences).astype(np.int32)


def untrained(**more):
    options = {"vector_size": 8, "window": 2, "sample": 0, "num_threads": 1, "epochs": 4}
    return Word2Vec(**{**options, "learning_rate": 0.1, "end_learning_rate": 0.02, **more})


def stopped_after(epochs, ids):
    model = untrained()
    stop = [lambda model: len(model.history["loss"]) == epochs]
    return model.fit(ids, vocabulary=VOCABULARY, epoch_callbacks=stop, **QUIET)


def rates_of(train, ids, epochs_before=0, **options):
    """The rates at the beginnings of blocks, and how many epochs lie between here and each."""
    seen = []
    train(ids, callbacks=[seen.append], **options, **QUIET)
    ends = [status.progress * status.epochs - epochs_before for status in seen]
    return np.array([status.learning_rate for status in seen]), np.array([0, *ends[:-1]])


def test_an_epoch_callback_gets_the_model_and_may_stop(ids, tmp_path):
    saved = []

    def keep(model):
        path = tmp_path / f"{len(model.history['loss'])}.npz"
        model.save(path)
        saved.append((path, model.input_embeddings.copy()))

    whole = untrained().fit(ids, vocabulary=VOCABULARY, epoch_callbacks=[keep], **QUIET)
    assert [path.name for path, _ in saved] == ["1.npz", "2.npz", "3.npz", "4.npz"]
    np.testing.assert_array_equal(saved[-1][1], whole.input_embeddings)
    calls = []
    stops = [lambda model: calls.append(1), lambda model: True, lambda model: calls.append(2)]
    stopped = untrained().fit(ids, vocabulary=VOCABULARY, epoch_callbacks=stops, **QUIET)
    assert calls == [1, 2]  # all are called, also after the one that stops
    np.testing.assert_array_equal(stopped.input_embeddings, saved[0][1])
    for model in stopped, Word2Vec.load(saved[1][0]):
        model.resume(ids, **QUIET)
        np.testing.assert_array_equal(model.input_embeddings, whole.input_embeddings)


def test_rates_from_here_to_the_end(ids, tmp_path):
    model = stopped_after(1, ids)
    model.save(tmp_path / "model")
    rates, places = rates_of(model.resume, ids, 1)
    np.testing.assert_allclose(rates, 0.1 - 0.08 * (1 + places) / 4)
    for given, first, last in (
        ({"learning_rate": 0.15}, 0.15, 0.02),
        ({"end_learning_rate": 0.0}, 0.08, 0.0),
        ({"learning_rate": 0.01, "end_learning_rate": 0.03}, 0.01, 0.03),
    ):
        model = Word2Vec.load(tmp_path / "model")
        rates, places = rates_of(model.resume, ids, 1, **given)
        np.testing.assert_allclose(rates, first + (last - first) * places / 3, err_msg=str(given))
        assert model.config["learning_rate"] == 0.1  # of a new `fit`


def test_rates_hold_for_a_later_resume(ids, tmp_path):
    model = stopped_after(1, ids)
    given = {"learning_rate": 0.06, "end_learning_rate": 0.03}
    model.resume(ids, epoch_callbacks=[lambda model: True], **given, **QUIET)
    model.save(tmp_path / "model")
    model = Word2Vec.load(tmp_path / "model")
    rates, places = rates_of(model.resume, ids, 2)
    np.testing.assert_allclose(rates, 0.06 - 0.03 * (1 + places) / 3)


def test_rates_of_another_corpus(ids):
    model = stopped_after(4, ids)
    rates, places = rates_of(model.partial_fit, ids, epochs=2, learning_rate=0.4)
    np.testing.assert_allclose(rates, 0.4 - 0.38 * places / 2)
    rates, places = rates_of(model.partial_fit, ids)
    np.testing.assert_allclose(rates, 0.1 - 0.08 * places)


def test_threads_of_a_call(ids, monkeypatch):
    model = stopped_after(1, ids)
    threads, train = [], model._engine.train
    monkeypatch.setattr(
        model._engine, "train", lambda *given: threads.append(given[-2]) or train(*given)
    )
    model.resume(ids, num_threads=3, **QUIET)
    assert {*threads} == {3} and model.config["num_threads"] == 1
    threads.clear()
    model.partial_fit(ids, **QUIET)
    assert {*threads} == {1}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"learning_rate": -1}, "learning_rate=-1 must be"),
        ({"end_learning_rate": "low"}, "end_learning_rate='low' must be a number"),
        ({"num_threads": 1.5}, "num_threads=1.5 must be an int"),
        ({"epoch_callbacks": print}, "epoch_callbacks=.* must be a list of functions"),
        ({"rate": 1}, "rate=1 is unknown; allowed are .*learning_rate"),
    ],
)
def test_errors(ids, option, message):
    model = stopped_after(1, ids)
    before, state = model.input_embeddings.copy(), dict(model._state)
    for train in model.resume, model.partial_fit:
        with pytest.raises((TypeError, ValueError), match=message):
            train(ids, **option)
    np.testing.assert_array_equal(model.input_embeddings, before)
    assert model._state == state
