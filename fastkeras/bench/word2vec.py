"""The providers of Word2Vec: for each, a function that prepares the training on a file.

All use the same settings, and one thread unless told otherwise. Each counts the words itself, which
is not timed.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

SIZE, WINDOW, NEGATIVE, SAMPLE, MIN_COUNT = 100, 5, 5, 1e-4, 5
RATES = {"skip-gram": 0.025, "CBOW": 0.05, "hierarchical softmax": 0.025}
RATES |= {"documents": 0.025, "documents, PV-DBOW": 0.025, "documents, PV-DM": 0.05}
END_RATE = 1e-4
DOCUMENTS = {  # by case: settings of ours, and of gensim
    "documents": ({"neighbors": True}, {"dm": 0, "dbow_words": 1}),
    "documents, PV-DBOW": ({}, {"dm": 0}),
    "documents, PV-DM": (
        {"neighbors": True, "objective": "cbow", "cbow_gradient": "word2vec"},
        {"dm": 1, "dm_mean": 1},
    ),
}


class Training(NamedTuple):
    call: Callable  # trains for some passes; returns processor time and elapsed time of one
    vectors: Callable  # returns (words, matrix)
    words: int  # in a pass
    setup: float = 0.0  # processor time before the first pass, to convert the text to ids
    passes: int = 1  # to time together, since our engines make their tables once for all of them
    engine: str | None = None  # of ours
    config: dict | None = None


def timed(function, *arguments, passes=1, **named):
    """Return (processor time, elapsed time) of a call, divided by its number of passes."""
    start, cpu_start = time.perf_counter(), time.process_time()
    function(*arguments, **named)
    cpu, wall = time.process_time() - cpu_start, time.perf_counter() - start
    return cpu / passes, wall / passes


def ours(path, case, engine="native", num_threads=1, **settings):
    from fastkeras.word2vec import Word2Vec
    from fastkeras.word2vec.corpus import encode
    from fastkeras.word2vec.vocabulary import build

    vocabulary = build(path, min_count=MIN_COUNT)
    start = time.process_time()
    ids = encode(path, vocabulary, num_threads=1)
    setup = time.process_time() - start
    if case == "hierarchical softmax":
        settings["loss"] = "hierarchical_softmax"
    model = Word2Vec(
        SIZE, WINDOW, MIN_COUNT, NEGATIVE, sample=SAMPLE, learning_rate=RATES[case], epochs=1,
        objective="cbow" if case == "CBOW" else "skipgram", num_threads=num_threads, engine=engine,
        **settings,
    )  # fmt: skip
    model.fit(ids[: len(ids) // 100], vocabulary=vocabulary, progress=False)  # compiles

    def call(passes):
        return timed(model.partial_fit, ids, epochs=passes, progress=False, passes=passes)

    words = int(vocabulary.counts.sum())
    passes = 5 if engine == "native" else 1
    vectors = lambda: (vocabulary.words, model.input_embeddings)  # noqa: E731
    return Training(call, vectors, words, setup, passes, engine, model.config)


def numba(path, case, **settings):
    return ours(path, case, "numba", **settings)


def gensim(path, case, num_threads=1):
    from gensim.models import Word2Vec

    tree = case == "hierarchical softmax"
    of_case = {"hs": tree, "negative": 0 if tree else NEGATIVE, "sg": case != "CBOW"}
    return _training_of_gensim(Word2Vec, path, case, num_threads, **of_case)


def gensim_documents(path, case, num_threads=1):
    from gensim.models import Doc2Vec

    of_case = {"negative": NEGATIVE, **DOCUMENTS[case][1]}
    return _training_of_gensim(Doc2Vec, path, case, num_threads, **of_case)


def _training_of_gensim(kind, path, case, num_threads, **of_case):
    model = kind(
        vector_size=SIZE, window=WINDOW, min_count=MIN_COUNT, sample=SAMPLE, workers=num_threads,
        alpha=RATES[case], min_alpha=END_RATE, **of_case,
    )  # fmt: skip
    model.build_vocab(corpus_file=path)
    counts = {"total_examples": model.corpus_count, "total_words": model.corpus_total_words}

    def call(passes):
        rates = {"start_alpha": RATES[case], "end_alpha": END_RATE}
        return timed(model.train, corpus_file=path, epochs=passes, **counts, **rates, passes=passes)

    words = sum(model.wv.get_vecattr(word, "count") for word in model.wv.index_to_key)
    return Training(call, lambda: (model.wv.index_to_key, model.wv.vectors), int(words))


def documents(path, case, engine="native", num_threads=1):
    """A vector for each line, and if neighbors are predicted too, for each word."""
    from fastkeras.word2vec import Doc2Vec
    from fastkeras.word2vec.vocabulary import build

    vocabulary = build(path, min_count=MIN_COUNT)
    models = []

    def call(passes):
        model = Doc2Vec(
            vector_size=SIZE, window=WINDOW, min_count=MIN_COUNT, negative=NEGATIVE, sample=SAMPLE,
            learning_rate=RATES[case], epochs=passes, num_threads=num_threads, engine=engine,
            **DOCUMENTS[case][0],
        )  # fmt: skip
        models[:] = [model]
        more = {"vocabulary": vocabulary, "progress": False}
        return timed(model.fit, path, **more, passes=passes)

    def vectors():
        learned = models[0].vectors if DOCUMENTS[case][0] else models[0].document_vectors
        return learned.words, learned.matrix

    return Training(call, vectors, int(vocabulary.counts.sum()), passes=5)


def fasttext(path, case, num_threads=1):
    """It has no call for passes alone: the time of a run without any pass is subtracted."""
    import fasttext as library

    settings = {
        "model": "cbow" if case == "CBOW" else "skipgram", "dim": SIZE, "ws": WINDOW, "maxn": 0,
        "minCount": MIN_COUNT, "neg": NEGATIVE, "t": SAMPLE, "thread": num_threads, "verbose": 0,
        "loss": "hs" if case == "hierarchical softmax" else "ns", "lr": RATES[case],
    }  # fmt: skip
    models = []

    def train(epochs):
        models[:] = [library.train_unsupervised(path, epoch=epochs, **settings)]

    before = timed(train, 0)

    def call(passes, trials=3):
        try:
            both = zip(timed(train, passes), before, strict=True)
        except RuntimeError:  # "Encountered NaN", which happens now and then; the next call works
            if trials == 1:
                raise
            return call(passes, trials - 1)
        return tuple((a - b) / passes for a, b in both)

    counts = models[0].get_words(include_freq=True)[1]

    def vectors():
        import numpy as np

        words = models[0].get_words()
        return words, np.array([models[0].get_word_vector(word) for word in words])

    return Training(call, vectors, int(counts.sum()))


# for each case: name, function, arguments
PROVIDERS: dict[str, dict[str, tuple[Callable[..., Training], dict[str, str | None]]]] = {
    "skip-gram": {
        "fastkeras, window-shared": (ours, {}),
        "fastkeras, exact": (ours, {"shared_negatives": None}),
        "numba, window-shared": (numba, {}),
        "numba, exact": (numba, {"shared_negatives": None}),
        "gensim": (gensim, {}),
        "fastText": (fasttext, {}),
    },
    "CBOW": {
        "fastkeras, word2vec's update": (ours, {"cbow_gradient": "word2vec"}),
        "fastkeras, exact gradient": (ours, {"cbow_gradient": "exact"}),
        "numba, word2vec's update": (numba, {"cbow_gradient": "word2vec"}),
        "gensim": (gensim, {}),
        "fastText": (fasttext, {}),
    },
    "hierarchical softmax": {
        "fastkeras": (ours, {}),
        "numba": (numba, {}),
        "gensim": (gensim, {}),
        "fastText": (fasttext, {}),
    },
    **{
        case: {"fastkeras": (documents, {}), "gensim": (gensim_documents, {})} for case in DOCUMENTS
    },
}
