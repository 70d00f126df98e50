"""`fastkeras word2vec evaluate` and `export`, and the files of vectors that commands take."""

import sys
from zipfile import is_zipfile

from fastkeras._files import rereadable
from fastkeras.word2vec.arguments import integer

FORMATS = (
    "by its suffix: .bin (word2vec's binary), .txt or .vec (its text), all three also with .gz, "
    ".npy (mapped into memory), .tsv (for projector.tensorflow.org); - is standard output, with "
    "--format"
)
STDIN, STDOUT = "/dev/stdin", "/dev/stdout"


def add(commands):
    """Add the commands `evaluate` and `export`."""
    evaluate = commands.add_parser(
        "evaluate", help="score vectors by files of word pairs and of analogies"
    )
    add_vectors(evaluate)
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
    add_vectors(export)
    export.add_argument("output", help=f"the form is found {FORMATS}")
    export.add_argument("--limit", type=int, metavar="N", help="write the first N words only")
    form = export.add_mutually_exclusive_group()
    add_format(form)
    form.add_argument(
        "--fasttext",
        action="store_true",
        help="write a model of fastText, with its n-grams, which all other forms leave out",
    )
    form.add_argument(
        "--eight-bits", action="store_true", help="round to 8 bits; a .npy file gets a quarter"
    )
    export.set_defaults(run=_export)


def add_vectors(command):
    """Add the argument that names a file of vectors."""
    command.add_argument(
        "vectors",
        metavar="VECTORS",
        help="a file of vectors, of any form, or a model that `train --checkpoint` has written: if "
        "it has subwords, unknown words have vectors too; - reads from standard input",
    )


def add_format(command):
    """Add the option that tells the form of an output whose name does not."""
    command.add_argument(
        "--format",
        choices=["binary", "text"],
        help="of the vectors, word2vec's: for standard output, pipes, and names of no known suffix",
    )


def output_of(name):
    """Return the path to write to."""
    return STDOUT if name == "-" else name


def tell(output, vectors):
    """Tell what was written; not where the vectors themselves went."""
    file = sys.stderr if output == STDOUT else sys.stdout
    print(f"{output}: {len(vectors)} words, vectors of size {vectors.size}", file=file)


def load(given, limit=None):
    """Read the file of vectors, or the vectors of a model."""
    from fastkeras.word2vec.vectors import Vectors

    source = _source(given, limit)
    return source if isinstance(source, Vectors) else _first(source.vectors, limit)


def _source(given, limit):
    """Return the vectors of a file, or the model."""
    if limit is not None:
        limit = integer("limit", limit, 1, None)
    with rereadable(STDIN if given.vectors == "-" else given.vectors) as path:
        if is_zipfile(path):
            from fastkeras.word2vec.training.trainer import Word2Vec

            return Word2Vec.load(path)
        from fastkeras.word2vec.vectors import Vectors

        return Vectors.load(path, limit)


def _first(vectors, limit):
    """Return the first vectors, with all n-grams."""
    from fastkeras.word2vec.vectors import Vectors
    from fastkeras.word2vec.vectors.subword_vectors import SubwordVectors

    if limit is None:
        return vectors
    words, matrix, counts = vectors.words[:limit], vectors.matrix[:limit], vectors.counts[:limit]
    if not isinstance(vectors, SubwordVectors):
        return Vectors(words, matrix, counts)
    of_ngrams = vectors.buckets, vectors.bucket_matrix
    lengths = vectors.num_buckets, vectors.min_n, vectors.max_n
    of_words = words, matrix, vectors.word_matrix[:limit]
    return SubwordVectors.of_parts(*of_words, *of_ngrams, *lengths, counts)


def _evaluate(given):
    from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs

    if not given.pairs and not given.analogies:
        raise ValueError("--pairs or --analogies must name a file")
    vectors = load(given)
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
    from fastkeras.word2vec import fasttext
    from fastkeras.word2vec.vectors import Vectors
    from fastkeras.word2vec.vectors.files import format_of

    output = output_of(given.output)
    if not given.fasttext:
        format_of(output, given.format)
        vectors = load(given, given.limit)
        vectors = vectors.quantized() if given.eight_bits else vectors
        vectors.save(output, given.format)
        return tell(output, vectors)
    source = _source(given, given.limit)
    vectors = source
    if not isinstance(source, Vectors):
        vectors = _first(source.vectors, given.limit)
        trained = source.config["loss"] == "negative_sampling"
        # With its output matrix, if it has one of just these words.
        source = source if trained and given.limit is None else vectors
    fasttext.save(source, output)
    tell(output, vectors)
