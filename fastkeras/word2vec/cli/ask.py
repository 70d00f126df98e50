"""`fastkeras word2vec similar`, `analogy` and `page`."""

import contextlib
import sys
from pathlib import Path

from fastkeras._files import check_writable
from fastkeras.word2vec.cli.vectors import add_vectors, load
from fastkeras.word2vec.page import LAYOUTS, write_page


def add(commands):
    """Add the commands `similar`, `analogy` and `page`."""
    similar = commands.add_parser("similar", help="print the words nearest to a word")
    add_vectors(similar)
    similar.add_argument(
        "words", nargs="*", metavar="WORD", help="without any they are asked for, a line each"
    )
    similar.set_defaults(run=_similar)

    analogy = commands.add_parser(
        "analogy",
        help="print what is to C what B is to A",
        description="Print the words that are to C what B is to A. Without words, lines `A B C` "
        "are asked for, or read from a pipe.",
        epilog="Example: fastkeras word2vec analogy vectors.bin man king woman",
    )
    add_vectors(analogy)
    analogy.add_argument("words", nargs="*", metavar="A B C", help="three words")
    analogy.set_defaults(run=_analogy)
    for command in similar, analogy:
        command.add_argument(
            "-n", "--topn", type=int, default=10, help="how many words to print (default 10)"
        )

    page = commands.add_parser(
        "page",
        help="write a page for browsers: a map of the words and their neighbors",
        epilog="Example: fastkeras word2vec page vectors.bin words.html --words 3000",
    )
    add_vectors(page)
    page.add_argument("output", help="the HTML file; it needs no other")
    page.add_argument("--words", type=int, default=1000, help="show the first so many (1000)")
    page.add_argument("-n", "--topn", type=int, default=12, help="neighbors of each (12)")
    page.add_argument("--layout", choices=LAYOUTS, default="pca", help="of the map (pca)")
    page.add_argument("--title", help="of the page (default the name of VECTORS)")
    page.set_defaults(run=_page)


def _similar(given):
    _check_input(given)
    vectors = load(given)
    if not given.words:
        return _answer("word", lambda line: vectors.most_similar(line, topn=given.topn))
    for word in given.words:
        if len(given.words) > 1:
            print(f"{word}:")
        _print_words(vectors.most_similar(word, topn=given.topn))


def _analogy(given):
    _check_input(given)
    vectors = load(given)

    def ask(words):
        if len(words) != 3:
            raise ValueError(f"an analogy takes three words, A B C, not {len(words)}")
        return vectors.analogy(*words, topn=given.topn)

    if not given.words:
        return _answer("A B C", lambda line: ask(line.split()))
    _print_words(ask(given.words))


def _check_input(given):
    if given.vectors == "-" and not given.words:
        raise ValueError("standard input has the vectors, so the words must be named: WORD")


def _answer(prompt, ask):
    """Answer the lines of a terminal or of a pipe; one that has no answer does not end it."""
    for line in _lines(prompt):
        try:
            if line.strip():
                _print_words(ask(line.strip()))
        except (KeyError, ValueError) as error:
            print(error.args[0], file=sys.stderr)


def _lines(prompt):
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` a history)
    with contextlib.suppress(EOFError):
        while True:
            yield input(f"{prompt} (Ctrl-D ends) > ")
    print()


def _print_words(words):
    for word, cosine in words:
        print(f"{cosine:7.4f}  {word}", flush=True)


def _page(given):
    check_writable(given.output, f"{given.output} cannot be written")
    vectors = load(given)
    of_source = "Word vectors" if given.vectors == "-" else Path(given.vectors).name
    title = given.title or of_source
    write_page(vectors, given.output, given.words, given.topn, given.layout, title)
    print(f"{given.output}: a map of {min(given.words, len(vectors))} words; open it in a browser")
