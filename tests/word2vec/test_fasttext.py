"""Models of fastText: read as it reads them, written so that others read them, refused by name."""

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest

from fastkeras.word2vec import Vectors, Word2Vec, fasttext
from fastkeras.word2vec.fasttext import files as formats
from fastkeras.word2vec.subwords import ngram_ids, ngrams
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors

TEXT = ["the cat sat on the mat", "the dog sat on the cat", "世界 is the world"] * 3
WORDS = ["the", "cat", "</s>", "世界"]
BUCKETS, SIZE = 7, 3


def hash_of(ngram):
    """fastText's `Dictionary::hash`, one byte after the other."""
    value = 2166136261
    for byte in ngram.encode():
        value ^= byte if byte < 128 else byte | 0xFFFFFF00
        value = value * 16777619 % 2**32
    return value


def plain_vector(word, words, matrix, row_of_bucket):
    """fastText's `getWordVector`: the mean over a word's own row and those of its n-grams."""
    rows = [words.index(word)] if word in words else []
    if word != "</s>":
        buckets = [hash_of(ngram) % BUCKETS for ngram in ngrams(word, 2, 3)]
        rows += [len(words) + row_of_bucket[each] for each in buckets if each in row_of_bucket]
    return np.mean([matrix[row] for row in rows], axis=0)


def file_of(
    words=WORDS,
    labels=(),
    pruned=None,
    input_=None,
    output=None,
    model=2,
    loss=2,
    minn=2,
    maxn=3,
    version=12,
):
    """The bytes of a model, field by field as fastText's `Model::saveModel` writes them."""
    head = struct.pack("<ii", 793712314, version)
    head += struct.pack("<12i", SIZE, 5, 5, 1, 5, 1, loss, model, BUCKETS, minn, maxn, 100)
    head += struct.pack("<d", 1e-4)
    pairs = -1 if pruned is None else len(pruned)
    head += struct.pack("<iiiqq", len(words) + len(labels), len(words), len(labels), 99, pairs)
    for i, word in enumerate([*words, *labels]):
        head += word.encode() + b"\0" + struct.pack("<qb", 50 - i, i >= len(words))
    for pair in pruned or ():
        head += struct.pack("<ii", *pair)
    return head + input_ + (output or dense(np.zeros((len(labels) or len(words), SIZE))))


def dense(matrix):
    return b"\0" + struct.pack("<qq", *matrix.shape) + matrix.astype("<f4").tobytes()


def quantized(codes, books, part, norm_codes=None, norm_books=None):
    """A `QMatrix`; each book is (256, numbers of its part)."""
    parts = codes.shape[1]
    size = sum(book.shape[1] for book in books)
    found = b"\1" + struct.pack("<?qqi", norm_codes is not None, len(codes), size, codes.size)
    found += codes.tobytes() + struct.pack("<4i", size, parts, part, books[-1].shape[1])
    found += b"".join(book.astype("<f4").tobytes() for book in books)
    if norm_codes is not None:
        found += norm_codes.tobytes() + struct.pack("<4i", 1, 1, 1, 1)
        found += norm_books.astype("<f4").tobytes()
    return found


@pytest.fixture
def matrix():
    return np.random.default_rng(1).normal(size=(len(WORDS) + BUCKETS, SIZE)).astype("f4")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.bin"


def assert_vectors(vectors, expected):
    for word, vector in expected.items():
        np.testing.assert_allclose(vectors[word], vector, rtol=1e-5, atol=1e-6)


