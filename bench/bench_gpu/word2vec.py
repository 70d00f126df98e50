"""Word2Vec on a GPU: words a second and quality, by how many places of the text train at once.

The text is that of fastkeras/bench/word2vec_corpus.py, with fewer phrases, so that not all of the
planted analogies are solved, and what is lost shows. One place trains in the order of the text, as
a CPU does; a CPU itself trains it with the same draws at the end.
"""

from time import perf_counter

import cupy
import numpy as np

import fastkeras
from fastkeras import _engines
from fastkeras.bench import word2vec_corpus
from fastkeras.word2vec.training import matrices, sampling
from fastkeras.word2vec.training.settings import Schedule, Settings, tables_of

WORDS, EPOCHS = 2_000_000, 3
SHARE_OF_PHRASES = 0.012
MIN_COUNT, SAMPLE, SEED = 5, 1e-4, 1
RATES = {"shared": 0.025, "pairs": 0.025, "cbow": 0.25}
FORMS = {
    "shared": Settings(shared_negatives=True),
    "pairs": Settings(),
    "cbow": Settings(objective="cbow"),
}
CASES = [("shared", 100, places) for places in (0, 1, 32, 128, 256, 512, 1024)]
CASES += [("shared", 300, places) for places in (128, 512)]
CASES += [(form, 100, places) for form in ("pairs", "cbow") for places in (64, 256, 1024)]
ON_CPU = (("shared", 100), ("pairs", 100), ("cbow", 100))


def rows():
    """One dict for each training; `quality` is the percentage of planted analogies."""
    corpus = corpus_of(WORDS)
    yield latency(corpus)
    gpu = _engines.engine_of_family("word2vec", "numpy", "cupy")
    for form, size, places in CASES:
        yield row(gpu, corpus, form, size, places)
    cpu = next(name for name in ("native", "numba") if is_ready(name))
    for form, size in ON_CPU:
        engine = _engines.engine_of_family("word2vec", "numpy", cpu)
        yield row(engine, corpus, form, size, 0)


def is_ready(engine):
    return fastkeras.engines("word2vec")[engine] == "ready"


def corpus_of(words):
    """(ids, names by id, counts): as `word2vec_corpus.write`, but as ids, most frequent first."""
    rng, made = np.random.default_rng(SEED), word2vec_corpus
    weights = (np.arange(made.NOISE_WORDS) + made.SHIFT) ** -made.EXPONENT
    ends = np.cumsum(weights / weights.sum())
    lines = -(-words // made.LINE)
    text = np.minimum(np.searchsorted(ends, rng.random(lines * made.LINE)), made.NOISE_WORDS - 1)
    phrases = text.reshape(-1, made.PHRASE)
    chosen = np.flatnonzero(rng.random(len(phrases)) < SHARE_OF_PHRASES)
    phrases[chosen] = rng.permuted(made.planted(len(chosen), rng), axis=1)
    counts = np.bincount(text.ravel())
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] >= MIN_COUNT]
    rank = np.full(len(counts), -2, np.int32)  # rarer words are left out
    rank[order] = np.arange(len(order))
    ids = np.concatenate([rank[text.reshape(lines, -1)], np.full((lines, 1), -1, np.int32)], axis=1)
    ids = ids[ids != -2]
    first = made.NOISE_WORDS
    names = {first + i: f"r{i // made.COLUMNS}c{i % made.COLUMNS}"
             for i in range(made.ROWS * made.COLUMNS)}  # fmt: skip
    return ids, [names.get(int(word), f"w{word}") for word in order], counts[order]


def row(engine, corpus, form, size, places):
    ids, names, counts = corpus
    name = _engines.name_of(engine)
    of_row = {"name": form, "engine": name, "size": size, "places": places, "words": len(names)}
    try:
        of_row |= trained(engine, ids, names, counts, form, size, places)
    except Exception as error:  # one that fails does not hide the others
        return {**of_row, "failed": f"{type(error).__name__}: {error}"[:200]}
    return of_row


def trained(engine, ids, names, counts, form, size, places):
    settings = FORMS[form]
    tables = tables_of(counts, settings, SAMPLE)
    made = matrices.new(len(names), len(names), size, SEED)
    total, rate = EPOCHS * len(ids), RATES[form]
    slope = (1e-4 - rate) / total
    pass_over, fetch = training_of(engine, ids, made, tables, settings, places)
    warm = min(2048, len(ids))
    pass_over(0, warm, sampling.key_of(SEED, 99), Schedule(0.0, 0.0))  # compiles
    seconds, losses = [], []
    for epoch in range(EPOCHS):
        schedule = Schedule(rate + slope * epoch * len(ids), slope)
        began = perf_counter()
        loss, predictions, _ = pass_over(0, len(ids), sampling.key_of(SEED, epoch), schedule)
        seconds.append(perf_counter() - began)
        losses.append(round(loss / max(predictions, 1), 4))
    fetch()
    vectors = made[0][:, :size]
    return {
        "million_words_per_second": len(ids) / min(seconds) / 1e6,
        "losses": losses,
        "finite": bool(np.isfinite(vectors).all()),
        "quality": word2vec_corpus.analogies((names, vectors)),
    }


def training_of(engine, ids, made, tables, settings, places):
    """(pass over a slice, what brings the matrices back)."""
    if hasattr(engine, "Training"):
        training = engine.Training(ids, *made, tables, settings)
        return lambda *of_slice: training.train(*of_slice, places), training.fetch
    return (
        lambda begin, end, *more: engine.train(
            ids, begin, end, *made, tables, settings, *more, num_threads=places
        ),
        lambda: None,
    )


def latency(corpus, words=50_000):
    """What a window takes in a single place: no other waits for it."""
    ids, names, counts = corpus
    ids, settings = ids[:words], FORMS["shared"]
    tables = tables_of(counts, settings, SAMPLE)
    made = matrices.new(len(names), len(names), 100, SEED)
    engine = _engines.engine_of_family("word2vec", "numpy", "cupy")
    training = engine.Training(ids, *made, tables, settings)
    schedule = Schedule(0.025, 0.0)
    training.train(0, min(2048, len(ids)), 1, schedule)
    began = perf_counter()
    windows = training.train(0, len(ids), 1, schedule, 1)[2]
    cupy.cuda.runtime.deviceSynchronize()
    seconds = perf_counter() - began
    return {"name": "one place", "size": 100, "microseconds_per_window": 1e6 * seconds / windows}
