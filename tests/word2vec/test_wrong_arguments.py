"""Public functions name an argument that they cannot take, whatever it is."""

import numpy as np
import pytest

from fastkeras.word2vec import (
    Doc2Vec,
    Vectors,
    Vocabulary,
    Word2Vec,
    alignment,
    evaluation,
    fasttext,
    page,
    phrases,
    projection,
    subwords,
)
from fastkeras.word2vec.corpus import Corpus, encode
from fastkeras.word2vec.vectors import files, unit_rows
from fastkeras.word2vec.vectors.eight_bits import EightBitRows
from fastkeras.word2vec.vectors.gensim_vectors import from_gensim, load_gensim, to_gensim
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors
from fastkeras.word2vec.vocabulary import build

WRONG = {
    "none": None,
    "int": 3,
    "float": 2.5,
    "nan": float("nan"),
    "bytes": b"cat",
    "text": "zzz",
    "empty": [],
    "nones": [None],
    "dict": {},
    "words": ["cat", "dog"],
    "array": np.full((2, 3, 1), np.nan),
}
WORDS, COUNTS = ["cat", "dog", "sea", "mat"], [9, 5, 4, 2]
MATRIX = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
SENTENCES = [["the", "cat", "sat"], ["the", "dog", "sat"]] * 6
SUBJECTS = ["vectors", "models", "text", "files", "other_libraries", "layers"]
OF_LIMIT = {"topn": "int", "restrict_vocab": "none int"}
OF_NGRAMS = {"buckets": "int", "min_n": "int", "max_n": "int"}


@pytest.fixture(scope="module")
def models():
    options = {"vector_size": 8, "min_count": 1, "epochs": 1, "num_threads": 1}
    more = {"tree": {"loss": "hierarchical_softmax"}, "bags": {"subwords": True, "buckets": 50}}
    made = {
        name: Word2Vec(**options, **of_model).fit(SENTENCES, progress=False)
        for name, of_model in {"plain": {}, **more}.items()
    }
    return made | {"documents": Doc2Vec(**options).fit(SENTENCES, progress=False)}


def calls_of_vectors():
    """Yield (function, good arguments, {argument: which wrong values it may be})."""
    vectors, words = Vectors(WORDS, MATRIX.copy(), COUNTS), {"words": "empty dict words"}
    pair, terms = {"a": "cat", "b": "dog"}, {"positive": ["cat"], "negative": ["dog"]}
    limits, lists = {"topn": 2, "restrict_vocab": 3}, dict.fromkeys(terms, "empty dict words")
    yield Vectors, {"words": WORDS, "matrix": MATRIX, "counts": COUNTS}, {"counts": "none"}
    yield vectors.__getitem__, {"words": "cat"}, words
    yield vectors.row, {"word": "cat"}, {}
    yield vectors.vectors_for_all, {"words": WORDS, "allow_inference": True}, words
    new = {"words": ["x"], "vectors": MATRIX[:1], "counts": [1], "replace": False}
    yield Vectors(WORDS, MATRIX).add_vectors, new, {"words": "text", "counts": "none"}
    yield vectors.similarity, pair, {}
    yield vectors.distance, pair, {}
    yield vectors.closer_than, pair, {}
    yield vectors.rank, pair, {}
    yield vectors.relative_cosine_similarity, {**pair, "topn": 2}, OF_LIMIT
    yield vectors.analogy, {**pair, "c": "sea", "topn": 2}, OF_LIMIT
    others = {"word": "cat", "others": ["dog"]}
    yield vectors.distances, others, {"others": "none empty dict words"}
    yield vectors.most_similar, {**terms, **limits}, OF_LIMIT | lists
    yield vectors.most_similar_cosmul, {**terms, **limits}, OF_LIMIT | lists
    mean = dict.fromkeys(("pre_normalize", "post_normalize", "ignore_missing"), True)
    mean |= {"words": ["cat", "dog"], "weights": [1, 2]}
    yield vectors.mean_vector, mean, {"words": "words", "weights": "none"}
    of_lists = {"words": "words", "others": "words"}
    yield vectors.n_similarity, {"words": ["cat"], "others": ["dog"]}, of_lists
    yield vectors.doesnt_match, {"words": ["cat", "dog"]}, {"words": "words"}
    queries = {"queries": MATRIX[:2], "excluded": [[0], [1]], **limits}
    yield vectors.nearest, queries, OF_LIMIT | {"excluded": "none"}
    yield unit_rows, {"matrix": MATRIX}, {"matrix": "empty array"}
    of_spaces = {"source": vectors, "target": vectors, "pairs": [("cat", "dog")]}
    yield alignment.align, {**of_spaces, "orthogonal": True}, {"pairs": "none"}
    yield (
        projection.principal_components,
        {"matrix": MATRIX, "dimensions": 2},
        {"dimensions": "int"},
    )
    yield EightBitRows.of, {"matrix": MATRIX}, {}
    yield EightBitRows, {"rows": EightBitRows.of(MATRIX).rows}, {}
    bags = subwords.bags_of(WORDS, 9)
    matrix = np.ones((bags.num_rows, 3), np.float32)
    of_bags = {"words": WORDS, "matrix": matrix, "bags": bags, "counts": COUNTS}
    of_bags |= {"num_buckets": 9, "min_n": 3, "max_n": 6}
    allowed = OF_NGRAMS | {"num_buckets": "int", "counts": "none"}
    yield SubwordVectors, of_bags, allowed