def test_vectors_are_those_of_fasttext_of_unknown_words_too(path, matrix):
    path.write_bytes(file_of(input_=dense(matrix)))
    vectors = Vectors.load(path)
    all_buckets = {bucket: bucket for bucket in range(BUCKETS)}
    assert isinstance(vectors, SubwordVectors) and vectors.words == WORDS
    assert vectors.counts.tolist() == [50, 49, 48, 47]
    unknown = ["unseen", "ca", "世"]
    expected = {w: plain_vector(w, WORDS, matrix, all_buckets) for w in [*WORDS, *unknown]}
    assert_vectors(vectors, expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastkeras.word2vec.fasttext.models.WORDS", 1)
        np.testing.assert_array_equal(Vectors.load(path).matrix, vectors.matrix)
    some = Vectors.load(path, limit=2)
    assert some.words == WORDS[:2]
    assert_vectors(some, {w: expected[w] for w in ["the", "cat", "unseen"]})


def test_models_without_ngrams(path, matrix):
    path.write_bytes(file_of(input_=dense(matrix), minn=0, maxn=0))
    vectors = Vectors.load(path)
    assert type(vectors) is Vectors
    np.testing.assert_array_equal(vectors.matrix, matrix[: len(WORDS)])


@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("is_pruned", [False, True])
def test_quantized_models(path, with_norms, is_pruned):
    rng = np.random.default_rng(2)
    pruned = [(5, 1), (0, 2), (3, 0)] if is_pruned else None
    rows = len(WORDS) + (3 if is_pruned else BUCKETS)
    codes = rng.integers(0, 256, (rows, 2)).astype("u1")
    books = [rng.normal(size=(256, 2)).astype("f4"), rng.normal(size=(256, 1)).astype("f4")]
    norms = (rng.integers(0, 256, rows).astype("u1"), rng.random(256) + 1) if with_norms else ()
    labels = ["__label__a", "__label__b"]
    output = quantized(codes[:2], books, 2)
    content = file_of(
        WORDS, labels, pruned, quantized(codes, books, 2, *norms), output, model=3, loss=3
    )
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"supervised model .* 2 labels \(__label__a, __label__b"):
        Vectors.load(path)
    vectors = fasttext.load_vectors(path, supervised=True)
    matrix = np.array([[*books[0][a], *books[1][b]] for a, b in codes])
    if with_norms:
        matrix *= norms[1].astype("f4")[norms[0]][:, None]
    row_of_bucket = dict(pruned) if is_pruned else {bucket: bucket for bucket in range(BUCKETS)}
    words = [*WORDS, "unseen", "thecat"]
    assert_vectors(vectors, {w: plain_vector(w, WORDS, matrix, row_of_bucket) for w in words})
    if is_pruned:
        with pytest.raises(ValueError, match="from which n-grams were removed"):
            fasttext.save(vectors, path.with_name("dense.bin"))
    else:
        fasttext.save(vectors, path.with_name("dense.bin"))
        again = Vectors.load(path.with_name("dense.bin"))
        assert_vectors(again, {word: vectors[word] for word in words})
    some = fasttext.load_vectors(path, supervised=True, limit=1)
    assert_vectors(some, {"the": plain_vector("the", WORDS, matrix, row_of_bucket)})


def test_classifiers_of_version_11_have_no_ngrams(path, matrix):
    content = file_of(WORDS, ["__label__a"], None, dense(matrix), model=3, loss=3, version=11)
    path.write_bytes(content)
    vectors = fasttext.load_vectors(path, supervised=True)
    np.testing.assert_array_equal(vectors.matrix, matrix[: len(WORDS)])


def test_every_cut_and_every_changed_byte(path, matrix):
    """No file from elsewhere crashes, or takes memory that its size does not explain."""
    rng = np.random.default_rng(3)
    codes, books = rng.integers(0, 256, (7, 3)).astype("u1"), [rng.normal(size=(256, 1))] * 3
    for content in (
        file_of(input_=dense(matrix)),
        file_of(WORDS, (), [(1, 0), (2, 1), (3, 2)], quantized(codes, books, 1)),
    ):
        ends = [*range(300), *range(300, len(content), 97)]
        for end in filter(lambda end: end < len(content), ends):
            path.write_bytes(content[:end])
            with pytest.raises(ValueError, match=str(path) if end else "is empty|is neither"):
                fasttext.load_vectors(path)
        path.write_bytes(content + b"\0")
        with pytest.raises(ValueError, match="goes on after its model"):
            Vectors.load(path)
        for at in range(min(len(content), 300)):
            for change in (0x01, 0x80, 0xFF):
                path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    try:
                        fasttext.load_vectors(path, supervised=True).most_similar("the")
                    except (ValueError, KeyError) as error:
                        assert str(path) in str(error) or "'the'" in str(error), error


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, 13, "is of version 13 of fastText's format; 11 and 12 are read"),
        (8, 2**30, "the argument dim is 1073741824; it must be from 1 to 1048576"),
        (8, 2, "has 11 rows of size 3; the model's size is 2"),
        (32, 9, "the argument loss is 9"),
        (40, 2**31 - 1, "has 11 rows; its 4 words and 2147483647 n-grams need 2147483651"),
        (40, 0, "maxn is 3, but there is no bucket"),
        (64, 2**31 - 1, "which contradict each other"),
    ],
)
def test_numbers_that_contradict(path, matrix, at, value, message):
    content = bytearray(file_of(input_=dense(matrix)))
    struct.pack_into("<i", content, at, value)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        Vectors.load(path)
    assert str(path) in str(raised.value)


def test_sizes_that_no_file_has(path, matrix):
    good = file_of(input_=dense(matrix))
    start = good.index(dense(matrix)) + 1
    for rows in (2**62, -1, 2**40):
        content = bytearray(good)
        struct.pack_into("<q", content, start, rows)
        path.write_bytes(content)
        with pytest.raises(ValueError, match="the input matrix"):
            Vectors.load(path)


