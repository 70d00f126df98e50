"""`fastkeras word2vec train`."""

import argparse
import os
import sys
import tempfile
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from fastkeras.word2vec.cli.vectors import FORMATS, STDOUT, add_format, output_of, tell
from fastkeras.word2vec.training.settings import LOSSES


def add(commands):
    """Add the command `train`."""
    train = commands.add_parser(
        "train",
        help="train vectors on text files",
        description="Train vectors on text files: UTF-8, a sentence a line, spaces between words.",
        epilog="Example: fastkeras word2vec train news.txt.gz -o vectors.bin --epochs 3",
    )
    train.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help='files, plain or compressed (gzip, bzip2, xz, zstd), or patterns like "news/*.txt"; - '
        "reads from standard input",
    )
    train.add_argument(
        "--column", metavar="NAME", help="the column of sentences, of Parquet and Arrow files"
    )
    train.add_argument(
        "-o", "--output", required=True, help=f"where the vectors are written, {FORMATS}"
    )
    add_format(train)
    train.add_argument("--vocabulary", help="where the words and their counts are written too")
    train.add_argument(
        "--checkpoint", help="a file to go on from if it is there, and to write to now and then"
    )
    train.add_argument(
        "--errors",
        choices=["strict", "replace"],
        default="strict",
        help="text that is not UTF-8 is an error (default), or gets the sign U+FFFD",
    )
    model = train.add_argument_group("model and training")
    for flag, kind, text in _OPTIONS:
        model.add_argument(flag, default=argparse.SUPPRESS, help=text, **kind)
    train.set_defaults(run=_run)


def _of(kind, metavar="N"):
    return {"type": kind, "metavar": metavar}


def _words(text):
    return None if text == "sentence" else int(text)


# The defaults are those of `Word2Vec`: it gets only the options that were given.
_OPTIONS = [
    ("--vector-size", _of(int), "how many numbers a vector has (default 100)"),
    (
        "--window",
        _of(_words),
        "how many words before and after one count (default 5), or `sentence` for all of it",
    ),
    ("--min-count", _of(int), "leave out words that occur less often (default 5)"),
    ("--max-vocab", _of(int), "keep that many words at most (default all)"),
    ("--objective", {"choices": ["skipgram", "cbow"]}, "what predicts what (default skipgram)"),
    (
        "--loss",
        {"choices": list(LOSSES)},
        "default negative_sampling",
    ),
    ("--negative", _of(int), "how many words are drawn for each, as noise (default 5)"),
    ("--ns-exponent", _of(float, "X"), "of the counts by which those are drawn (default 0.75)"),
    (
        "--shared-negatives",
        {"choices": ["window", "none"]},
        "draw them once a window, which is faster (default window), or once a pair",
    ),
    ("--cbow-gradient", {"choices": ["word2vec", "exact"]}, "of the input vectors of cbow"),
    (
        "--sample",
        _of(float, "X"),
        "thin out words more frequent than that (default 1e-4, more if there are few words)",
    ),
    ("--learning-rate", _of(float, "X"), "at the start (default by objective)"),
    ("--end-learning-rate", _of(float, "X"), "at the end, reached in a straight line"),
    ("--epochs", _of(int), "passes over the text (default 5)"),
    (
        "--subwords",
        {"action": "store_true"},
        "learn vectors of n-grams too, so that unknown words have one; a --checkpoint keeps them",
    ),
    ("--min-n", _of(int), "letters of an n-gram at least (default 3)"),
    ("--max-n", _of(int), "letters of an n-gram at most (default 6)"),
    ("--buckets", _of(int), "how many rows n-grams share at most (default 2000000)"),
    ("--subword-gradient", {"choices": ["exact", "fasttext"]}, "of the vectors of n-grams"),
    (
        "--shrink-windows",
        {"action": argparse.BooleanOptionalAction},
        "draw each window's size from 1 to WINDOW (default yes)",
    ),
    ("--num-threads", _of(int), "default all processors"),
    ("--seed", _of(int), "of the random numbers (default 1)"),
    ("--deterministic", {"action": "store_true"}, "the same bits with any number of threads"),
]


def _run(given):
    given.output = output_of(given.output)
    progress = redirect_stdout(sys.stderr) if given.output == STDOUT else nullcontext()
    with progress:
        _train(given)


def _train(given):
    from fastkeras._files import check_writable
    from fastkeras.word2vec.corpus import Corpus
    from fastkeras.word2vec.training.trainer import Word2Vec
    from fastkeras.word2vec.vectors.files import format_of

    # Fail now rather than after the training.
    format_of(given.output, given.format)
    for path in filter(None, [given.output, given.vocabulary, given.checkpoint]):
        folder = Path(path).parent
        if path != STDOUT and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise OSError(
                f"{path} cannot be written: there is no folder {str(folder)!r} to write in"
            )
        check_writable(path, f"{path} cannot be written")
    names = {flag[2:].replace("-", "_") for flag, _, _ in _OPTIONS}
    options = {name: value for name, value in vars(given).items() if name in names}
    if options.get("shared_negatives") == "none":
        options["shared_negatives"] = None
    files = list(map(Path, given.files)) if len(given.files) > 1 else given.files[0]
    corpus = Corpus(sys.stdin if files == "-" else files, given.errors, given.column)
    if given.checkpoint and Path(given.checkpoint).exists():
        model = Word2Vec.load(given.checkpoint)
        _check_same(model, options, given.checkpoint)
        threads = {name: options[name] for name in ["num_threads"] if name in options}
        model.resume(corpus, checkpoint=given.checkpoint, progress=True, **threads)
    else:
        model = Word2Vec(**options)
        model.fit(corpus, checkpoint=given.checkpoint, progress=True)
    try:
        model.vectors.save(given.output, given.format)
    except OSError as error:  # do not lose hours of training
        raise OSError(f"{error}; the vectors are in {_rescued(model.vectors, given)}") from error
    if given.vocabulary:
        model.vocabulary.save(given.vocabulary)
    tell(given.output, model.vectors)


def _rescued(vectors, given):
    """Write the vectors to the folder for temporary files, and return where."""
    path = Path(tempfile.mkdtemp(prefix="fastkeras-")) / Path(given.output).name
    vectors.save(path, given.format)
    return path


def _check_same(model, options, checkpoint):
    for name, value in options.items():
        if name != "num_threads" and model.config[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')}: {checkpoint} was written with {model.config[name]}, "
                f"not {value}; remove it to begin anew"
            )


def how_to_go_on(given):
    """Return what a user does after Ctrl-C."""
    if given.checkpoint:
        return f"the same command goes on from {given.checkpoint}"
    return "nothing was written; with --checkpoint FILE the same command would go on"
