"""Models of fastText as vectors and as a `Word2Vec`, and both of these as models of fastText."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastkeras._files import replacing
from fastkeras.word2vec.arguments import flag, integer
from fastkeras.word2vec.fasttext import files as formats
from fastkeras.word2vec.fasttext.dictionary import (
    END_OF_LINE,
    bags_of_file,
    lengths_of,
    words_of,
)
from fastkeras.word2vec.subwords import bags_of, means
from fastkeras.word2vec.vectors.files import check_finite, check_words
from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors
from fastkeras.word2vec.vectors.vectors import Vectors

if TYPE_CHECKING:
    from fastkeras.typing import FilePath
    from fastkeras.word2vec.training.trainer import Word2Vec

ROWS = 1 << 14  # written at a time
WORDS = 1 << 14  # whose n-grams are in memory at a time
WHOLE_SENTENCE = 2**31 - 1  # the window that `window=None` is in a file


def load_vectors(
    path: FilePath, supervised: bool = False, limit: int | None = None, errors: str = "strict"
) -> Vectors:
    """Read the vectors of a model of fastText, a `.bin` or quantized `.ftz` file.

    They are fastText's own, those of unknown words too: all buckets of n-grams are kept, also those
    that training has never changed. The file is mapped into memory, so that of its rows only those
    that are used take any; it must stay as it is meanwhile.

    Args:
        path: the file, not compressed.
        supervised: a model of a classifier is refused, since its vectors tell labels from each
            other rather than meanings; True reads the vectors of its words all the same.
        limit: read only the first so many words; None reads all.
        errors: what to do with a word that is not UTF-8: `"strict"` raises, `"replace"` puts
            U+FFFD into it (and into its n-grams).

    Returns:
        `SubwordVectors`, or `Vectors` if the model has no n-grams; `counts` is how often each word
        was seen.

    Raises:
        ValueError: the file is not such a model, is damaged, or is of a classifier.

    Example:
        >>> import os, tempfile
        >>> from fastkeras.word2vec import Vectors, fasttext
        >>> path = os.path.join(tempfile.mkdtemp(), "model.bin")
        >>> fasttext.save(Vectors(["cat", "dog"], np.eye(2, dtype=np.float32)), path)
        >>> fasttext.load_vectors(path)["dog"]
        array([0., 1.], dtype=float32)
    """
    if limit is not None:
        limit = integer("limit", limit, 1, None)
    supervised = flag("supervised", supervised)
    contents = formats.read(path)
    if contents.arguments["model"] == 3 and not supervised:
        labels = ", ".join(label.decode("utf-8", "replace") for label in contents.labels[:3])
        raise ValueError(
            f"{path} is a supervised model of fastText, a classifier of {len(contents.labels)} "
            f"labels ({labels}, …): fastkeras does not classify, but fastkeras.word2vec.fasttext."
            "load_vectors(path, supervised=True) reads the vectors of its words"
        )
    words, kept = words_of(contents, limit, errors, path)
    counts, lengths = contents.counts[kept], lengths_of(contents)
    if lengths is None:
        own = contents.input[: len(contents.words)]
        matrix = own if len(kept) == len(own) and isinstance(own, np.ndarray) else own[kept]
        check_finite(words, matrix, path, lambda row: f"word {row}")
        return Vectors(words, matrix, counts)
    num_words = len(contents.words)
    matrix = np.empty((len(words), contents.input.shape[1]), np.float32)
    for begin in range(0, len(words), WORDS):
        part = slice(begin, begin + WORDS)
        matrix[part] = means(
            contents.input, bags_of_file(contents, words[part], kept[part], lengths)
        )
    check_finite(words, matrix, path, lambda row: f"word {row}")
    of_ngrams = contents.input[num_words:]
    if contents.pruned is None:
        buckets = np.arange(lengths[0], dtype=np.int32)
    else:
        order = np.argsort(contents.pruned[:, 0])
        buckets, places = contents.pruned[order].T
        quantized = not isinstance(of_ngrams, np.ndarray)
        of_ngrams = of_ngrams.rows(places) if quantized else of_ngrams[places]
    own = contents.input[:num_words] if len(kept) == num_words else contents.input[kept]
    num_buckets, min_n, max_n = lengths
    return SubwordVectors.of_parts(
        words, matrix, own, buckets, of_ngrams, num_buckets, min_n, max_n, counts
    )


def load_model(path: FilePath, engine: str | None = None, errors: str = "strict") -> Word2Vec:
    """Read a model of fastText to train it further: `load_model(path).partial_fit(corpus)`.

    Only buckets that a word of its vocabulary has are kept, as `Word2Vec` does. The sentence ends
    `</s>`, which fastText trains as a word, are left out.

    Args:
        path: the `.bin` file of a model trained by fastText's `skipgram` or `cbow` with its loss
            `ns`, not quantized.
        engine: as in `Word2Vec`.
        errors: as in `load_vectors`.

    Returns:
        A trained `Word2Vec` with the arguments that the file has, fastText's updates, and our
        default learning rate, which the file does not have.

    Raises:
        ValueError: the file is not such a model.

    Example:
        >>> from fastkeras.word2vec import fasttext
        >>> model = fasttext.load_model("wiki.bin")  # doctest: +SKIP
        >>> model.partial_fit("more.txt", learning_rate=0.01)  # doctest: +SKIP
    """
    from fastkeras.word2vec.training.model_files import put_together
    from fastkeras.word2vec.training.trainer import Word2Vec

    contents = formats.read(path)
    given, lengths = contents.arguments, lengths_of(contents)
    kind, loss = formats.MODELS[given["model"]], formats.LOSSES[given["loss"]]
    dense = all(isinstance(each, np.ndarray) for each in (contents.input, contents.output))
    if kind == "supervised" or loss != "ns" or not dense or contents.pruned is not None:
        raise ValueError(
            f"{path} is a model {kind} with loss {loss}{'' if dense else ', quantized'}; only "
            "skipgram and cbow with loss ns, not quantized, can be trained further: "
            "fastkeras.word2vec.fasttext.load_vectors reads its vectors"
        )
    words, kept = words_of(contents, None, errors, path)
    if len(contents.output) != len(contents.words):
        raise ValueError(
            f"{path}: the output matrix has {len(contents.output)} rows; it must have one for each "
            f"of {len(contents.words)} words"
        )
    if END_OF_LINE in words:
        place = words.index(END_OF_LINE)
        words, kept = [word for word in words if word != END_OF_LINE], np.delete(kept, place)
    config = {
        "vector_size": given["dim"],
        "window": None if given["ws"] == WHOLE_SENTENCE else given["ws"],
        "min_count": max(given["minCount"], 1),
        "negative": given["neg"],
        "ns_exponent": 0.5,
        "sample": given["t"],
        "objective": kind,
        "epochs": given["epoch"],
    }
    config |= {"cbow_gradient": "word2vec"} if kind == "cbow" else {"shared_negatives": None}
    rows = contents.input[kept]
    if lengths is not None:
        config |= {"subwords": True, "subword_gradient": "fasttext"}
        config |= dict(zip(("buckets", "min_n", "max_n"), lengths, strict=True))
        used = bags_of(words, *lengths).buckets
        rows = np.concatenate([rows, contents.input[len(contents.words) + used.astype(np.int64)]])
    embeddings = rows, contents.output[kept]
    for name, matrix in zip(("input", "output"), embeddings, strict=True):
        check_finite(range(len(matrix)), matrix, path, lambda row, n=name: f"{n} row {row}")
    parts = config, None, words, contents.counts[kept], embeddings
    return put_together(Word2Vec, *parts, engine, f"path={str(path)!r}")


def save(source: Word2Vec | Vectors, path: FilePath) -> None:
    """Write a file that fastText loads, and gensim's `load_facebook_vectors` and `…_model`.

    Args:
        source: a trained `Word2Vec` with negative sampling, of which both matrices are written; or
            `Vectors` or `SubwordVectors`, whose output matrix is then zeros.
        path: where to. The file has a row for each bucket, zeros for those that no word has:
            2,000,000 buckets of 100 numbers take 800 MB. What fastText has no place for, such as
            `shrink_windows=False` and the learning rate, is not in it.

    Raises:
        ValueError: a word has a zero character or none at all, a vector is not finite, or the model
            has another loss, whose output matrix fastText would read as something else.
        OSError: the file cannot be written.
        TypeError: `source` is something else.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from fastkeras.word2vec import Vectors, fasttext
        >>> path = f"{tempfile.mkdtemp()}/model.bin"
        >>> fasttext.save(Vectors(["cat", "dog"], np.eye(2)), path)
        >>> Vectors.load(path)["dog"].tolist()
        [0.0, 1.0]
    """
    from fastkeras.word2vec.training.settings import sample_of
    from fastkeras.word2vec.training.trainer import Word2Vec

    output, arguments = None, {}
    if isinstance(source, Word2Vec):
        vectors, output, config = source.vectors, source.output_embeddings, source.config
        if config["loss"] != "negative_sampling":
            raise ValueError(
                f"source has loss={config['loss']!r}, whose output matrix fastText cannot take; "
                "save its vectors alone: fasttext.save(model.vectors, path)"
            )
        arguments = {
            "ws": config["window"] or WHOLE_SENTENCE,
            "epoch": config["epochs"],
            "minCount": config["min_count"],
            "neg": config["negative"],
            "model": 1 if config["objective"] == "cbow" else 2,
            "t": sample_of(config["sample"], len(vectors)),
        }
    elif isinstance(source, Vectors):
        vectors = source
    else:
        raise TypeError(f"source is a {type(source).__name__}; it must be a Word2Vec or Vectors")
    check_words(vectors.words, "\0", path)
    check_finite(vectors.words, vectors.matrix, f"{path} would not be read again", "row {}".format)
    if output is None:
        output = np.broadcast_to(np.float32(0), (len(vectors), vectors.size))
    counts = np.ones(len(vectors), np.int64) if vectors.counts is None else vectors.counts
    lengths = (0, 0, 0)  # without n-grams
    if isinstance(vectors, SubwordVectors):
        lengths = vectors.num_buckets, vectors.min_n, vectors.max_n
        used = bags_of([word for word in vectors if word != END_OF_LINE], *lengths).buckets
        if not np.isin(used, vectors.buckets).all():
            raise ValueError(
                "source is of a quantized model from which n-grams were removed, and cannot be "
                "written dense; without any: fasttext.save(Vectors(v.words, v.matrix), path)"
            )
    arguments = {
        "dim": vectors.size, "ws": 5, "epoch": 5, "minCount": 1, "neg": 5, "wordNgrams": 1,
        "loss": 2, "model": 2, "lrUpdateRate": 100, "t": 1e-4,
        **dict(zip(("bucket", "minn", "maxn"), lengths, strict=True)),
        **arguments,
    }  # fmt: skip
    words = [word.encode() for word in vectors.words]
    with replacing(path) as file:
        formats.write(file, arguments, words, counts.tolist(), _rows_of(vectors), output)


def _rows_of(vectors):
    """Yield the rows of the input matrix that fastText would have."""
    has_ngrams = isinstance(vectors, SubwordVectors)
    of_words = vectors.word_matrix if has_ngrams else vectors.matrix
    end_of_line = vectors.index.get(END_OF_LINE) if has_ngrams else None
    for begin in range(0, len(vectors), ROWS):
        rows = of_words[begin : begin + ROWS]
        if end_of_line is not None and begin <= end_of_line < begin + ROWS:
            rows = np.array(rows)
            rows[end_of_line - begin] = vectors.matrix[end_of_line]  # without n-grams
        yield rows
    for begin in range(0, vectors.num_buckets if has_ngrams else 0, ROWS):
        end = min(begin + ROWS, vectors.num_buckets)
        rows = np.zeros((end - begin, vectors.size), np.float32)
        first, last = np.searchsorted(vectors.buckets, (begin, end))
        rows[vectors.buckets[first:last] - begin] = np.asarray(vectors.bucket_matrix[first:last])
        yield rows