def test_words_that_are_not_utf8(path, matrix):
    content = file_of(input_=dense(matrix)).replace("世界".encode(), b"\xff\xfebcde")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="word 3 is not UTF-8"):
        Vectors.load(path)
    assert Vectors.load(path, errors="replace").words[3] == "\ufffd\ufffdbcde"
    path.write_bytes(content.replace(b"cat\0", b"the\0"))
    with pytest.warns(UserWarning, match="1 words again"):
        assert len(Vectors.load(path, errors="replace")) == 3


@pytest.fixture(scope="module")
def models():
    options = {"vector_size": 8, "min_count": 1, "epochs": 2, "sample": 0, "num_threads": 1}
    of_ngrams = {"subwords": True, "buckets": 50, "min_n": 2, "max_n": 4}
    return [
        Word2Vec(**options, **more).fit(TEXT, progress=False)
        for more in ({}, {"objective": "cbow"}, of_ngrams, {**of_ngrams, "objective": "cbow"})
    ]


def test_what_is_written_is_read(path, models):
    for model in models:
        fasttext.save(model, path)
        vectors = Vectors.load(path)
        assert vectors.words == model.vectors.words
        np.testing.assert_array_equal(vectors.matrix, model.vectors.matrix)
        np.testing.assert_array_equal(vectors.counts, model.vocabulary.counts)
        again = fasttext.load_model(path)
        np.testing.assert_array_equal(again.input_embeddings, model.input_embeddings)
        np.testing.assert_array_equal(again.output_embeddings, model.output_embeddings)
        for name in ("window", "epochs", "min_count", "negative", "objective", "sample"):
            assert again.config[name] == model.config[name]
        before = again.vectors["cat"].copy()
        again.partial_fit([*TEXT, "a new word", "a new word"], progress=False)
        assert "new" in again.vectors and (again.vectors["cat"] != before).any()


def test_gensim_reads_what_is_written(path, models):
    gensim = pytest.importorskip("gensim.models.fasttext", reason="gensim is not installed")
    for model in models:
        fasttext.save(model, path)
        theirs = gensim.load_facebook_model(str(path))
        for word in model.vectors:
            np.testing.assert_allclose(theirs.wv[word], model.vectors[word], rtol=1e-5, atol=1e-7)
            assert (
                theirs.wv.get_vecattr(word, "count")
                == model.vocabulary.counts[model.vocabulary.index[word]]
            )
        np.testing.assert_array_equal(theirs.syn1neg, model.output_embeddings)
        again = Vectors.load(path)
        if model.config["subwords"]:
            np.testing.assert_allclose(theirs.wv["unseen"], again["unseen"], rtol=1e-5, atol=1e-7)


def test_models_that_fasttext_has_written():
    gensim = pytest.importorskip("gensim", reason="gensim is not installed")
    from gensim.models.fasttext import load_facebook_vectors

    folder = Path(gensim.__file__).parent / "test" / "test_data"
    for name in ("lee_fasttext_new.bin", "crime-and-punishment.bin"):
        theirs = load_facebook_vectors(str(folder / name))
        ours = Vectors.load(folder / name)
        for word in theirs.index_to_key:
            if word != "</s>":  # to which gensim gives n-grams
                np.testing.assert_allclose(ours[word], theirs[word], rtol=1e-4, atol=1e-6)
        assert set(ours.words) == set(theirs.index_to_key)
        np.testing.assert_allclose(ours["unseen"], theirs["unseen"], rtol=1e-4, atol=1e-6)
        assert fasttext.load_model(folder / name).vectors.words == [
            word for word in ours.words if word != "</s>"
        ]
    path = folder / "pang_lee_polarity_fasttext.bin"
    with pytest.raises(
        ValueError, match=r"supervised model .* labels \(__label__pos, __label__neg"
    ):
        Vectors.load(path)
    with pytest.raises(ValueError, match="is not UTF-8"):
        fasttext.load_vectors(path, supervised=True)
    ours = fasttext.load_vectors(path, supervised=True, errors="replace")
    as_text = Vectors.load(path.with_suffix(".vec"), errors="replace")
    assert ours.words == as_text.words
    np.testing.assert_allclose(ours.matrix, as_text.matrix, atol=1e-5)


def test_the_own_word_of_fasttext_is_written_without_ngrams(path):
    model = Word2Vec(vector_size=4, min_count=1, subwords=True, buckets=20, epochs=1, sample=0)
    model.fit([["a", "</s>", "b", "</s>"]] * 5, progress=False)
    fasttext.save(model, path)
    np.testing.assert_array_equal(Vectors.load(path).matrix, model.vectors.matrix)
    assert fasttext.load_model(path).vectors.words == ["a", "b"]


