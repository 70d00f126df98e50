"""Word2Vec's CUDA kernels: whole trainings, places that train at once, orders of threads.

The rest is in the tests of the domain, which run on all its engines. Blocks that train at once race
by intention, so only one place is tested with CUDA_ON_CPU=thread.
"""

import pickle
import sys

import numpy as np
import pytest

import fastkeras
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.training.settings import Schedule, Settings, tables_of
from fastkeras.word2vec.vocabulary import Vocabulary

if fastkeras.engines("word2vec")["cupy"] != "ready":
    pytest.skip(fastkeras.engines("word2vec")["cupy"], allow_module_level=True)

import cupy

from fastkeras.word2vec._engines import cupy as engine

ON_CPU = "gpu.cupy_on_cpu" in sys.modules and cupy.__version__ == "on CPUs"
WORDS = Vocabulary([f"word{i}" for i in range(40)], np.arange(40, 0, -1))
FORMS = {
    "shared": {},
    "pairs": {"shared_negatives": None},
    "cbow": {"objective": "cbow"},
    "softmax": {"loss": "sampled_softmax"},
    "tree": {"loss": "hierarchical_softmax"},
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
QUIET = {"progress": False, "vocabulary": WORDS}


def text(rng, length):
    ids = rng.integers(40, size=length, dtype=np.int32)
    ids[rng.random(length) < 0.1] = -1
    return ids


def model_of(**more):
    options = {"vector_size": 20, "window": 3, "sample": 0, "epochs": 2, "num_threads": 1}
    return Word2Vec(**{**options, "engine": "cupy", **more})


@forms
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(form, rng, tmp_path):
    ids, path = text(rng, 1500), tmp_path / "model.npz"
    whole = model_of(**form).fit(ids, **QUIET)
    stopped = model_of(**form).fit(ids, **QUIET, callbacks=[lambda status: True])
    assert not np.array_equal(stopped.input_embeddings, whole.input_embeddings)
    stopped.save(path)
    resumed = Word2Vec.load(path, engine="cupy").resume(ids, progress=False)
    for name in ("input_embeddings", "output_embeddings"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-12)


def test_the_model_can_be_read_while_it_is_trained(rng):
    ids, seen = text(rng, 1000), []

    def look(status):
        seen.append(pickle.loads(pickle.dumps(model)).input_embeddings.copy())
        np.testing.assert_array_equal(model.input_embeddings, seen[-1])

    model = model_of()
    model.fit(ids, **QUIET, callbacks=[look])
    assert not np.array_equal(seen[0], seen[-1])
    np.testing.assert_array_equal(model.input_embeddings, seen[-1])
    before = seen[-1]
    model.partial_fit(ids, progress=False, new_words=False)
    assert not np.array_equal(model.input_embeddings, before)


def test_the_corpus_and_the_matrices_go_to_the_gpu_once(rng, monkeypatch):
    copied, real = [], cupy.asarray
    monkeypatch.setattr(cupy, "asarray", lambda array: copied.append(array.shape) or real(array))
    model_of(epochs=5).fit(text(rng, 500), **QUIET)
    assert copied.count((40, 32)) == 2 and copied.count((500,)) == 1


@pytest.mark.parametrize("places", (0, 7, 1000))
@forms
def test_places_that_train_at_once_do_all_the_work(form, places, rng):
    ids = text(rng, 600)
    one = model_of(epochs=1, **form).fit(ids, **QUIET)
    many = model_of(epochs=1, num_threads=places, **form).fit(ids, **QUIET)
    # On a GPU the places are at the same few words at the same time, with a rate for many words.
    of_loss, of_embeddings = (1e-2, 0.01) if ON_CPU else (0.3, 2)
    np.testing.assert_allclose(many.history["loss"], one.history["loss"], rtol=of_loss)
    assert np.abs(many.output_embeddings - one.output_embeddings).max() < of_embeddings


@pytest.mark.skipif(not ON_CPU, reason="a GPU has its own order")
@forms
def test_no_order_of_threads_changes_a_bit(form, rng, monkeypatch):
    from gpu import cupy_on_cpu

    ids, models = text(rng, 300), []
    for seed in (0, 1, 2):
        monkeypatch.setattr(cupy_on_cpu, "seed", seed)
        models.append(model_of(**form).fit(ids, **QUIET))
    for other in models[1:]:
        np.testing.assert_array_equal(other.input_embeddings, models[0].input_embeddings)
        np.testing.assert_array_equal(other.output_embeddings, models[0].output_embeddings)
        assert other.history["loss"] == models[0].history["loss"]


@pytest.mark.parametrize(
    ("exponent", "at_most", "at_least"), [(0, 256, 256), (1, 30, 10), (3, 13, 12)]
)
def test_the_more_frequent_a_word_the_fewer_places(exponent, at_most, at_least, rng):
    settings = Settings(shared_negatives=True, window=2)
    weights = np.arange(1, 5001.0) ** -exponent
    counts = np.ceil(1e6 * weights / weights.sum()).astype(int)
    ids = rng.choice(5000, 50_000, p=weights / weights.sum()).astype(np.int32)
    places = engine.num_places(ids, tables_of(counts, settings), settings)
    assert at_least <= places <= at_most
    assert engine.num_places(ids[:0], tables_of(counts, settings), settings) > 0


@pytest.mark.skipif(ON_CPU, reason="there one place trains after the other")
def test_places_that_hold_a_row_for_long_do_not_part(rng):
    """A word that is always in reach would gain the changes of all places at once at the end."""
    ids = rng.integers(3, size=4000, dtype=np.int32)
    losses = []
    for places in (1, 8):
        model = model_of(epochs=1, num_threads=places, learning_rate=0.1)
        model.fit(ids, **QUIET | {"vocabulary": Vocabulary(["a", "b", "c"], np.array([3, 2, 1]))})
        losses.append(model.history["loss"][0])
        assert np.abs(model.input_embeddings).max() < 2
    np.testing.assert_allclose(*losses, rtol=0.15)


def test_a_slice_may_be_longer_than_what_is_collected_at_a_time(rng, monkeypatch):
    ids = text(rng, 700)
    expected = model_of().fit(ids, **QUIET)
    monkeypatch.setattr(engine, "SLICE", 100)
    sliced = model_of().fit(ids, **QUIET)
    np.testing.assert_array_equal(sliced.input_embeddings, expected.input_embeddings)


def test_ids_that_are_no_words_end_sentences(rng):
    settings = Settings(shared_negatives=True)
    tables = tables_of(WORDS.counts, settings)
    results = []
    for wrong in (-1, -7, 40, 2**31 - 1):
        ids = text(np.random.default_rng(0), 200)
        ids[50::20] = wrong
        matrices = [rng.random((40, 16), np.float32) * 0 + np.float32(0.1) for _ in range(2)]
        done = engine.train(ids, 0, 200, *matrices, tables, settings, 3, Schedule(0.1, 0))
        results.append((done, *matrices))
    for done, *matrices in results[1:]:
        assert done == results[0][0]
        np.testing.assert_array_equal(matrices, results[0][1:])


def test_what_the_engine_lacks_it_says(rng, tmp_path):
    with pytest.raises(ValueError, match=r"engine='cupy' does not take subwords.*native"):
        model_of(subwords=True)
    other = model_of(subwords=True, engine="reference", epochs=1).fit(text(rng, 100), **QUIET)
    other.save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match=r"engine='cupy' does not take subwords.*native"):
        Word2Vec.load(tmp_path / "model.npz", engine="cupy")


def test_it_has_to_be_named():
    assert "cupy" not in repr(Word2Vec()._engine.__name__)
