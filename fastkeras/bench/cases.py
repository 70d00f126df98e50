"""The cases that one run of `fastkeras bench` measures, each one provider on one problem."""

import re
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import numpy as np

from fastkeras._engines import DOMAINS

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


class Case(NamedTuple):
    """One provider on one problem."""

    function: str  # what is computed
    provider: str
    ours: bool  # else another library's
    size: int  # of the problem, for plots: steps, numbers, words
    prepare: Callable  # () → call, which computes once; ImportError says why it cannot
    errors: Callable  # result of a call → {"error": …}; AssertionError if it is wrong
    work: dict  # what an ideal kernel has to do: "flops", "exps", "bytes"


def of_crf(shape, seed=0):
    """Loss, gradient and Viterbi of one batch (batch, steps, tags)."""
    from fastkeras.bench.crf import PROVIDERS, draw
    from fastkeras.bench.crf_accuracy import check, exact

    problem = draw(*shape, seed)
    expected = cache(partial(exact, problem))
    steps, num_tags = int(problem.lengths.sum()), shape[2]
    made = cache(lambda provider: PROVIDERS[provider](problem))
    for function, passes in (("log-likelihood", 1), ("gradient", 3), ("viterbi", 0)):
        work = {"flops": 2 * passes * steps * num_tags**2, "exps": steps * num_tags}
        for provider in PROVIDERS:
            yield Case(
                function,
                provider,
                provider.startswith(("fastkeras", *DOMAINS["crf"])),
                steps,
                lambda provider=provider, function=function: made(provider)[function],
                lambda found, function=function: check(function, found, problem, expected()),
                work if passes else {},
            )


def of_optimizer(parameters, variables, rates=False, clip=False):
    """One AdamW step of variables of equal size, with so many parameters together."""
    from fastkeras.bench.optimizer import EPSILON_COMES_LATE, PROVIDERS, check, of_shapes

    size = parameters // variables
    problem = of_shapes([(size,)] * variables, [i * 12 // variables for i in range(variables)])
    for provider, make in PROVIDERS.items():
        if provider == "bytes moved":
            continue  # not needed: the memory limit is measured for every domain

        def prepare(make=make):
            step = make(problem, rates, clip)
            step.call()
            first = [p.copy() for p in step.parameters()]

            def call():
                step.call()
                return first

            return call

        yield Case(
            "AdamW step",
            provider,
            provider.startswith("fastkeras"),
            size * variables,
            prepare,
            lambda found, name=provider: {
                "error": check(problem, found, rates, clip, name in EPSILON_COMES_LATE) * 2.0**-23
            },
            {"bytes": (32 if clip else 28) * size * variables},
        )


def of_seq2seq(shape, seed=0):
    """One step of a beam search, (batch, beams, vocabulary)."""
    from fastkeras.bench.seq2seq import PROVIDERS, check, draw

    problem = draw(*shape, seed)
    numbers = int(np.prod(shape))
    for provider, make in PROVIDERS.items():
        yield Case(
            "select",
            provider,
            provider.startswith((*DOMAINS["seq2seq"],)),
            numbers,
            partial(make, problem),
            partial(check, problem),
            {"exps": numbers, "bytes": 4 * numbers},
        )


def of_word2vec(path):
    """One pass over a corpus, for each form of training; vectors must only be finite."""
    from fastkeras.bench.word2vec import PROVIDERS

    for function, providers in PROVIDERS.items():
        for provider, (make, settings) in providers.items():

            def prepare(make=make, settings=settings, function=function):
                training = make(path, function, **settings)

                def call():
                    training.call(1)
                    return training.vectors()[1]

                return call

            ours = provider.startswith(("fastkeras", "numba"))
            yield Case(function, provider, ours, 0, prepare, _finite, {})


def _finite(matrix):
    assert np.isfinite(matrix).all() and np.ptp(matrix) > 0, "the vectors are no numbers"
    return {}


def number(text):
    """The whole number that a person writes as 199, 110M or 4.9M."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)", text.strip().upper())
    if not found or not float(found[1]):
        raise ValueError(f"takes a number above 0 such as 199, 4.9M or 110M, not {text!r}")
    return round(float(found[1]) * SUFFIXES[found[2]])


def shape(text, axes="batch,steps,tags", example="32,128,9"):
    """(batch, steps, tags) of "32,128,9"; or three other sizes."""
    parts = text.replace("x", ",").replace("×", ",").split(",")
    if len(parts) != 3:
        raise ValueError(f"takes {axes} such as {example}, not {text!r}")
    return tuple(map(number, parts))
