"""Vectors of documents: what they learn, what stays as it is, and what is refused."""

import copy
import json
import pickle

import numpy as np
import pytest

from fastkeras.word2vec import Doc2Vec, Word2Vec
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.corpus import corpus as corpora
from fastkeras.word2vec.corpus.document_ids import document_ids
from fastkeras.word2vec.training import loop

QUIET = {"progress": False}
MODES = [
    {},
    {"neighbors": True},
    {"neighbors": True, "shared_negatives": None},
    {"neighbors": True, "objective": "cbow"},
    {"neighbors": True, "objective": "cbow", "cbow_gradient": "word2vec"},
    {"loss": "hierarchical_softmax"},
    {"loss": "hierarchical_softmax_and_negative_sampling"},
    {"loss": "sampled_softmax"},
]


def small(**more):
    options = {"vector_size": 12, "window": 3, "num_threads": 1, "min_count": 1, "epochs": 12}
    return Doc2Vec(**{**options, **more})


def texts(rng, topics=4, of_each=12, length=40):
    """Documents about one topic each, whose words no other topic has; and their names."""
    words = np.array([[f"t{topic}w{i}" for i in range(15)] for topic in range(topics)])
    corpus = [rng.choice(words[i % topics], length).tolist() for i in range(topics * of_each)]
    return corpus, [f"{i % topics}-{i}" for i in range(len(corpus))]


def share_of_topic(vectors):
    near = ((name, vectors.most_similar(name, topn=1)[0][0]) for name in vectors)
    return np.mean([name[0] == other[0] for name, other in near])


@pytest.mark.parametrize("mode", MODES)
def test_documents_of_a_topic_are_near(rng, mode):
    corpus, names = texts(rng)
    rate = 0.25 if mode.get("objective") == "cbow" and "cbow_gradient" not in mode else 0.1
    model = small(learning_rate=rate, epochs=20, **mode).fit(corpus, names, **QUIET)
    assert share_of_topic(model.document_vectors) > 0.95
    others, other_names = texts(rng, of_each=2)
    found = model.infer(others, epochs=40)
    for name, vector in zip(other_names, found, strict=True):
        assert model.document_vectors.most_similar(vector, topn=1)[0][0][0] == name[0]
    if mode.get("neighbors"):
        near = [(word, model.vectors.most_similar(word, topn=1)[0][0]) for word in model.vectors]
        assert np.mean([word[:2] == other[:2] for word, other in near]) > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_inference_changes_nothing_and_depends_on_the_document_alone(rng, mode):
    corpus, names = texts(rng, of_each=3)
    model = small(epochs=2, **mode).fit(corpus, names, **QUIET)
    before = [matrix.copy() for matrix in (*model._model._matrices, model._vectors)]
    asked = [corpus[0], ["never", "seen"], [], corpus[1], corpus[0] * 300]
    found = model.infer(asked)
    assert found.shape == (5, 12) and found.dtype == np.float32
    np.testing.assert_array_equal(found[1:3], 0)
    np.testing.assert_array_equal(found[3], model.infer([" ".join(corpus[1])])[0])
    np.testing.assert_array_equal(found, model.infer(asked))
    assert (found[0] != found[3]).any()
    assert model.infer([]).shape == (0, 12)
    for matrix, old in zip((*model._model._matrices, model._vectors), before, strict=True):
        np.testing.assert_array_equal(matrix, old)


