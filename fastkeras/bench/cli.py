"""The command `fastkeras bench`: times the engines of this machine on shapes of your choice."""

import argparse
import json
import math
import os
import tempfile
from functools import partial
from pathlib import Path

import fastkeras
from fastkeras._engines import near
from fastkeras._files import check_writable, replacing
from fastkeras.bench import cases, earlier, limits, report

SECONDS = 10.0
WORDS, PART = 600_000, 4  # of the synthetic corpus, and the part of it that is read: 150,000
PARTS = (8, 4, 2, 1)  # of the problem, that the page shows beside each other


def main(arguments):
    """Run the command.

    Args:
        arguments: list of strings.

    Returns:
        The exit status: 1 if a result is wrong, or slower than in the earlier run given; 2 if
        nothing could be measured.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        import pytest_benchmark  # noqa: F401
        import rich  # noqa: F401

        if given.html:
            import matplotlib  # noqa: F401
    except ImportError as error:
        print(f"fastkeras bench: {error}; it takes `pip install 'fastkeras[bench]'`")
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Threads that spin while they wait slow down the library that is measured next.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    _check(parser, given)
    title = _title(given)
    old = None
    if given.compare:
        try:
            old = earlier.read(given.compare, title)
        except (OSError, ValueError) as error:
            parser.error(f"--compare {given.compare}: {error}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            chosen = _chosen(parser, given, folder)
            found = _measured(chosen, given, title)
        except MemoryError as error:
            parser.error(f"this machine has not enough memory: {error}")
    return _shown(given, found, old)


def _chosen(parser, given, folder):
    known = list(_cases(given, folder))
    names = list(dict.fromkeys(case.provider for case in known))
    for name in given.only or ():
        if name not in names:
            parser.error(f"--only {name!r}{near(name, names)}: known are {'; '.join(names)}")
    return [
        case
        for case in known
        if (case.provider in given.only if given.only else given.peers or case.ours)
    ]


def _measured(chosen, given, title):
    from fastkeras.bench import measure

    found = measure.measured(chosen, given.seconds)
    touched = max(case.work.get("bytes", 0) for case in chosen) or limits.MOST_COPIED
    found = {
        "version": earlier.VERSION,
        "fastkeras": fastkeras.__version__,
        "domain": given.domain,
        "title": title,
        "machine": limits.machine(),
        "rates": limits.measured(touched=touched, seconds=min(given.seconds / 50, 0.2)),
        **found,
    }
    if given.html:
        measure.with_fewer_processors(found, given)
    return found


def _shown(given, found, old):
    """Print and write what was found; return the exit status."""
    print("\n".join([report.heading(found), *report.table(found)]))
    slower = False
    if old:
        lines, slower = earlier.compared(found, old)
        print("\n".join(lines))
    if given.json:
        with replacing(given.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    if given.html:
        from fastkeras.bench.page import page

        with replacing(given.html, "w", encoding="utf-8") as file:
            file.write(page(found))
    return 1 if slower or found["wrong"] else 0 if found["rows"] or found["skipped"] else 2


def _parser():
    parser = argparse.ArgumentParser(
        prog="fastkeras bench",
        description="Compare the engines of this machine on your own shapes: each result is "
        "checked against float64, then timed by pytest-benchmark.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    seconds = _typed(cases.seconds)
    shared.add_argument("--seconds", type=seconds, default=SECONDS, help="in all, about (10)")
    shared.add_argument("--peers", action="store_true", help="other libraries too, if installed")
    shared.add_argument("--only", metavar="NAME", action="append", help="one provider; repeatable")
    shared.add_argument("--json", metavar="FILE", help="write what was found")
    shared.add_argument(
        "--html", metavar="FILE", help="write a page with plots; takes twice as long, or more"
    )
    shared.add_argument("--compare", metavar="FILE", help="an earlier --json; exit 1 if slower")
    domains = parser.add_subparsers(dest="domain", required=True, metavar="DOMAIN")
    crf = domains.add_parser("crf", parents=[shared], help="loss, gradient and Viterbi of a batch")
    shape = _typed(cases.shape)
    crf.add_argument(
        "--shape", type=shape, default=(32, 128, 9), help="batch,steps,tags (32,128,9)"
    )
    step = domains.add_parser("optimizer", parents=[shared], help="one step of AdamW")
    number = _typed(cases.number)
    step.add_argument("--parameters", type=number, default=5_000_000, help="as 110M (5M)")
    step.add_argument("--variables", type=number, default=199, help="they are in (199)")
    step.add_argument("--rates", action="store_true", help="learning rates by layer")
    step.add_argument("--clip", action="store_true", help="by the norm of all gradients")
    search = domains.add_parser("seq2seq", parents=[shared], help="one step of a beam search")
    axes = {"axes": "batch,beams,vocabulary", "example": "32,4,8192"}
    search.add_argument(
        "--shape",
        type=_typed(partial(cases.shape, **axes)),
        default=(32, 4, 8192),
        help="batch,beams,vocabulary (32,4,8192)",
    )
    words = domains.add_parser("word2vec", parents=[shared], help="one pass over a corpus")
    words.add_argument("--corpus", metavar="FILE", help="one sentence a line (else synthetic)")
    return parser


def _typed(parse):
    def typed(text):
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _check(parser, given):
    """What would fail later, after minutes, fails now."""
    for argument in ("json", "html"):
        if getattr(given, argument):
            try:
                check_writable(getattr(given, argument), f"--{argument}")
            except OSError as error:
                parser.error(f"{error.strerror}: {error.filename!r}")
    if given.domain == "optimizer" and given.variables > given.parameters:
        parser.error(
            f"--variables {given.variables} have at least one number each, "
            f"and --parameters is {given.parameters}"
        )
    needed = {
        "crf": lambda: 4 * (8 * math.prod(given.shape) + 3 * given.shape[2] ** 2),
        "optimizer": lambda: 4 * 6 * given.parameters,
        "seq2seq": lambda: 4 * 6 * math.prod(given.shape),
        "word2vec": lambda: 0,
    }[given.domain]()
    there = limits.memory()
    if there and needed > there:
        parser.error(
            f"it takes at least {needed / 2**30:,.1f} GiB of memory, "
            f"and this machine has {there / 2**30:,.1f}"
        )
    if given.domain == "word2vec" and given.corpus is not None:
        from fastkeras.bench.word2vec import MIN_COUNT
        from fastkeras.word2vec.vocabulary import build

        if not Path(given.corpus).is_file():
            parser.error(f"--corpus: there is no file {given.corpus!r}")
        try:
            if not len(build(given.corpus, min_count=MIN_COUNT).words):
                raise ValueError(f"no word of it occurs {MIN_COUNT} times")
        except (OSError, ValueError) as error:
            parser.error(f"--corpus {given.corpus}: {error}")


def _cases(given, folder):
    """The cases of the size asked for; for the page, preceded by smaller sizes."""
    parts = PARTS if given.html else (1,)
    if given.domain in ("crf", "seq2seq"):
        of_shape = cases.of_crf if given.domain == "crf" else cases.of_seq2seq
        axis = 0  # the batch is cut; if it is small, the steps or the vocabulary
        if given.shape[0] < max(PARTS):
            axis = 1 if given.domain == "crf" else 2
        before, whole, after = given.shape[:axis], given.shape[axis], given.shape[axis + 1 :]
        for size in dict.fromkeys(max(whole // part, 1) for part in parts):
            yield from of_shape((*before, size, *after))
    elif given.domain == "optimizer":
        for size in dict.fromkeys(max(given.parameters // p, given.variables) for p in parts):
            yield from cases.of_optimizer(size, given.variables, given.rates, given.clip)
    else:
        path = given.corpus
        if path is None:
            from fastkeras.bench.word2vec_corpus import write

            whole = str(Path(folder, "synthetic.txt"))
            write(whole, WORDS)
            path = cases.beginning(whole, PART, folder)
        for beginning in [cases.beginning(path, part, folder) for part in parts]:
            if beginning:
                yield from cases.of_word2vec(beginning, limits.processors())


def _title(given):
    return {
        "crf": lambda: "CRF, {} × {} × {}".format(*given.shape),
        "seq2seq": lambda: "a step of a beam search, {} × {} × {}".format(*given.shape),
        "optimizer": lambda: f"AdamW, {given.parameters:,} numbers in {given.variables} variables",
        "word2vec": lambda: f"Word2Vec, {Path(given.corpus).name if given.corpus else 'synthetic'}",
    }[given.domain]()
