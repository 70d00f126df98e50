"""The cases that one run of `fastkeras bench` measures, each one provider on one problem."""

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastkeras._engines import DOMAINS
from fastkeras._files import replacing

SUFFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


SIZES = {  # what the size of a case counts
    "crf": "steps of all sequences",
    "optimizer": "parameters",
    "seq2seq": "logits",
    "word2vec": "bytes of text",
}


class Case(NamedTuple):
    """One provider on one problem."""

    function: str  # what is computed
    provider: str
    ours: bool  # else another library's
    size: int  # of the problem, for plots: see SIZES
    prepare: Callable  # () → call, which computes once; ImportError says why it cannot
    errors: Callable  # result of a call → {"error": …}; AssertionError if it is wrong
    work: dict  # what an ideal kernel has to do, as far as is known: "flops", "exps", "bytes"


def of_crf(shape, seed=0):
    """Loss, gradient and Viterbi of one batch (batch, steps, tags)."""
    from fastkeras.bench.crf import PROVIDERS, draw
    from fastkeras.bench.crf_accuracy import check, exact

    problem = draw(*shape, seed)
    expected = cache(partial(exact, problem))
    steps, num_tags = int(problem.lengths.sum()), shape[2]
    numbers = steps * num_tags
    works = {  # one pass over the chain each way, and one for the transitions' gradient
        "log-likelihood": {"flops": 2 * numbers * num_tags, "exps": numbers, "bytes": 4 * numbers},
        "gradient": {"flops": 6 * numbers * num_tags, "exps": numbers, "bytes": 8 * numbers},
        # A sum and a maximum, of which a processor does half as many as fused operations.
        "viterbi": {"flops": 4 * numbers * num_tags, "bytes": 4 * numbers},
    }
    made = cache(lambda provider: PROVIDERS[provider](problem))
    for function, work in works.items():
        for provider in PROVIDERS:
            yield Case(
                function,
                provider,
                provider.startswith(("fastkeras", *DOMAINS["crf"])),
                steps,
                lambda provider=provider, function=function: made(provider)[function],
                lambda found, function=function: check(function, found, problem, expected()),
                work,
            )


def of_optimizer(parameters, variables, rates=False, clip=False):
    """One AdamW step of variables of equal size, with so many parameters together."""
    from fastkeras.bench.optimizer import EPSILON_COMES_LATE, PROVIDERS, check, of_shapes

    size = parameters // variables
    problem = of_shapes([(size,)] * variables, [i * 12 // variables for i in range(variables)])
    function = "AdamW step" + ", rates by layer" * rates + ", global norm" * clip
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

        # Parameter and moments are read and written, the gradient is read, for its norm once more.
        moved = 8 + (4 if "8 bits" in provider else 16) + 4 + 4 * clip
        yield Case(
            function,
            provider,
            provider.startswith("fastkeras"),
            size * variables,
            prepare,
            lambda found, name=provider: {
                "error": check(problem, found, rates, clip, name in EPSILON_COMES_LATE) * 2.0**-23
            },
            {"flops": (14 + 2 * clip) * size * variables, "bytes": moved * size * variables},
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
            {"flops": 2 * numbers, "exps": numbers, "bytes": 4 * numbers},
        )


def of_word2vec(path, threads):
    """One pass over a corpus with so many threads, for each form of training."""
    from fastkeras.bench.word2vec import PROVIDERS
    from fastkeras.bench.word2vec_accuracy import check, work_of

    size, work = Path(path).stat().st_size, cache(partial(work_of, path))
    for function, providers in PROVIDERS.items():
        for provider, (make, settings) in providers.items():
            made = cache(partial(make, path, function, num_threads=threads, **settings))

            def prepare(made=made):
                def call():
                    made().call(1)
                    return made().vectors()[1]

                return call

            yield Case(
                function,
                provider,
                provider.startswith(("fastkeras", "numba")),
                size,
                prepare,
                lambda found, made=made: check(found, made()),
                {"flops": work()[function]},
            )


def beginning(path, part, folder):
    """A file with the first 1/part of a text, in this folder; None if it cannot be cut."""
    if part == 1:
        return path
    size = Path(path).stat().st_size // part
    if Path(path).suffix in (".gz", ".bz2", ".xz", ".zst") or not size:
        return None
    cut = Path(folder, f"{size} bytes.txt")
    with open(path, "rb") as whole, replacing(cut) as file:
        file.write(whole.read(size) + whole.readline())
    return str(cut)


def seconds(text):
    """The time that a person writes as 10 or 0.5."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"takes seconds above 0 such as 10 or 0.5, not {text!r}")
    return value


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