def test_names(rng, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("a b c\n\nb c\nx\na c", "utf-8")
    model = small(min_count=2, sample=0).fit(path, **QUIET)
    assert model.documents == ["0", "1", "2", "3", "4"]
    names = ["first", "none", "first", "none", "last"]
    for corpus in (path, ["a b c", "", "b c", "x", "a c"], [[*"abc"], [], [*"bc"], ["x"], [*"ac"]]):
        again = small(min_count=2, sample=0).fit(corpus, **QUIET)
        np.testing.assert_array_equal(again._vectors, model._vectors)
        named = small(min_count=2, sample=0).fit(corpus, names, **QUIET)
        assert named.documents == ["first", "none", "last"]
        assert len(named.document_vectors) == 3


def test_stopped_training_resumes_to_the_same_bits(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "BLOCK_SECONDS", 0)
    corpus, names = texts(rng)
    whole = small(neighbors=True).fit(corpus, names, **QUIET)
    seen = []

    def stop(model):
        seen.append(model)
        return len(model.history["loss"]) == 5

    path = tmp_path / "model.npz"
    stopped = small(neighbors=True)
    stopped.fit(corpus, names, epoch_callbacks=[stop], checkpoint=path, **QUIET)
    assert seen == [stopped] * 5
    for model in (Doc2Vec.load(path), copy.deepcopy(stopped), pickle.loads(pickle.dumps(stopped))):
        np.testing.assert_array_equal(model._vectors, stopped._vectors)
        model.resume(corpus, names, **QUIET)
        np.testing.assert_array_equal(model._vectors, whole._vectors)
        np.testing.assert_array_equal(model.vectors.matrix, whole.vectors.matrix)
        np.testing.assert_array_equal(model.infer(corpus[:2]), whole.infer(corpus[:2]))
    with pytest.raises(ValueError, match="documents: there are 48"):
        stopped.resume(corpus, names[::-1], **QUIET)
    with pytest.raises(ValueError, match="positions"):
        stopped.resume([*corpus[:-1], [*corpus[-1], corpus[-1][0]]], names, **QUIET)
    words = Word2Vec.load(path)
    np.testing.assert_array_equal(words.vectors.matrix, stopped.vectors.matrix)


def test_deterministic(rng):
    corpus, names = texts(rng)
    models = [
        small(neighbors=True, deterministic=True, num_threads=threads).fit(corpus, names, **QUIET)
        for threads in (1, 2, 3)
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model._vectors, models[0]._vectors)


def test_files_of_others(rng, tmp_path):
    corpus, names = texts(rng, of_each=2)
    Word2Vec(4, min_count=1, epochs=1).fit(corpus, **QUIET).save(tmp_path / "words")
    with pytest.raises(ValueError, match="is not a Doc2Vec model"):
        Doc2Vec.load(tmp_path / "words")
    small().fit(corpus, names, **QUIET).save(tmp_path / "model")
    with np.load(tmp_path / "model") as file:
        members = dict(file)
    about = json.loads(members["about"].tobytes())

    def text(value):
        return np.frombuffer(json.dumps(value).encode(), np.uint8)

    for bad, message in (
        ({"documents": text(names[:-1])}, "a row for each of 7 different documents"),
        ({"documents": text([*names[:-1], names[0]])}, "different documents"),
        ({"documents": text([3] * len(names))}, "documents must be a list of strings"),
        ({"documents": text({})}, "documents must be a list of strings"),
        ({"document_embeddings": np.full((8, 12), np.nan, "f4")}, "document_embeddings has nan"),
        ({"document_embeddings": np.zeros((8, 11), "f4")}, r"has shape \(8, 11\)"),
        ({"document_embeddings": np.zeros((8, 12), "f8")}, "an array of float64"),
        ({"about": text({**about, "neighbors": "no"})}, "neighbors='no' must be True or False"),
    ):
        np.savez(tmp_path / "bad.npz", **{**members, **bad})
        with pytest.raises(ValueError, match=message):
            Doc2Vec.load(tmp_path / "bad.npz")


def test_errors(rng):
    for given, message in (
        ({"neighbors": 1}, "neighbors=1 must be True or False"),
        ({"subwords": True}, "subwords=True is not possible beside documents"),
        ({"engine": "numba"}, "numba.*documents"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"dm": 1}, "dm"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            Doc2Vec(**given)
    model = small()
    for call in (
        lambda: model.document_vectors,
        lambda: model.infer(["a"]),
        lambda: model.save("x"),
    ):
        with pytest.raises(ValueError, match="call fit first"):
            call()
    for documents, message in (
        (["a"], "documents has 1 names for 2 documents"),
        (["a", "b", "c"], "documents has 3 names for 2 documents"),
        (["a", 3], "documents"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            model.fit(["a b", "b a"], documents, **QUIET)
    assert model.documents is None
    with pytest.raises(TypeError, match="an array of ids"):
        model.fit(np.zeros(3, np.int32), **QUIET)
    model.fit(["a b", "b a"], **QUIET)
    for given, message in (
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": -1}, "learning_rate=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            model.infer(["a"], **given)


def test_the_door_of_the_kernels_checks_documents():
    from fastkeras import _core
    from fastkeras.word2vec.training import settings

    ids = np.array([0, 1, -1], np.int32)
    tables = settings.tables_of([3, 2], settings.Settings())
    checked = _core.Word2VecTables(*tables)
    good = {"documents": np.zeros(3, np.int32), "document_vectors": np.zeros((2, 16), np.float32)}
    matrix = np.zeros((2, 16), np.float32)

    def train(**more):
        return _core.word2vec_train(
            ids, 0, 3, matrix, np.zeros((2, 16), np.float32), checked, objective=0, loss=0,
            shared_negatives=False, exact_cbow=True, exact_subwords=True, shrink_windows=True,
            window=2, negative=3, key=5, learning_rate=0.1, learning_rate_slope=0.0, num_threads=1,
            deterministic=False, **more,
        )  # fmt: skip

    assert train(**good)[1] == 4 and train(**good, documents_alone=True)[1] == 2
    read_only = good["document_vectors"].copy()
    read_only.flags.writeable = False
    for bad, message in (
        ({"documents": None}, "must be given together"),
        ({"document_vectors": None}, "must be given together"),
        ({"documents": None, "document_vectors": None, "frozen": True}, "need documents"),
        ({"documents": np.zeros(2, np.int32)}, "documents must have 3 rows, got 2"),
        ({"documents": np.zeros(3, np.int64)}, "documents must have dtype int32"),
        ({"documents": np.array([0, 2, 0], np.int32)}, "documents must be below 2, got 2"),
        ({"documents": np.array([0, -1, 0], np.int32)}, "documents must be at least 0"),
        ({"document_vectors": np.zeros((2, 32), np.float32)}, "must have 16 columns, got 32"),
        ({"document_vectors": np.zeros((4, 16), np.float32)[::2]}, "contiguous"),
        ({"document_vectors": matrix}, "must not share memory"),
        ({"document_vectors": read_only}, "document_vectors must be writable"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**{**good, **bad})


def test_a_document_of_which_no_word_stays_has_no_vector(rng):
    corpus, names = texts(rng, of_each=3)
    model = small(sample=1e-15, epochs=1)
    with pytest.warns(RuntimeWarning, match="sample=1e-15 left 0 of"):
        model.fit(corpus, names, **QUIET)
    np.testing.assert_array_equal(model.infer(corpus[:3]), 0)


def test_inference_that_diverges_is_an_error(rng):
    corpus, names = texts(rng, of_each=3)
    model = small(epochs=2).fit(corpus, names, **QUIET)
    for rate in 1e20, 1e38:
        with pytest.raises(FloatingPointError, match=r"document 1: .* learning_rate=.* too large"):
            model.infer([[], corpus[0]], learning_rate=rate)


TEXTS = ["a b\n\nc a\n", "a b\n\nc a", "\n", "", "a", "\n\na\r\n \n", "x\ny\n\n", " a  b \n" * 40]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_documents_of_files_are_encoded_as_they_are_read(tmp_path, monkeypatch, text, size):
    monkeypatch.setattr(corpora, "BLOCK", size)
    (tmp_path / "text").write_bytes(text.encode())
    for source in [tmp_path / "text"], [tmp_path / "text"] * 2, text.split("\n") or [""]:
        corpus = Corpus(source)
        expected = [words for words in corpus.documents()]
        ids, numbers, count = document_ids(corpus, ["a", "b", "c"], 1)
        assert count == len(expected) and ids.dtype == numbers.dtype == np.int32
        known = [[*filter("abc".__contains__, words)] for words in expected]
        again = [[] for _ in expected]
        for id, number in zip(ids.tolist(), numbers.tolist(), strict=True):
            again[number].append("abc\n"[id])
        assert again == [[*words, "\n"] if words else [] for words in known]
        lists = Corpus([*expected, ["a"]])  # lists of words rather than strings
        assert document_ids(lists, ["a", "b", "c"], 1)[2] == count + 1
        np.testing.assert_array_equal(document_ids(lists, ["a", "b", "c"], 1)[0][:-2], ids)