def test_vectors_alone_are_written(path):
    fasttext.save(Vectors(["a", "b c"], np.eye(2)), path)
    contents = formats.read(path)
    assert contents.counts.tolist() == [1, 1] and not contents.output.any()
    assert Vectors.load(path).words == ["a", "b c"]


def test_what_cannot_be_written_or_trained_is_named(path, matrix):
    tree = Word2Vec(vector_size=4, min_count=1, loss="hierarchical_softmax", sample=0)
    with pytest.raises(ValueError, match="has no vectors yet"):
        fasttext.save(tree, path)
    tree.fit(TEXT, progress=False)
    with pytest.raises(ValueError, match=r"hierarchical_softmax', .*\(model\.vectors, path\)"):
        fasttext.save(tree, path)
    fasttext.save(tree.vectors, path)
    with pytest.raises(TypeError, match="source is a list"):
        fasttext.save([], path)
    for word in ("a\0b", ""):
        with pytest.raises(ValueError, match="cannot be in"):
            fasttext.save(Vectors([word], np.eye(1)), path)
    path.write_bytes(file_of(input_=dense(matrix), loss=1))
    with pytest.raises(ValueError, match="a model skipgram with loss hs; only"):
        fasttext.load_model(path)
    with pytest.raises(ValueError, match="errors='x' must be"):
        fasttext.load_vectors(path, errors="x")


def test_ids_are_the_hashes():
    ids, offsets = ngram_ids(["世界"], BUCKETS, 2, 3)
    assert ids.tolist() == [hash_of(ngram) % BUCKETS for ngram in ngrams("世界", 2, 3)]
    assert offsets.tolist() == [0, len(ids)]


def test_the_command_exports(tmp_path, models, capsys):
    from fastkeras.word2vec.cli import main

    for model in (models[0], models[2]):
        model.save(tmp_path / "model.npz")
        assert main(["export", "--fasttext", str(tmp_path / "model.npz"), str(tmp_path / "m")]) == 0
        assert "9 words, vectors of size 8" in capsys.readouterr().out
        again = fasttext.load_model(tmp_path / "m")
        np.testing.assert_array_equal(again.output_embeddings, model.output_embeddings)
        some = ["export", "--fasttext", "--limit", "2", str(tmp_path / "m"), str(tmp_path / "n")]
        assert main(some) == 0
        np.testing.assert_array_equal(Vectors.load(tmp_path / "n")["the"], model.vectors["the"])
        small = ["export", "--eight-bits", str(tmp_path / "m"), str(tmp_path / "small.npy")]
        assert main(small) == 0
        assert hasattr(Vectors.load(tmp_path / "small.npy").matrix, "codes")


def test_whole_sentences_stay_windows(path):
    model = Word2Vec(vector_size=4, min_count=1, window=None, epochs=1, sample=0)
    fasttext.save(model.fit(TEXT, progress=False), path)
    assert formats.read(path).arguments["ws"] == 2**31 - 1
    again = fasttext.load_model(path)
    assert again.config["window"] is None
    for name in "window", "shrink_windows":
        assert getattr(again._settings, name) == getattr(model._settings, name)


def test_ngrams_that_are_not_finite_are_found_when_they_are_used(path):
    model = Word2Vec(vector_size=4, min_count=1, subwords=True, buckets=5000, epochs=1, sample=0)
    fasttext.save(model.fit(TEXT, progress=False), path)
    contents = formats.read(path)
    (bucket, *_), _ = ngram_ids(["zebra"], 5000)
    assert bucket not in model.vectors.buckets
    rows = np.array(contents.input)
    rows[len(contents.words) + bucket, 2] = np.inf
    with open(path, "wb") as file:
        of_words = contents.words, contents.counts.tolist()
        formats.write(file, contents.arguments, *of_words, [rows], contents.output)
    vectors = fasttext.load_vectors(path)
    np.testing.assert_array_equal(vectors["cat"], model.vectors["cat"])
    with pytest.raises(ValueError, match="n-grams of 'zebra' have nan or inf"):
        vectors["zebra"]
    with pytest.raises(ValueError, match="n-grams of 'zebra'"):
        vectors.most_similar("zebra")


def test_the_first_words_of_a_model_are_exported_with_all_ngrams(tmp_path, models):
    from fastkeras.word2vec.cli import main

    model, path = models[2], str(tmp_path / "model.npz")
    model.save(path)
    for name, limit in {"all": [], "some": ["--limit", "2"]}.items():
        assert main(["export", "--fasttext", *limit, path, str(tmp_path / name)]) == 0
    some, whole = Vectors.load(tmp_path / "some"), Vectors.load(tmp_path / "all")
    assert some.words == whole.words[:2] == model.vectors.words[:2]
    np.testing.assert_array_equal(some["unseen"], whole["unseen"])
    assert some["unseen"].any()
