"""`fastkeras word2vec similar` and `analogy`."""

import sys

from fastkeras.word2vec.cli.vectors import add_vectors, load


def add(commands):
    """Add the commands `similar` and `analogy`."""
    similar = commands.add_parser("similar", help="print the words nearest to a word")
    add_vectors(similar)
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
    add_vectors(analogy)
    for name in "ABC":
        analogy.add_argument(name, metavar=name)
    analogy.set_defaults(run=_analogy)
    for command in similar, analogy:
        command.add_argument(
            "-n", "--topn", type=int, default=10, help="how many words to print (default 10)"
        )


def _similar(given):
    vectors = load(given)
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
    _print_words(load(given).analogy(given.A, given.B, given.C, topn=given.topn))


def _print_words(words):
    for word, cosine in words:
        print(f"{cosine:7.4f}  {word}")
