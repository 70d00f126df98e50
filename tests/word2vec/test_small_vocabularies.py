"""Items, nodes and small texts: few different words, and orders that mean nothing."""

import numpy as np
import pytest

from fastkeras.word2vec import Vocabulary, Word2Vec
from fastkeras.word2vec.training import settings

QUIET = {"progress": False}


def test_items_are_not_thinned_out():
    """A walk on a ring visits all nodes equally often; warnings, which are errors, tell of loss."""
    rng = np.random.default_rng(0)
    starts, steps = rng.integers(0, 24, (400, 1)), rng.choice([-1, 1], (400, 30))
    walks = (starts + steps.cumsum(1)) % 24
    model = Word2Vec(16, 2, num_threads=1, epochs=5, min_count=1, learning_rate=0.05)
    vectors = model.fit([[str(node) for node in walk] for walk in walks], **QUIET).vectors
    for node in range(24):
        near = {int(other) for other, _ in vectors.most_similar(str(node), topn=4)}
        assert near <= {(node + step) % 24 for step in (-4, -3, -2, -1, 1, 2, 3, 4)}, node


@pytest.mark.parametrize(
    ("given", "words", "expected"),
    [(None, 24, 10 / 24), (None, 20_000, 5e-4), (None, 100_000, 1e-4), (None, 10**6, 1e-4),
     (0, 24, 0), (1e-3, 24, 1e-3)],
)  # fmt: skip
def test_sample(given, words, expected):
    assert settings.sample_of(given, words) == pytest.approx(expected)


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_no_window_is_the_whole_sentence(objective, rng, tmp_path):
    words = Vocabulary([f"w{i}" for i in range(30)], [9] * 30)
    sentences = [rng.integers(0, 30, length) for length in (1, 2, 40, 7)]
    ids = np.concatenate([np.append(s, -1) for s in sentences]).astype(np.int32)
    common = {"vector_size": 4, "num_threads": 1, "sample": 0, "objective": objective, "epochs": 2}
    whole = Word2Vec(window=None, **common).fit(ids, vocabulary=words, **QUIET)
    wide = Word2Vec(window=39, shrink_windows=False, **common)
    wide.fit(ids, vocabulary=words, **QUIET)
    np.testing.assert_array_equal(whole.input_embeddings, wide.input_embeddings)
    whole.save(tmp_path / "model")
    assert Word2Vec.load(tmp_path / "model").config["window"] is None
