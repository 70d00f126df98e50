"""The command `fastkeras word2vec`: train vectors, query, evaluate and convert them."""

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path
from zipfile import is_zipfile

FORMATS = (
    "by its suffix: .bin (word2vec's binary), .txt or .vec (its text), all three also with .gz, "
    ".npy (mapped into memory), .tsv (for projector.tensorflow.org)"
)


def main(arguments=None):
    """Run one sub-command of `fastkeras word2vec`.

    Args:
        arguments: list of strings; None takes those of the process.

    Returns:
        The exit status: 0; 1 after an error, printed to standard error; 130 after Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            given.run(given)
    except KeyboardInterrupt as interrupt:
        how_to_go_on = f": {_how_to_go_on(given)}" if interrupt.args else ""
        print(f"fastkeras word2vec: interrupted{how_to_go_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as with `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error  # str of one has quotes
        print(f"fastkeras word2vec {given.command}: error: {message}", file=sys.stderr)
        return 1
    return 0


def _show_warning(message, *_):
    print(f"fastkeras word2vec: warning: {message}", file=sys.stderr)


def _how_to_go_on(given):
    if given.checkpoint:
        return f"the same command goes on from {given.checkpoint}"
    return "nothing was written; with --checkpoint FILE the same command would go on"


def _parser():
    parser = argparse.ArgumentParser(prog="fastkeras word2vec", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

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
        help='files, plain or compressed (gzip, bzip2, xz, zstd), or patterns like "news/*.txt"',
    )
    train.add_argument(
        "-o", "--output", required=True, help=f"where the vectors are written, {FORMATS}"
    )
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
    train.set_defaults(run=_train)

    similar = commands.add_parser("similar", help="print the words nearest to a word")
    _add_vectors(similar)
    similar.add_argument(
        "words", nargs="*", metavar="WORD", help="without any they are read, a line each"
    )
    similar.set_defaults(run=_similar)

    analogy = commands.add_parser(
        "analogy",
        help="print what is to C what B is to A",
        description="Print the words that are to C what B is to A.",
        epilog="Example: fastkeras word2vec analogy vectors.bin man king woman",
    )
    _add_vectors(analogy)
    for name in "ABC":
        analogy.add_argument(name, metavar=name)
    analogy.set_defaults(run=_analogy)
    for command in similar, analogy:
        command.add_argument(
            "-n", "--topn", type=int, default=10, help="how many words to print (default 10)"
        )

    evaluate = commands.add_parser(
        "evaluate", help="score vectors by files of word pairs and of analogies"
    )
    _add_vectors(evaluate)
    evaluate.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="FILE",
        help="lines `word, word, how similar`, like WordSim-353 and SimLex-999",
    )
    evaluate.add_argument(
        "--analogies", nargs="+", default=[], metavar="FILE", help="files like questions-words.txt"
    )
    evaluate.add_argument(
        "--restrict-vocab",
        type=int,
        metavar="N",
        help="know only the first N words (default 300000, for analogies 30000)",
    )
    evaluate.add_argument("--case-sensitive", action="store_true", help="tell King from king")
    evaluate.add_argument(
        "--count-unknown",
        action="store_true",
        help="score what has unknown words as 0 or as wrong; otherwise it is left out",
    )
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser("export", help="write vectors in another form")
    _add_vectors(export)
    export.add_argument("output", help=f"the form is found {FORMATS}")
    export.add_argument("--limit", type=int, metavar="N", help="write the first N words only")
    export.set_defaults(run=_export)
    return parser


def _add_vectors(command):
    command.add_argument(
        "vectors",
        metavar="VECTORS",
        help="a file of vectors, of any form, or a model that `train --checkpoint` has written: if "
        "it has subwords, unknown words have vectors too",
    )


def _of(kind, metavar="N"):
    return {"type": kind, "metavar": metavar}


# The defaults are those of `Word2Vec`: it gets only the options that were given.
_OPTIONS = [
    ("--vector-size", _of(int), "how many numbers a vector has (default 100)"),
    ("--window", _of(int), "how many words before and after one count (default 5)"),
    ("--min-count", _of(int), "leave out words that occur less often (default 5)"),
    ("--max-vocab", _of(int), "keep that many words at most (default all)"),
    ("--objective", {"choices": ["skipgram", "cbow"]}, "what predicts what (default skipgram)"),
    (
        "--loss",
        {"choices": ["negative_sampling", "hierarchical_softmax", "sampled_softmax"]},
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
    ("--sample", _of(float, "X"), "thin out words more frequent than that (default 1e-4)"),
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


def _train(given):
    from fastkeras._files import check_writable
    from fastkeras.word2vec.corpus import Corpus
    from fastkeras.word2vec.training.trainer import Word2Vec
    from fastkeras.word2vec.vectors.files import format_of

    # Fail now rather than after the training.
    format_of(given.output)
    for path in filter(None, [given.output, given.vocabulary, given.checkpoint]):
        folder = Path(path).parent
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise OSError(
                f"{path} cannot be written: there is no folder {str(folder)!r} to write in"
            )
        check_writable(path, f"{path} cannot be written")
    names = {flag[2:].replace("-", "_") for flag, _, _ in _OPTIONS}
    options = {name: value for name, value in vars(given).items() if name in names}
    if options.get("shared_negatives") == "none":
        options["shared_negatives"] = None
    files = list(map(Path, given.files)) if len(given.files) > 1 else given.files[0]
    corpus = Corpus(files, given.errors)
    if given.checkpoint and Path(given.checkpoint).exists():
        model = Word2Vec.load(given.checkpoint)
        _check_same(model, options, given.checkpoint)
        model.resume(corpus, checkpoint=given.checkpoint, progress=True)
    else:
        model = Word2Vec(**options)
        model.fit(corpus, checkpoint=given.checkpoint, progress=True)
    try:
        model.vectors.save(given.output)
    except OSError as error:  # do not lose hours of training
        raise OSError(f"{error}; the vectors are in {_rescued(model.vectors, given)}") from error
    if given.vocabulary:
        model.vocabulary.save(given.vocabulary)
    print(f"{given.output}: {len(model.vectors)} words, vectors of size {model.vectors.size}")


def _rescued(vectors, given):
    """Write the vectors to the folder for temporary files, and return where."""
    path = Path(tempfile.mkdtemp(prefix="fastkeras-")) / Path(given.output).name
    vectors.save(path)
    return path


def _check_same(model, options, checkpoint):
    for name, value in options.items():
        if name != "num_threads" and model.config[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')}: {checkpoint} was written with {model.config[name]}, "
                f"not {value}; remove it to begin anew"
            )


def _load(given, limit=None):
    from fastkeras.word2vec.vectors import Vectors

    if not is_zipfile(given.vectors):
        return Vectors.load(given.vectors, limit)
    from fastkeras.word2vec.training.trainer import Word2Vec

    vectors = Word2Vec.load(given.vectors).vectors
    return vectors if limit is None else Vectors(vectors.words[:limit], vectors.matrix[:limit])


def _similar(given):
    vectors = _load(given)
    if given.words:
        for word in given.words:
            if len(given.words) > 1:
                print(f"{word}:")
            _print_words(vectors.most_similar(word, topn=given.topn))
        return
    for line in sys.stdin:
        word = line.strip()
        try:
            if word:
                _print_words(vectors.most_similar(word, topn=given.topn))
        except KeyError as error:  # go on: the next word may be known
            print(error.args[0], file=sys.stderr)


def _analogy(given):
    _print_words(_load(given).analogy(given.A, given.B, given.C, topn=given.topn))


def _print_words(words):
    for word, cosine in words:
        print(f"{cosine:7.4f}  {word}")


def _evaluate(given):
    from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs

    if not given.pairs and not given.analogies:
        raise ValueError("--pairs or --analogies must name a file")
    vectors = _load(given)
    options = {"case_insensitive": not given.case_sensitive, "count_unknown": given.count_unknown}
    if given.restrict_vocab is not None:
        options["restrict_vocab"] = given.restrict_vocab
    for path in given.pairs:
        scores = evaluate_word_pairs(vectors, path, **options)
        print(
            f"{path}: Spearman {scores.spearman:.4f}, Pearson {scores.pearson:.4f}, "
            f"{scores.pairs} pairs, {scores.unknown} with unknown words"
        )
    for path in given.analogies:
        scores = evaluate_analogies(vectors, path, **options)
        print(
            f"{path}: {scores.accuracy:.2%} right, {scores.correct} of {scores.questions}, "
            f"{scores.unknown} with unknown words"
        )
        for name, (correct, questions) in scores.sections.items():
            print(f"  {correct / questions:7.2%}  {correct:5} of {questions:5}  {name}")


def _export(given):
    from fastkeras.word2vec.vectors.files import format_of

    format_of(given.output)
    vectors = _load(given, given.limit)
    vectors.save(given.output)
    print(f"{given.output}: {len(vectors)} words, vectors of size {vectors.size}")
