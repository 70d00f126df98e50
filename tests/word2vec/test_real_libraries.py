"""FAISS, spaCy, fastText and data sets of Hugging Face themselves; `make test-slow`."""

import copy
import pickle

import numpy as np
import pytest

from fastkeras.word2vec import Vectors, Word2Vec, fasttext
from fastkeras.word2vec.corpus import Corpus
from fastkeras.word2vec.fasttext.quantized import QuantizedRows
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.vectors.approximate import ApproximateVectors
from fastkeras.word2vec.vectors.spacy_vectors import from_spacy
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors
from word2vec.fasttext_itself import trained

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of these libraries
]

RNG = np.random.default_rng(5)
WORDS = [f"word{i}" for i in range(500)]
MATRIX = (RNG.normal(size=(500, 20)) * RNG.uniform(0.1, 9, (500, 1))).astype("f4")
MATRIX[7] = 0


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="FAISS is not installed")


@pytest.fixture
def vectors():
    return Vectors(WORDS, MATRIX)


@pytest.fixture
def graph(vectors, faiss):
    return ApproximateVectors(vectors)


def test_approximate_search(vectors, graph):
    excluded = [[i, 3] for i in range(60)]
    rows, cosines = graph.nearest(MATRIX[:60], 10, excluded)
    expected, _ = vectors.nearest(MATRIX[:60], 10, excluded)
    some = np.arange(60) != 7
    recall = np.mean(
        [len({*a} & {*b}) / 10 for a, b in zip(rows[some], expected[some], strict=True)]
    )
    assert recall > 0.95
    assert (np.diff(cosines[some]) <= 0).all()
    for query in np.flatnonzero(some):
        assert not {query, 3} & {*rows[query]}
    found = dict(graph.most_similar("word1", topn=5))
    for word, cosine in found.items():
        assert cosine == pytest.approx(vectors.similarity("word1", word), abs=1e-5)
    assert graph.most_similar("word1", restrict_vocab=50) == vectors.most_similar(
        "word1", restrict_vocab=50
    )
    for call in (
        lambda: graph.add_vectors(["a"], MATRIX[:1]),
        lambda: graph.nearest(MATRIX[0]),
        lambda: ApproximateVectors(vectors, neighbors=1),
    ):
        with pytest.raises(ValueError, match=r"the index is of|queries has shape|neighbors=1"):
            call()
    for made in copy.deepcopy(graph), pickle.loads(pickle.dumps(graph)):
        assert made.most_similar("word1") == graph.most_similar("word1")


