"""Training as gensim does it, what gensim has saved, and the vectors of spaCy's pipelines."""

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from accuracy import assert_as_accurate_as_reference
from fastkeras.word2vec import Vectors, Word2Vec
from fastkeras.word2vec._engines import reference
from fastkeras.word2vec.corpus import encode
from fastkeras.word2vec.training import parts, sampling
from fastkeras.word2vec.training.matrices import draw
from fastkeras.word2vec.training.settings import Schedule
from fastkeras.word2vec.vectors.gensim_vectors import from_gensim, load_gensim, to_gensim
from fastkeras.word2vec.vectors.spacy_vectors import from_spacy
from fastkeras.word2vec.vocabulary import build

SENTENCES = [["the", "cat", "sat"], ["the", "dog", "sat"]] * 5


@pytest.fixture
def gensim():
    models = pytest.importorskip("gensim.models", reason="gensim is not installed")
    return models


def test_the_hierarchical_softmax_of_one_tree_is_that_of_gensim(gensim, monkeypatch):
    """From the same vectors, with the table of 1,000 places from which gensim reads its sigmoid."""

    def by_table(x, rows, signs, *_):
        place = (x + 6) * 83
        assert 0 < place < 1000
        # So far from the next entry, which is 0.003 away, that rounding reads the same one.
        assert x.dtype == np.float32 or 1e-4 < place % 1 < 1 - 1e-4
        sigmoid = 1 / (1 + np.exp(-6 * (2 * int(place) / 1000 - 1)))
        return 0.0, x.dtype.type((signs < 0) - sigmoid)

    monkeypatch.setattr(reference, "loss_and_errors", by_table)
    ids = np.minimum(np.random.default_rng(0).geometric(0.15, (8, 6)), 14)
    sentences = [[f"w{i}" for i in line] for line in ids.tolist()]
    common = {"vector_size": 8, "window": 3, "sample": 0, "min_count": 1, "shrink_windows": False}
    model = Word2Vec(loss="hierarchical_softmax", **common)
    parts.begin(model, build(sentences, 1))
    draw(model.output_embeddings, 2)  # not zeros, whose logits are where an entry ends
    words, tables, rate = model.vocabulary.words, parts.tables_of(model), 0.5
    of_pass = tables, model._settings, sampling.key_of(1, 0), Schedule(rate, 0.0)
    encoded = encode(sentences, model.vocabulary)

    def ours(dtype):
        matrices = [matrix.astype(dtype) for matrix in model._matrices]
        reference.train(encoded, 0, len(encoded), *matrices, *of_pass)
        return matrices[0][:, :8]

    theirs = gensim.Word2Vec(sg=1, hs=1, negative=0, workers=1, epochs=1, alpha=rate, **common)
    theirs.build_vocab(sentences)
    for row, word in enumerate(words):
        at = theirs.wv.key_to_index[word]
        path = slice(tables.path_starts[row], tables.path_starts[row + 1])
        theirs.wv.vectors[at] = model.input_embeddings[row]
        theirs.wv.expandos["point"][at] = tables.path_nodes[path].astype(np.uint32)
        theirs.wv.expandos["code"][at] = (tables.path_signs[path] > 0).astype(np.uint8)
    theirs.syn1[: len(words) - 1] = model.output_embeddings
    theirs.train(sentences, total_examples=len(sentences), epochs=1, end_alpha=rate)
    exact = ours("float64")
    assert np.abs(exact - model.input_embeddings).max() > 0.1
    windows = reference.windows(encoded, 0, len(encoded), *of_pass[:3])
    pairs = sum(len(contexts) for _, _, contexts in windows)
    scale = np.abs(exact).max()
    found = theirs.wv[words]
    assert_as_accurate_as_reference(found, exact, ours("float32"), scale, steps=pairs)


def test_what_gensim_has_saved(tmp_path, gensim):
    options = {"vector_size": 6, "min_count": 1, "workers": 1, "epochs": 1}
    path = tmp_path / "saved"
    for kind in gensim.Word2Vec, gensim.FastText, gensim.KeyedVectors:
        if kind is gensim.KeyedVectors:
            model = wv = gensim.Word2Vec(SENTENCES, **options).wv
        else:
            model = kind(SENTENCES, **options, **({"bucket": 90} if "Fast" in str(kind) else {}))
            wv = model.wv
        model.save(str(path))
        vectors = load_gensim(path)
        assert vectors.words == wv.index_to_key
        np.testing.assert_allclose(vectors.matrix, wv.vectors, rtol=1e-5)
        assert vectors.counts.tolist() == [
            wv.get_vecattr(word, "count") for word in wv.index_to_key
        ]
        with pytest.raises(ValueError, match=r"is read by gensim: .*load_gensim"):
            Vectors.load(path)
        again = from_gensim(to_gensim(vectors))
        np.testing.assert_array_equal(again.counts, vectors.counts)


def test_what_gensim_has_not_saved(tmp_path, gensim, monkeypatch):
    path = tmp_path / "saved"
    path.write_bytes(b"no pickle")
    with pytest.raises(ValueError, match="is no file of gensim's `save`"):
        load_gensim(path)
    gensim.phrases.Phrases(SENTENCES).save(str(path))
    with pytest.raises(ValueError, match="holds a Phrases of gensim, which has no vectors"):
        load_gensim(path)
    path.write_bytes(pickle.dumps(3))
    with pytest.raises(ValueError, match=r"holds a int|is no file of gensim"):
        load_gensim(path)
    monkeypatch.setitem(sys.modules, "gensim.utils", None)
    with pytest.raises(ImportError, match="pip install gensim"):
        load_gensim(path)


def fake_nlp(**changes):
    table = {"data": np.arange(6, dtype="f4").reshape(3, 2), "mode": "default"}
    table["key2row"] = {11: 2, 12: 0, 13: 2, 14: -1}
    strings = {11: "sea", 12: "cat", 13: "Sea", 14: "none"}
    return SimpleNamespace(
        vocab=SimpleNamespace(vectors=SimpleNamespace(**{**table, **changes}), strings=strings)
    )


def test_spacy():
    nlp = fake_nlp()
    for source in nlp, nlp.vocab:
        vectors = from_spacy(source)
        assert vectors.words == ["cat", "sea", "Sea"]
        np.testing.assert_array_equal(vectors.matrix, [[0, 1], [4, 5], [4, 5]])
    with pytest.raises(ValueError, match="of the mode floret"):
        from_spacy(fake_nlp(mode="floret"))
    with pytest.raises(ValueError, match="no vectors of words"):
        from_spacy(fake_nlp(key2row={}))
    with pytest.raises(ValueError, match="source is a int; it must be a pipeline"):
        from_spacy(3)


def test_spacy_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match="source='en_core_web_md' is read by spaCy"):
        from_spacy("en_core_web_md")
