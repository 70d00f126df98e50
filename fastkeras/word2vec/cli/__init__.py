"""The command `fastkeras word2vec`: train vectors, query, evaluate and convert them."""

import argparse
import os
import sys
import warnings

from fastkeras.word2vec.cli import ask, train, vectors

# What a user can mend; anything else is a fault of ours, and shows its traceback.
ERRORS = (ArithmeticError, ImportError, KeyError, MemoryError, OSError, TypeError, ValueError)


def main(arguments=None):
    """Run one sub-command of `fastkeras word2vec`.

    Args:
        arguments: list of strings; None takes those of the process.

    Returns:
        The exit status: 0; 1 after an error, printed to standard error; 130 after Ctrl-C.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            given.run(given)
    except KeyboardInterrupt as interrupt:
        how_to_go_on = f": {train.how_to_go_on(given)}" if interrupt.args else ""
        print(f"fastkeras word2vec: interrupted{how_to_go_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as with `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ERRORS as error:
        message = error.args[0] if isinstance(error, KeyError) else error  # str of one has quotes
        print(f"fastkeras word2vec {given.command}: error: {message}", file=sys.stderr)
        return 1
    return 0


def _show_warning(message, *_):
    print(f"fastkeras word2vec: warning: {message}", file=sys.stderr)


def _parser():
    parser = argparse.ArgumentParser(prog="fastkeras word2vec", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in train, ask, vectors:
        module.add(commands)
    return parser
