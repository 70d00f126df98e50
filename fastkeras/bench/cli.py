"""The command `fastkeras bench`: times the engines of this machine on shapes of your choice."""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import fastkeras
from fastkeras._files import check_writable, replacing
from fastkeras.bench import cases

VERSION = 1  # of the results that --json writes
SECONDS = 10.0
WORDS = 300_000  # of the synthetic corpus


def main(arguments):
    """Run the command; return 1 if a result is wrong, or slower than in an earlier run given."""
    given = _parser().parse_args(arguments)
    try:
        import pytest
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        print(f"fastkeras bench: {error}; it takes `pip install 'fastkeras[bench]'`")
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for argument in ("json", "html"):
        if getattr(given, argument):
            check_writable(getattr(given, argument), f"--{argument}")
    old = _read(given.compare) if given.compare else None
    with tempfile.TemporaryDirectory() as folder:
        chosen = [case for case in _cases(given, folder) if _wanted(case, given)]
        if not chosen:
            names = dict.fromkeys(case.provider for case in _cases(given, folder))
            print(f"fastkeras bench: --only {given.only}: these are known: {'; '.join(names)}")
            return 2
        found = _measure(pytest, chosen, given)
    print(_title(given, found))
    from fastkeras.bench import report

    print("\n".join(report.table(found)))
    slower = False
    if old:
        lines, slower = report.compared(found, old)
        print("\n".join(lines))
    if given.json:
        with replacing(given.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
    if given.html:
        from fastkeras.bench.page import page

        with replacing(given.html, "w", encoding="utf-8") as file:
            file.write(page(_title(given, found), found))
    for wrong in found["wrong"]:
        print(f"\nWRONG: {wrong}", file=sys.stderr)
    return 1 if slower or found["wrong"] else 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="fastkeras bench",
        description="Compare the engines of this machine on your own shapes: each result is "
        "checked against float64, then timed by pytest-benchmark.",
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--seconds", type=float, default=SECONDS, help="in all, about (10)")
    shared.add_argument("--peers", action="store_true", help="other libraries too, if installed")
    shared.add_argument("--only", metavar="NAME", action="append", help="one provider; repeatable")
    shared.add_argument("--json", metavar="FILE", help="write what was found")
    shared.add_argument("--html", metavar="FILE", help="write a page with plots, by size too")
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


def _cases(given, folder):
    """The cases of the size asked for; for the page, preceded by smaller sizes."""
    parts = (8, 4, 2, 1) if given.html else (1,)
    if given.domain in ("crf", "seq2seq"):
        batch, *rest = given.shape
        of_shape = cases.of_crf if given.domain == "crf" else cases.of_seq2seq
        for size in dict.fromkeys(max(batch // part, 1) for part in parts):
            yield from of_shape((size, *rest))
    elif given.domain == "optimizer":
        for part in parts:
            size = max(given.parameters // part, given.variables)
            yield from cases.of_optimizer(size, given.variables, given.rates, given.clip)
    else:
        path = given.corpus
        if path is None:
            from fastkeras.bench.word2vec_corpus import write

            path = str(Path(folder, "synthetic.txt"))
            write(path, WORDS)
        elif not Path(path).is_file():
            raise SystemExit(f"fastkeras bench: --corpus: there is no file {path!r}")
        yield from cases.of_word2vec(path)


def _wanted(case, given):
    return case.provider in given.only if given.only else given.peers or case.ours


def _measure(pytest, chosen, given):
    """Let pytest-benchmark measure; its output is shown only if pytest itself fails."""
    from fastkeras.bench.limits import measured
    from fastkeras.bench.run import Plugin

    printed = io.StringIO()
    with _progress(len(chosen)) as advance:
        plugin = Plugin(chosen, given.seconds / len(chosen), advance)
        arguments = [str(Path(__file__).with_name("run.py")), "-q", "--rootdir", os.curdir]
        arguments += ["-p", "no:cacheprovider", "-c", os.devnull, "-W", "ignore", "--tb=line"]
        arguments += ["-o", "python_files=run.py", "--benchmark-disable-gc"]
        with contextlib.redirect_stdout(printed):
            status = pytest.main([*arguments, "--import-mode=importlib"], plugins=[plugin])
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(printed.getvalue())
        raise SystemExit(2)
    return {
        "version": VERSION,
        "fastkeras": fastkeras.__version__,
        "domain": given.domain,
        "rates": measured(),
        "rows": plugin.rows,
        "skipped": plugin.skipped,
        "wrong": plugin.wrong,
    }


@contextlib.contextmanager
def _progress(total):
    """A progress bar on a terminal; yields the function to call after each case."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=total)
        yield lambda: bar.advance(task)


def _title(given, found):
    what = {
        "crf": lambda: "CRF, {} × {} × {}".format(*given.shape),
        "seq2seq": lambda: "a step of a beam search, {} × {} × {}".format(*given.shape),
        "optimizer": lambda: f"AdamW, {given.parameters:,} numbers in {given.variables} variables",
        "word2vec": lambda: f"Word2Vec, {Path(given.corpus).name if given.corpus else 'synthetic'}",
    }[given.domain]()
    rates = found["rates"]
    return (
        f"{what}, float32; this machine: {rates['flops'] / 1e9:,.0f} G flops a second in a matrix "
        f"product, {rates['bytes'] / 2**30:,.1f} GiB a second in a copy"
    )


def _read(path):
    try:
        old = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"fastkeras bench: --compare {path}: {error}") from None
    if not isinstance(old, dict) or old.get("version") != VERSION:
        raise SystemExit(f"fastkeras bench: --compare {path}: --json of this version wrote no such")
    return old
