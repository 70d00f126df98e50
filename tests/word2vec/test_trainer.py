"""Training as a user runs it: learns what was planted, on all engines, and says if it cannot."""

import subprocess
import sys

import numpy as np
import pytest

from engine_parameters import engines_of
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.training import loop as training
from fastkeras.word2vec.training import matrices
from fastkeras.word2vec.training.settings import BOTH, LOSSES, TREE
from word2vec.topics import QUIET, planted, share_of_neighbours_in_topic, small


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "form",
    [
        {"objective": "skipgram"},
        {"objective": "skipgram", "shared_negatives": None},
        {"objective": "cbow", "cbow_gradient": "exact"},
        {"objective": "cbow", "cbow_gradient": "word2vec"},
    ],
)
def test_words_of_a_topic_become_neighbours(form, loss, rng):
    ids, vocabulary, topic = planted(rng)
    model = small(loss=loss, epochs=6, learning_rate=0.1, **form)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert model.input_embeddings.shape == (48, 12)
    assert share_of_neighbours_in_topic(model.input_embeddings, topic) > 0.95
    losses = model.history["loss"]
    assert len(losses) == 6
    if loss not in (TREE, BOTH):  # whose first epoch already finds the optimum
        assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("engine", engines_of("word2vec"))
def test_engines_and_block_sizes_give_the_same_model(engine, rng, monkeypatch):
    ids, vocabulary, _ = planted(rng, sentences=400)
    first = small(epochs=2, engine="native").fit(ids, vocabulary=vocabulary, **QUIET)
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)  # the shortest blocks possible
    other = small(epochs=2, engine=engine).fit(ids, vocabulary=vocabulary, **QUIET)
    np.testing.assert_allclose(other.input_embeddings, first.input_embeddings, atol=1e-5)
    np.testing.assert_allclose(other.history["loss"], first.history["loss"], rtol=1e-6)
    if engine == "native":
        np.testing.assert_array_equal(other.input_embeddings, first.input_embeddings)
    assert np.abs(first.input_embeddings).max() > 0.1


def test_deterministic_models_are_equal_on_any_number_of_threads(rng):
    ids, vocabulary, topic = planted(rng)
    one, three = (
        small(deterministic=True, num_threads=n, epochs=12).fit(ids, vocabulary=vocabulary, **QUIET)
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one.input_embeddings, three.input_embeddings)
    np.testing.assert_allclose(one.history["loss"], three.history["loss"], rtol=1e-8)
    assert share_of_neighbours_in_topic(one.input_embeddings, topic) > 0.95


def test_several_threads_learn_too(rng):
    ids, vocabulary, topic = planted(rng, sentences=3000)
    model = small(num_threads=2, epochs=5, learning_rate=0.1)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert share_of_neighbours_in_topic(model.input_embeddings, topic) > 0.95


