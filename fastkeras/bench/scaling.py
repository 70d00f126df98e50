"""How the cost of each native kernel grows with each size of its problem.

A sweep changes one size and keeps the others. The exponent p of time ≈ c · size^p is the slope of a
line through the logarithms; only the large sizes count, where the constant cost of a call is small.
"""

import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np

from fastkeras import _core, crf
from fastkeras.bench import crf as crf_bench
from fastkeras.bench import optimizer, seq2seq
from fastkeras.word2vec._engines import native as word2vec
from fastkeras.word2vec.training import sampling
from fastkeras.word2vec.training.settings import Schedule, Settings, output_rows, padded, tables_of

ASYMPTOTIC = 4  # so many of the largest sizes
REPEATS, IN_A_ROW = (
    10,
    3,
)  # turns, and calls in each: the first of them finds other data in the caches


class Sweep(NamedTuple):
    """One size of a kernel's problem, and how the problem is made."""

    kernel: str
    size_of: str
    make: Callable  # size → call
    sizes: tuple  # at least `ASYMPTOTIC`
    threads: bool = False  # then the size is the number of threads; else one computes


def of_crf(function, size_of, size):
    """A call of the loss and gradient, or of Viterbi."""
    shape = {"batch": 8, "steps": 128, "tags": 16} | {size_of: size}
    if size_of == "tags":
        shape = {"batch": 16, "steps": 64, "tags": 64} | {size_of: size}
    problem = crf_bench.draw(shape["batch"], shape["steps"], shape["tags"])
    lengths = np.full_like(problem.lengths, shape["steps"])
    if function == "viterbi":
        return partial(crf.viterbi, problem.emissions, problem.transitions, lengths)
    scores = problem.emissions, problem.tags, problem.transitions, lengths
    return partial(crf.log_likelihood_and_gradients, *scores, engine="native")


def of_adamw(size_of, size):
    """A step of AdamW."""
    shape = {"parameters": 1 << 22, "variables": 16} | {size_of: size}
    count = shape["variables"]
    problem = optimizer.of_shapes([(shape["parameters"] // count,)] * count, [0] * count)
    return optimizer.fastkeras_numpy(problem, False, False).call


def of_select(size_of, size):
    """A step of a beam search."""
    shape = {"batch": 8, "beams": 4, "vocabulary": 8192} | {size_of: size}
    problem = seq2seq.draw(shape["batch"], shape["beams"], shape["vocabulary"])
    return seq2seq.numpy_engine("native", problem)


def _skip_gram_with_threads(threads):
    call = of_skip_gram("words", 64_000)
    return partial(call, num_threads=threads)


def of_skip_gram(size_of, size):
    """A pass of skip-gram over random words that are as frequent as those of a language."""
    shape = {"words": 8000, "vocabulary": 10_000, "dimensions": 128, "outputs": 6}
    shape |= {size_of: size}
    random = np.random.default_rng(0)
    weights = 1 / (np.arange(shape["vocabulary"]) + 2.7)
    ids = random.choice(len(weights), shape["words"], p=weights / weights.sum()).astype(np.int32)
    settings = Settings(negative=shape["outputs"] - 1, shared_negatives=True)
    tables = tables_of((1e6 * weights).astype(np.int64), settings)
    matrices = [
        random.standard_normal((rows, padded(shape["dimensions"])), np.float32) / 100
        for rows in (len(weights), output_rows(len(weights), settings))
    ]
    more = tables, settings, sampling.key_of(0, 0), Schedule(0.0, 0.0)
    return partial(word2vec.train, ids, 0, len(ids), *matrices, *more, num_threads=1)


def _sweeps(kernel, make, sizes):
    return [Sweep(kernel, what, partial(make, what), own) for what, own in sizes.items()]


def _powers(first, last):
    return tuple(2**i for i in range(first, last + 1))


SWEEPS = [
    sweep
    for function in ("loss and gradient", "viterbi")
    for sweep in _sweeps(
        f"CRF, {function}",
        partial(of_crf, function),
        {"batch": _powers(2, 8), "steps": _powers(4, 11), "tags": _powers(3, 9)},
    )
]
SWEEPS += _sweeps(
    "AdamW step", of_adamw, {"parameters": _powers(15, 22), "variables": _powers(0, 5)}
)
SWEEPS += _sweeps(
    "step of a beam search",
    of_select,
    {"batch": _powers(1, 6), "beams": _powers(0, 4), "vocabulary": _powers(9, 15)},
)
SWEEPS += _sweeps(
    "skip-gram",
    of_skip_gram,
    {
        "words": tuple(1000 * n for n in _powers(0, 5)),
        "vocabulary": tuple(1000 * n for n in _powers(0, 5)),
        "dimensions": _powers(4, 9),
        "outputs": _powers(0, 5),  # the word itself, and its negatives
    },
)


def with_threads(most):
    """The sweeps of the number of threads, up to so many; times on the clock."""
    counts = tuple(sorted({*(2**i for i in range(most.bit_length()) if 2**i <= most), most}))
    return [
        Sweep(kernel, "threads", make, counts, threads=True)
        for kernel, make in (
            ("CRF, loss and gradient", lambda _: of_crf("loss and gradient", "batch", 256)),
            ("AdamW step", lambda _: of_adamw("parameters", 1 << 22)),
            ("step of a beam search", lambda _: of_select("batch", 64)),
            ("skip-gram", _skip_gram_with_threads),
        )
    ]


def measure(sweep, sizes=None, repeats=REPEATS):
    """The least seconds of a call at each size.

    It is the processor's time, which other processes do not change, except for a sweep of threads,
    which takes the time on the clock. Sizes take turns, so that all see a busy machine.
    """
    sizes = sweep.sizes if sizes is None else sizes
    clock = time.perf_counter if sweep.threads else time.process_time
    calls = [sweep.make(size) for size in sizes]
    best = np.full(len(sizes), np.inf)
    for _ in range(repeats):
        for place, (size, call) in enumerate(zip(sizes, calls, strict=True)):
            with num_threads(size if sweep.threads else 1):
                for _ in range(IN_A_ROW):
                    start = clock()
                    call()
                    best[place] = min(best[place], clock() - start)
    return best


def exponent(sizes, seconds):
    """The slope of log seconds over log sizes, by least squares, and its standard error.

    Example:
        >>> sizes = np.array([8, 16, 32, 64])
        >>> slope, error = exponent(sizes, 3e-6 * sizes**2)
        >>> round(slope, 6), round(error, 6)
        (2.0, 0.0)
    """
    x, y = (np.log(np.asarray(values, np.float64)) for values in (sizes, seconds))
    x, y = x - x.mean(), y - y.mean()
    slope = (x @ y) / (x @ x)
    degrees = len(x) - 2
    error = np.sqrt(((y - slope * x) ** 2).sum() / degrees / (x @ x)) if degrees > 0 else np.nan
    return float(slope), float(error)


@contextmanager
def num_threads(count):
    """Let the kernels take so many threads; afterwards as many as there are processors again."""
    _core.set_num_threads(count)
    try:
        yield
    finally:
        _core.set_num_threads(0)
