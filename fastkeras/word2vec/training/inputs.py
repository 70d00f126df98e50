"""What training begins with: a corpus read twice, once for its words and once for their ids."""

import numpy as np

from fastkeras.word2vec.arguments import instance
from fastkeras.word2vec.subwords import bags_of
from fastkeras.word2vec.training.progress import counting


def as_corpus(source):
    """Return ids as given, or else a `Corpus`, which notices files that change between readings."""
    from fastkeras.word2vec.corpus import Corpus

    return source if isinstance(source, (np.ndarray, Corpus)) else Corpus(source)


def counted(corpus, config, progress):
    """Return the `Vocabulary` of a corpus."""
    from fastkeras.word2vec import vocabulary

    if isinstance(corpus, np.ndarray):
        raise TypeError("an encoded corpus has no words: pass vocabulary=")
    of_config = {name: config[name] for name in ("min_count", "max_vocab", "num_threads")}
    with counting(progress) as show:
        return vocabulary.build(corpus, **of_config, progress=show)


def vocabulary_of(corpus, given, config, progress):
    """Return the `Vocabulary` that was given, or that of a corpus."""
    from fastkeras.word2vec.vocabulary import Vocabulary

    if given is None:
        return counted(corpus, config, progress)
    if not instance("vocabulary", given, Vocabulary).words:
        raise ValueError("vocabulary has no words")
    return given


def encoded(corpus, vocabulary, num_threads):
    """Return a corpus as ids, int32 (positions,)."""
    if not isinstance(corpus, np.ndarray):
        from fastkeras.word2vec.corpus import encode

        return encode(corpus, vocabulary, num_threads=num_threads)
    if corpus.dtype != np.int32 or corpus.ndim != 1:
        raise ValueError(
            f"corpus is an array of {corpus.dtype} and shape {corpus.shape}; an encoded corpus is "
            "int32 of one dimension"
        )
    for begin in range(0, len(corpus), 1 << 20):  # it may be a file
        part = corpus[begin : begin + (1 << 20)]
        if part.min() < -1 or part.max() >= len(vocabulary.words):
            raise ValueError(
                f"corpus has ids from {part.min()} to {part.max()}; allowed are -1 to "
                f"{len(vocabulary.words) - 1}"
            )
    return np.ascontiguousarray(corpus)


def bags(vocabulary, config):
    """Return the `subwords.Bags` of the words, or None without subwords."""
    if not config["subwords"]:
        return None
    of_config = (config[name] for name in ("buckets", "min_n", "max_n"))
    return bags_of(vocabulary.words, *of_config)
