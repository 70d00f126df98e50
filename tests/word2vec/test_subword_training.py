"""Training with subwords: unknown words are near their family; models can be resumed and grown."""

import numpy as np
import pytest

from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.subwords import bags_of, ngrams
from fastkeras.word2vec.training import loop as training
from fastkeras.word2vec.training.settings import LOSSES
from fastkeras.word2vec.vectors.gensim_vectors import from_gensim, to_gensim
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors

QUIET = {"progress": False}
STEMS = ("balom", "ketir", "dusag", "nofel", "parud", "gisov")
ENDINGS = ("", "s", "ed", "ing", "er", "en")
COMPANIONS = ("hhh", "jjj", "lll", "mmm", "xxx", "zzz")  # of the stems: no common n-grams
UNSEEN = tuple(stem + ending for stem, ending in zip(STEMS, ENDINGS, strict=True))


@pytest.fixture(scope="module")
def sentences():
    """Each is about one stem, in all its forms but one, and its companion."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(600):
        topic = rng.integers(len(STEMS))
        forms = [STEMS[topic] + ending for ending in ENDINGS]
        forms.remove(UNSEEN[topic])
        found.append(rng.choice([*forms, COMPANIONS[topic]], 12).tolist())
    return found


def small(**more):
    common = {"vector_size": 12, "sample": 0, "window": 3, "num_threads": 1, "epochs": 4}
    return Word2Vec(**{**common, "subwords": True, **more})


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "form",
    [
        {"objective": "skipgram"},
        {"objective": "skipgram", "shared_negatives": None},
        {"objective": "cbow"},
        {"objective": "skipgram", "subword_gradient": "fasttext"},
        {"objective": "cbow", "subword_gradient": "fasttext", "cbow_gradient": "word2vec"},
    ],
)
def test_unseen_forms_are_where_their_family_is(form, loss, sentences):
    model = small(loss=loss, **form).fit(sentences, **QUIET)
    vectors = model.vectors
    assert len(vectors) == len(STEMS) * len(ENDINGS)
    for topic, word in enumerate(UNSEEN):
        assert word not in vectors
        ((nearest, cosine),) = vectors.most_similar(word, topn=1)
        assert nearest.startswith(STEMS[topic]) or nearest == COMPANIONS[topic]
        assert cosine > 0.9
        similarities = [vectors.similarity(word, companion) for companion in COMPANIONS]
        assert np.argmax(similarities) == topic


def test_vectors_are_the_means_of_what_is_trained(sentences):
    model = small().fit(sentences, **QUIET)
    words, inputs = model.vocabulary.words, model.input_embeddings
    bags = bags_of(words)
    assert inputs.shape == (bags.num_rows, 12)
    assert model.output_embeddings.shape == (len(words), 12)
    vectors = model.vectors
    for i, word in enumerate(words):
        bag = bags.rows[bags.starts[i] : bags.starts[i + 1]]
        np.testing.assert_allclose(vectors[word], inputs[bag].mean(0), rtol=1e-5, atol=1e-7)
    assert (np.linalg.norm(vectors.matrix, axis=1) > 0.1).all()


@pytest.mark.parametrize("engine", ["native", "numba", "reference"])
def test_engines_give_the_same_model(engine, sentences):
    first, other = (
        small(epochs=1, engine=name).fit(sentences[:100], **QUIET) for name in ("native", engine)
    )
    np.testing.assert_allclose(other.input_embeddings, first.input_embeddings, atol=1e-5)
    np.testing.assert_allclose(other.history["loss"], first.history["loss"], rtol=1e-6)


@pytest.mark.parametrize("objective", ["skipgram", "cbow"])
def test_deterministic_models_are_equal_on_any_number_of_threads(objective, sentences):
    one, three = (
        small(deterministic=True, num_threads=n, objective=objective, learning_rate=0.05).fit(
            sentences, **QUIET
        )
        for n in (1, 3)
    )
    np.testing.assert_array_equal(one.input_embeddings, three.input_embeddings)
    np.testing.assert_array_equal(one.vectors["unseen balomed"], three.vectors["unseen balomed"])


def test_stopped_training_resumes_to_the_same_bits(sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "BLOCK_SECONDS", 0)
    whole = small().fit(sentences, **QUIET)
    stopped = small().fit(sentences, callbacks=[lambda s: s.progress > 0.5], **QUIET)
    stopped.save(tmp_path / "model")
    loaded = Word2Vec.load(tmp_path / "model")
    for word in (*UNSEEN, "balomen"):
        np.testing.assert_array_equal(loaded.vectors[word], stopped.vectors[word])
    loaded.resume(sentences, **QUIET)
    np.testing.assert_array_equal(loaded.input_embeddings, whole.input_embeddings)
    np.testing.assert_array_equal(loaded.output_embeddings, whole.output_embeddings)


def test_new_words_bring_new_ngrams_and_leave_the_others(sentences):
    model = small(learning_rate=0.1).fit(sentences, **QUIET)
    before, buckets = model.vectors, len(model.input_embeddings) - len(model.vocabulary.words)
    model.partial_fit([["balomful", "hhh"] * 200], **QUIET)
    after = model.vectors
    new = set(ngrams("balomful")) - {n for word in before for n in ngrams(word)}
    assert len(model.input_embeddings) == len(after) + buckets + len(new)
    assert "balomful" in after and "balomful" not in before
    assert after.words[0] in ("balomful", "hhh")  # the most frequent
    touched = [word for word in before if word == "hhh" or word.startswith("balom")]
    for word in before:
        moved = (after[word] != before[word]).any()
        assert moved == (word in touched), word
    assert after.similarity("balomful", "hhh") > 0.9


def test_default_rates_make_up_for_smaller_gradients():
    rates = {
        gradient: [
            small(subword_gradient=gradient, **form).config["learning_rate"]
            for form in (
                {},
                {"objective": "cbow"},
                {"objective": "cbow", "cbow_gradient": "word2vec"},
                {"deterministic": True},
            )
        ]
        for gradient in ("exact", "fasttext")
    }
    assert rates == {"exact": [0.18, 0.5, 0.2, 0.1], "fasttext": [0.05, 0.25, 0.05, 0.05]}


def vectors_of(words, min_n, max_n, buckets=2_000_000):
    bags = bags_of(words, buckets, min_n, max_n)
    matrix = np.random.default_rng(1).standard_normal((bags.num_rows, 3))
    return SubwordVectors(words, matrix, bags, buckets, min_n, max_n), bags, matrix


def test_unknown_word_is_the_mean_of_its_known_ngrams():
    vectors, bags, matrix = vectors_of(["walking", "talked"], min_n=3, max_n=4)
    known = [*ngrams("walking", 3, 4), *ngrams("talked", 3, 4)]
    rows = {ngram: bags.rows[[*range(1, bags.starts[1]), *range(bags.starts[1] + 1, len(bags.rows))]
            [known.index(ngram)]] for ngram in known}  # fmt: skip
    shared = [ngram for ngram in ngrams("walked", 3, 4) if ngram in rows]
    assert shared == [
        "<wa",
        "<wal",
        "wal",
        "walk",
        "alk",
        "alke",
        "lke",
        "lked",
        "ked",
        "ked>",
        "ed>",
    ]
    expected = np.mean([matrix[rows[ngram]] for ngram in shared], axis=0)
    np.testing.assert_allclose(vectors["walked"], expected, rtol=1e-12)
    both = vectors[["walked", "walking"]]
    np.testing.assert_array_equal(both, [vectors["walked"], vectors["walking"]])
    assert vectors[[]].shape == (0, 3)


def test_word_without_a_known_ngram_is_an_error():
    vectors, _, _ = vectors_of(["walking", "talked"], min_n=3, max_n=6)
    with pytest.raises(KeyError, match="'qqq' is none of the 2 words; nor has it an n-gram"):
        vectors["qqq"]
    assert {word for word, _ in vectors.most_similar(["walked", "walkers"])} == {*vectors.words}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subwords": (3, 6)}, r"subwords=\(3, 6\) must be True or False"),
        ({"subwords": False, "min_n": 2}, "min_n=2 changes nothing without subwords=True"),
        ({"subwords": False, "buckets": 9}, "buckets=9 changes nothing without subwords=True"),
        ({"min_n": 7}, "min_n=7, max_n=6: it must be 1 <= min_n <= max_n"),
        ({"min_n": 0}, "min_n=0 must be at least 1"),
        ({"buckets": 2**31}, "buckets=2147483648 must be from 1 to 2147483647"),
        (
            {"subword_gradient": "half"},
            "subword_gradient='half' must be one of 'exact', 'fasttext'",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small(**arguments)


def test_gensim_has_the_same_vectors():
    gensim = pytest.importorskip("gensim", reason="gensim is not installed")
    vectors, _, _ = vectors_of(["walking", "talked"], buckets=5000, min_n=3, max_n=5)
    keyed = to_gensim(vectors)
    assert isinstance(keyed, gensim.models.fasttext.FastTextKeyedVectors)
    keyed.adjust_vectors()  # gensim computes the means itself
    np.testing.assert_allclose(keyed.vectors, vectors.matrix, rtol=1e-6)
    theirs, ours = keyed["walked"], vectors["walked"]
    cosine = theirs @ ours / np.linalg.norm(theirs) / np.linalg.norm(ours)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    back = from_gensim(keyed)
    assert back.words == vectors.words
    for word in ("walked", "walking", "talk"):
        np.testing.assert_allclose(back[word], vectors[word], rtol=1e-6)
