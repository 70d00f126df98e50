"""The command `fastkeras`."""

import argparse
import sys

import fastkeras


def main(arguments=None):
    """Run one command.

    Args:
        arguments: list of strings; None takes those of the process.

    Returns:
        The exit status: 0, or 1 if `doctor` finds a problem; for other commands, that of their own
        `main`.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    parser = argparse.ArgumentParser(
        prog="fastkeras",
        description="Native kernels for Keras 3: structured layers, faster and more exact.",
        epilog="In Python: `from fastkeras.layers import CRF`; `from fastkeras.crf import viterbi`",
    )
    parser.add_argument("--version", action="version", version=f"fastkeras {fastkeras.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    doctor_parser = commands.add_parser(
        "doctor",
        help="tell what is installed, which engines can run here, and why the others cannot",
        description="Tell what is installed and what it was built for, which engines can run here "
        "and which `fit` takes, and for every problem what mends it. Put the output into a bug "
        "report. The exit status is 1 if there is a problem.",
    )
    doctor_parser.add_argument("--json", action="store_true", help="the same for programs")
    commands.add_parser("word2vec", help="train word vectors, and ask and evaluate them")
    commands.add_parser("convert-crf", help="take over the weights of another library's CRF")
    commands.add_parser("bench", help="compare the engines of this machine on your own shapes")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:
        from fastkeras.bench.cli import main as bench

        return bench(arguments[1:])
    if arguments[:1] == ["word2vec"]:
        from fastkeras.word2vec.cli import main as word2vec

        return word2vec(arguments[1:])
    if arguments[:1] == ["convert-crf"]:
        from fastkeras.compat.cli import main as convert_crf

        return convert_crf(arguments[1:])
    given = parser.parse_args(arguments)
    if given.command == "doctor":
        from fastkeras._doctor import doctor

        return doctor(given.json)
    parser.print_help()
    return 0