def calls_of_models(models):
    plain, limits = models["plain"], {"topn": 2}
    others = {"context_words": ["the", "cat"], **limits}
    yield plain.predict_output_word, others, OF_LIMIT | {"context_words": "words"}
    yield models["tree"].score, {"sentences": SENTENCES}, {"sentences": "empty dict words"}
    bags = models["bags"].vectors
    known = {"words": "empty dict words text"}
    yield bags.__getitem__, {"words": "cats"}, known
    yield bags.vectors_for_all, {"words": ["cats"]}, {"words": "empty dict words"}
    of_infer = {"documents": SENTENCES, "epochs": 1, "learning_rate": 0.1}
    allowed = {"documents": "empty words dict", "epochs": "none int"}
    yield models["documents"].infer, of_infer, allowed | {"learning_rate": "none int float"}
    of_fit = {"corpus": SENTENCES, "vocabulary": plain.vocabulary}
    for kind in Word2Vec, Doc2Vec:
        fit = kind(vector_size=8, min_count=1, epochs=1).fit
        yield fit, {**of_fit, "progress": False}, {"corpus": "empty words", "vocabulary": "none"}


def calls_of_text():
    yield Vocabulary, {"words": WORDS, "counts": COUNTS}, {}
    of_build = {"corpus": SENTENCES, "min_count": 1, "max_vocab": 9, "num_threads": 1}
    of_build |= {"progress": None, "table_size": 99, "trim_rule": None}
    none = {"progress": "none", "trim_rule": "none", "max_vocab": "none int"}
    ints = dict.fromkeys(("min_count", "num_threads", "table_size"), "int")
    yield build, of_build, none | ints | {"corpus": "words"}
    yield Corpus, {"source": SENTENCES, "errors": "strict"}, {"source": "empty words"}
    of_encode = {"corpus": SENTENCES, "vocabulary": Vocabulary(WORDS, COUNTS), "num_threads": 1}
    yield encode, of_encode, {"corpus": "empty words", "num_threads": "int"}
    scores = {"scores": {("a", "b"): 1.0}, "delimiter": "_"}
    yield phrases.Phrases, scores, {"scores": "dict", "delimiter": "text"}
    yield phrases.Phrases({("a", "b"): 1.0}).join, {"words": WORDS}, {"words": "empty dict words"}
    of_find = {"corpus": SENTENCES, "scoring": "npmi", "threshold": 0.5, "min_count": 1}
    of_find |= {"delimiter": "_", "num_threads": 1, "table_size": 99, "connector_words": ["the"]}
    allowed = {"corpus": "words", "threshold": "none int float", "delimiter": "text"}
    yield phrases.find_phrases, of_find, allowed | ints | {"connector_words": "empty dict words"}
    of_ngrams = {"buckets": 9, "min_n": 3, "max_n": 6}
    words = {"words": "empty dict words"}
    yield subwords.ngrams, {"word": "cat", "min_n": 3, "max_n": 6}, OF_NGRAMS | {"word": "text"}
    yield subwords.ngram_ids, {"words": WORDS, **of_ngrams}, OF_NGRAMS | words
    yield subwords.bags_of, {"words": WORDS, **of_ngrams}, OF_NGRAMS | words