def test_an_index_in_a_file(tmp_path, vectors, graph, faiss):
    path = tmp_path / "index"
    graph.save_index(path)
    again = ApproximateVectors(vectors, index=path)
    assert again.most_similar("word1") == graph.most_similar("word1")
    small = ApproximateVectors(vectors.quantized(), index=path)
    assert small.most_similar(MATRIX[5], topn=1)[0][0] == "word5"
    with pytest.raises(ValueError, match="has 500 vectors of size 20, not 3 of 20"):
        ApproximateVectors(Vectors(WORDS[:3], MATRIX[:3]), index=path)
    others = {
        "turned": Vectors(WORDS, MATRIX[::-1].copy()),
        "of another training": Vectors(WORDS, RNG.normal(size=MATRIX.shape)),
    }
    for other in others.values():
        with pytest.raises(ValueError, match=r"is of other vectors: that of 'word0' \(row 0\)"):
            ApproximateVectors(other, index=path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no index of FAISS"):
        ApproximateVectors(vectors, index=path)


def test_an_index_of_another_kind_is_refused(tmp_path, vectors, faiss):
    rows = np.ascontiguousarray(MATRIX)
    for made in faiss.IndexFlatIP(20), faiss.IndexHNSWFlat(20, 8, faiss.METRIC_L2):
        made.add(rows)
        faiss.write_index(made, str(tmp_path / "index"))
        with pytest.raises(ValueError, match="it must be a graph of inner products"):
            ApproximateVectors(vectors, index=tmp_path / "index")
    made = faiss.IndexHNSWFlat(20, 8, faiss.METRIC_INNER_PRODUCT)
    made.add(rows)  # not of length 1, so that its products are no cosines
    faiss.write_index(made, str(tmp_path / "index"))
    with pytest.raises(ValueError, match="is of other vectors"):
        ApproximateVectors(vectors, index=tmp_path / "index")


def test_what_is_not_finite_gets_no_index(faiss):
    matrix = MATRIX.copy()
    matrix[3, 4] = np.nan
    with pytest.raises(ValueError, match="the vector of 'word3'"):
        ApproximateVectors(Vectors(WORDS, matrix))
    empty = ApproximateVectors(Vectors([], MATRIX[:0]))
    assert empty.most_similar(MATRIX[0]) == []


def test_words_of_subwords_are_indexed(faiss):
    words = [f"{kind}{i}" for kind in ("walk", "sleep") for i in range(200)]
    bags = bags_of(words, 5000)
    vectors = SubwordVectors(words, RNG.normal(size=(bags.num_rows, 10)).astype("f4"), bags, 5000)
    graph = ApproximateVectors(vectors)
    nearest = [graph.most_similar(word, topn=1)[0][0] for word in words[:50]]
    expected = [vectors.most_similar(word, topn=1)[0][0] for word in words[:50]]
    assert np.mean(np.array(nearest) == np.array(expected)) > 0.9
    with pytest.raises(KeyError):
        graph["walks"]


def test_a_pipeline_of_spacy(tmp_path):
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    nlp = spacy.blank("en")
    for word, vector in (("cat", [1, 2]), ("dog", [3, 4])):
        nlp.vocab.set_vector(word, np.float32(vector))
    nlp.to_disk(tmp_path / "pipeline")
    for source in nlp, tmp_path / "pipeline", tmp_path / "pipeline" / "vocab":
        vectors = from_spacy(source)
        np.testing.assert_array_equal(vectors[["cat", "dog"]], [[1, 2], [3, 4]])


def test_data_sets_of_hugging_face():
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    lines = ["the cat sat", "", None, "on the mat"]
    dataset = datasets.Dataset.from_dict({"text": lines, "label": [0, 1, 0, 1]})
    words = [["the", "cat", "sat"], ["on", "the", "mat"]]
    for source in dataset, dataset.to_iterable_dataset():
        corpus = Corpus(source, column="text")
        for _ in range(2):
            assert list(corpus) == words
        with pytest.raises(ValueError, match="column='body' is none of the columns of corpus"):
            Corpus(source, column="body")
    model = Word2Vec(vector_size=4, min_count=1, sample=0, epochs=1)
    assert "mat" in model.fit(Corpus(dataset, column="text"), progress=False).vectors


@pytest.fixture
def library():
    return pytest.importorskip("fasttext", reason="fastText is not installed")


@pytest.fixture
def text(tmp_path):
    """A text of more words than a code book has entries, with labels in a second file."""
    lines = [" ".join(f"w{i}" for i in RNG.integers(400, size=12)) for _ in range(600)]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    labelled = (f"__label__{i % 3} {line}\n" for i, line in enumerate(lines))
    (tmp_path / "labelled").write_text("".join(labelled))
    return tmp_path


@pytest.mark.parametrize("maxn", [0, 4])
@pytest.mark.parametrize("qnorm", [False, True])
def test_quantized_models_are_read_as_fasttext_reads_them(text, library, qnorm, maxn):
    options = {"dim": 10, "minCount": 1, "minn": 2 if maxn else 0, "maxn": maxn, "bucket": 500}
    for more in {}, {"cutoff": 450, "retrain": False}:
        path = str(text / "model.ftz")
        model = trained(library.train_supervised, str(text / "labelled"), **options)
        model.quantize(input=str(text / "labelled"), qnorm=qnorm, **more)
        model.save_model(path)
        vectors = fasttext.load_vectors(path, supervised=True)
        words = [word for word in model.get_words() if word in vectors]
        assert len(words) > 200
        for word in words[:50]:
            np.testing.assert_allclose(
                vectors[word], model.get_word_vector(word), rtol=1e-5, atol=1e-6
            )
        if maxn:
            assert isinstance(vectors.bucket_matrix, QuantizedRows)


@pytest.mark.parametrize("more", [{}, {"subwords": True, "buckets": 300}, {"objective": "cbow"}])
def test_fasttext_reads_what_we_write(text, library, more):
    options = {"vector_size": 10, "min_count": 1, "epochs": 1, "sample": 0, "num_threads": 1}
    model = Word2Vec(**options, **more).fit(str(text / "text"), progress=False)
    path = str(text / "model.bin")
    fasttext.save(model, path)
    theirs = library.load_model(path)
    assert theirs.get_words() == model.vectors.words
    assert theirs.get_words(include_freq=True)[1].tolist() == model.vocabulary.counts.tolist()
    for word in [*model.vectors.words[:50], *(["w4000"] if "subwords" in more else [])]:
        ours = Vectors.load(path)[word]
        np.testing.assert_allclose(theirs.get_word_vector(word), ours, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(theirs.get_output_matrix(), model.output_embeddings)


@pytest.mark.parametrize("model", ["skipgram", "cbow"])
def test_what_fasttext_writes_is_trained_further(text, library, model):
    options = {"dim": 10, "minCount": 1, "bucket": 300}
    theirs = trained(library.train_unsupervised, str(text / "text"), model=model, **options)
    path = str(text / "model.bin")
    theirs.save_model(path)
    vectors = Vectors.load(path)
    for word in (*theirs.get_words()[:50], "w4000"):
        np.testing.assert_allclose(
            vectors[word], theirs.get_word_vector(word), rtol=1e-5, atol=1e-7
        )
    again = fasttext.load_model(path)
    assert again.config["objective"] == model and again.config["window"] == 5
    again.partial_fit(str(text / "text"), progress=False)
    assert np.isfinite(again.vectors.matrix).all()