def test_seeds_differ_and_repeat(rng):
    ids, vocabulary, _ = planted(rng, sentences=100)
    first, again, other = (
        small(seed=seed).fit(ids, vocabulary=vocabulary, **QUIET).input_embeddings
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not (first == other).any()


def test_training_stops_early_when_the_loss_stays(rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(epochs=50, learning_rate=0.0, end_learning_rate=0.0, early_stopping=0.01)
    model.fit(ids, vocabulary=vocabulary, **QUIET)
    assert len(model.history["loss"]) == 2


def test_stopped_training_resumes_to_the_same_bits(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)
    ids, vocabulary, _ = planted(rng)
    whole = small(epochs=3).fit(ids, vocabulary=vocabulary, **QUIET)
    stopped = small(epochs=3)
    stopped.fit(ids, vocabulary=vocabulary, callbacks=[lambda s: s.progress > 0.5], **QUIET)
    assert len(stopped.history["loss"]) == 1
    stopped.save(tmp_path / "model")
    loaded = Word2Vec.load(tmp_path / "model")
    assert loaded.vocabulary.words == vocabulary.words
    np.testing.assert_array_equal(loaded.input_embeddings, stopped.input_embeddings)
    loaded.resume(ids, **QUIET)
    np.testing.assert_array_equal(loaded.input_embeddings, whole.input_embeddings)
    np.testing.assert_array_equal(loaded.output_embeddings, whole.output_embeddings)
    np.testing.assert_allclose(loaded.history["loss"], whole.history["loss"], rtol=1e-8)
    before = loaded.input_embeddings.copy()
    loaded.resume(ids, **QUIET)  # nothing is left
    np.testing.assert_array_equal(loaded.input_embeddings, before)


def test_another_corpus_adds_words_and_keeps_the_others(rng):
    ids, vocabulary, _ = planted(rng, sentences=200)
    model = small().fit(ids, vocabulary=vocabulary, **QUIET)
    before = {w: model.input_embeddings[i].copy() for w, i in vocabulary.index.items()}
    third = vocabulary.words[3]
    model.partial_fit([["new"] * 400, [third] * 5, ["rare"] * 4], **QUIET)
    assert model.vocabulary.words[0] == "new" and "rare" not in model.vocabulary
    counts = dict(zip(model.vocabulary.words, model.vocabulary.counts, strict=True))
    assert counts["new"] == 400
    assert counts[third] == vocabulary.counts[3] + 5
    for word in before.keys() - {third}:  # none of them is in the corpus
        np.testing.assert_array_equal(model.vectors[word], before[word])
    assert (model.vectors[third] != before[third]).any()
    assert (model.input_embeddings[0] != 0).all()
    assert len(model.history["loss"]) == 6


@pytest.mark.parametrize("loss", [TREE, BOTH])
def test_tree_takes_no_new_words(loss, rng):
    ids, vocabulary, _ = planted(rng, sentences=50)
    model = small(loss=loss).fit(ids, vocabulary=vocabulary, **QUIET)
    with pytest.raises(ValueError, match=f"loss='{loss}' cannot take 1 new words, its tree"):
        model.partial_fit([["new"] * 10], **QUIET)


def test_both_losses_have_rows_of_words_and_of_inner_nodes(rng, tmp_path):
    ids, vocabulary, _ = planted(rng, sentences=50)
    words = len(vocabulary)
    model = small(loss=BOTH, epochs=1).fit(ids, vocabulary=vocabulary, **QUIET)
    assert model.output_embeddings.shape == (2 * words - 1, 12)
    assert (model.output_embeddings != 0).any(axis=1).all()
    model.save(tmp_path / "model.npz")
    again = Word2Vec.load(tmp_path / "model.npz")
    np.testing.assert_array_equal(again.output_embeddings, model.output_embeddings)
    with pytest.raises(ValueError, match=f"negative=0 must be at least 1 with loss='{BOTH}'"):
        small(loss=BOTH, negative=0)


def test_rows_begin_on_cache_lines():
    for matrix in matrices.new(5, 3, 20, seed=1):
        assert matrix.ctypes.data % 64 == 0
        assert matrix.shape[1] == 32
        assert (matrix[:, 20:] == 0).all()


def test_diverged_training_says_so(rng):
    ids, vocabulary, _ = planted(rng, sentences=100)
    with pytest.raises(FloatingPointError, match=r"learning_rate=1e\+30 is too large"):
        small(learning_rate=1e30).fit(ids, vocabulary=vocabulary, **QUIET)


WHOLE_BASKETS = """
from pathlib import Path
import numpy as np
from fastkeras.word2vec import Vocabulary, Word2Vec
ids = np.tile(np.int32([0, 1, 2, -1, 3, 0, -1]), 500)
vocabulary = Vocabulary(["a", "b", "c", "d"], [1000, 500, 500, 500])
options = dict(sample=0, epochs=1, shrink_windows=False, min_count=1, engine="{engine}")
made = []
for window in (2, 100_000_000, 2**31 - 1):
    model = Word2Vec(8, window=window, num_threads=1, **options)
    made.append(model.fit(ids, vocabulary=vocabulary, progress=False).input_embeddings)
    Word2Vec(8, window=window, num_threads=2, deterministic=True, **options).fit(
        ids, vocabulary=vocabulary, progress=False
    )
np.testing.assert_array_equal(made[0], made[1])
np.testing.assert_array_equal(made[0], made[2])
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
assert int(peak) < 400 << 10, peak  # KiB
"""


@pytest.mark.parametrize("engine", ["native", "numba"])
def test_a_window_may_be_the_whole_basket(engine):
    script = WHOLE_BASKETS.replace("{engine}", engine)
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["native", "numba", "reference"])
def test_an_epoch_without_predictions_is_told(engine):
    few = [["human", "interface"], ["survey", "user", "computer"], ["trees", "graph"]] * 3
    options = {"min_count": 1, "engine": engine, "vector_size": 8, "num_threads": 1}
    with pytest.warns(RuntimeWarning, match=r"sample=0.0001 left \d of 21 words.*sample=0") as told:
        Word2Vec(sample=1e-4, **options).fit(few, **QUIET)
    assert len(told) == 1 and told[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="made 0 predictions: 30 words have few others"):
        Word2Vec(sample=0, **options).fit([["a"], ["b"]] * 15, **QUIET)
    with pytest.warns(RuntimeWarning, match="made 2 predictions: 32 words have few others"):
        Word2Vec(sample=0, epochs=1, **options).fit([["a"], ["b"]] * 15 + [["a", "b"]], **QUIET)
    Word2Vec(sample=0, **options).fit(few, **QUIET)