def calls_of_files(folder, models):
    vectors, bags = Vectors(WORDS, MATRIX, COUNTS), models["bags"]
    path, limit = {"path": folder / "v.bin"}, {"limit": "none int"}
    vectors.save(folder / "v.bin")
    (folder / "pairs").write_text("cat dog 3\ncat sea 2\ndog sea 1\n")
    (folder / "questions").write_text(": a\ncat dog sea mat\n")
    fasttext.save(bags, folder / "f.bin")
    models["plain"].save(folder / "m.npz")
    models["documents"].save(folder / "d.npz")
    models["plain"].vocabulary.save(folder / "words")
    phrases.Phrases({("a", "b"): 1.0}).save(folder / "phrases")
    yield vectors.save, {"path": folder / "w.bin", "format": "binary"}, {"format": "none"}
    yield Vectors.load, {**path, "limit": 2, "errors": "strict"}, limit
    yield files.load, {**path, "limit": 2, "errors": "strict"}, limit
    of_save = {"words": WORDS, "matrix": MATRIX, "path": folder / "w.txt", "format": "text"}
    yield files.save, of_save, {"format": "none"}
    of_fasttext = {"path": folder / "f.bin", "errors": "strict"}
    more = {"supervised": False, "limit": 2}
    yield fasttext.load_vectors, of_fasttext | more, limit
    yield fasttext.load_model, of_fasttext | {"engine": None}, {"engine": "none"}
    yield fasttext.save, {"source": vectors, "path": folder / "g.bin"}, {}
    for kind, name in (Word2Vec, "m.npz"), (Doc2Vec, "d.npz"):
        yield kind.load, {"path": folder / name, "engine": None}, {"engine": "none"}
    yield models["plain"].save, {"path": folder / "n.npz"}, {}
    yield Vocabulary.load, {"path": folder / "words"}, {}
    yield models["plain"].vocabulary.save, {"path": folder / "words2"}, {}
    of_phrases = {"path": folder / "phrases", "delimiter": "_"}
    yield phrases.Phrases.load, of_phrases, {"delimiter": "text"}
    of_scores = {"vectors": vectors, "restrict_vocab": 9, "case_insensitive": True}
    of_scores |= {"count_unknown": True}
    yield evaluation.evaluate_word_pairs, {**of_scores, "path": folder / "pairs"}, OF_LIMIT
    yield evaluation.evaluate_analogies, {**of_scores, "path": folder / "questions"}, OF_LIMIT
    of_page = {"vectors": vectors, "path": folder / "page.html", "words": 3, "topn": 2}
    of_page |= {"layout": "pca", "title": "a"}
    yield page.write_page, of_page, OF_LIMIT | {"title": "text", "words": "int"}


def calls_of_other_libraries(folder):
    pytest.importorskip("gensim", reason="gensim is not installed")
    vectors = Vectors(WORDS, MATRIX)
    keyed = to_gensim(vectors)
    keyed.save(str(folder / "keyed"))
    yield to_gensim, {"vectors": vectors}, {}
    yield from_gensim, {"keyed": keyed}, {}
    yield load_gensim, {"path": folder / "keyed"}, {}


def calls_of_layers():
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    from fastkeras.layers import CBOW, SkipGram
    from fastkeras.word2vec import Windows, to_keras_embedding, vectors_of

    vectors, vocabulary = Vectors(WORDS, MATRIX), build(SENTENCES, 1)
    layer = to_keras_embedding(vectors)
    assert isinstance(layer, keras.Layer)
    of_layer = {"vectors": vectors, "trainable": False, "mask_zero": False, "num_oov_indices": 0}
    yield to_keras_embedding, of_layer, {"num_oov_indices": "int"}
    yield vectors_of, {"layer": layer, "words": WORDS}, {"words": "none"}
    of_windows = {"corpus": SENTENCES, "vocabulary": vocabulary, "objective": "cbow", "window": 2}
    of_windows |= {"sample": 0.0, "shrink_windows": True, "batch_size": 8, "shuffle": True}
    ints = dict.fromkeys(("window", "batch_size", "seed"), "int")
    yield Windows, {**of_windows, "seed": 1}, ints | {"sample": "int float"}
    flags = dict.fromkeys(("sampling_correction", "shared_negatives", "tied", "use_bias"), False)
    of_skip_gram = {"vocabulary": vocabulary, "negative": 5, "loss": "sampled_softmax", "seed": 1}
    of_skip_gram |= {"ns_exponent": 0.5, "engine": None}
    allowed = dict.fromkeys(("vocabulary", "negative"), "int") | {"ns_exponent": "int float"}
    allowed |= {"seed": "none int", "engine": "none"}
    yield SkipGram, of_skip_gram | flags, allowed
    yield CBOW, {"vocabulary": vocabulary, "combiner": "sum"}, {"vocabulary": "int"}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.filterwarnings("ignore:an epoch")  # of texts of two words
def test_wrong_values_are_refused_by_the_name_of_their_argument(subject, models, tmp_path):
    more = {"models": (models,), "files": (tmp_path, models), "other_libraries": (tmp_path,)}
    for function, good, allowed in globals()[f"calls_of_{subject}"](*more.get(subject, ())):
        function(**good)
        for name in good:
            for kind, wrong in WRONG.items():
                call = f"{function.__qualname__}({name}={wrong!r})"
                is_path = name in ("path", "documents") and kind == "text"
                if kind in allowed.get(name, "").split():
                    function(**{**good, name: wrong})
                elif not is_path:  # any string is a path
                    with pytest.raises((TypeError, ValueError, KeyError, OSError)) as raised:
                        function(**{**good, name: wrong})
                    _check_message(raised.value, name, wrong, call)


def _check_message(error, name, wrong, call):
    """It tells the argument, or the word that is not known, and comes from here."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    assert "fastkeras" in frame.tb_frame.f_code.co_filename, f"{call}: {error}"
    text = str(error)
    is_named = name in text or (call.startswith("Corpus") and "corpus" in text)
    is_unknown = isinstance(error, KeyError) and repr(wrong)[1:-1] in text
    assert is_named or is_unknown, f"{call}: {error}"
