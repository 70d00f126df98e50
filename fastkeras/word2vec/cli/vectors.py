"""`fastkeras word2vec evaluate` and `export`, and the files of vectors that commands take."""

from zipfile import is_zipfile

FORMATS = (
    "by its suffix: .bin (word2vec's binary), .txt or .vec (its text), all three also with .gz, "
    ".npy (mapped into memory), .tsv (for projector.tensorflow.org)"
)


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
    form.add_argument(
        "--fasttext", action="store_true", help="write a model of fastText, with its n-grams"
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
        "it has subwords, unknown words have vectors too",
    )


def load(given, limit=None):
    """Read the file of vectors, or the vectors of a model."""
    from fastkeras.word2vec.vectors import Vectors

    if not is_zipfile(given.vectors):
        return Vectors.load(given.vectors, limit)
    from fastkeras.word2vec.training.trainer import Word2Vec

    vectors = Word2Vec.load(given.vectors).vectors
    return vectors if limit is None else Vectors(vectors.words[:limit], vectors.matrix[:limit])


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
    from fastkeras.word2vec.vectors.files import format_of

    if given.fasttext:
        _export_to_fasttext(given)
        return
    format_of(given.output)
    vectors = load(given, given.limit)
    vectors = vectors.quantized() if given.eight_bits else vectors
    vectors.save(given.output)
    print(f"{given.output}: {len(vectors)} words, vectors of size {vectors.size}")


def _export_to_fasttext(given):
    from fastkeras.word2vec import fasttext

    if given.limit is None and is_zipfile(given.vectors):  # with its output matrix, if it has one
        from fastkeras.word2vec.training.trainer import Word2Vec

        model = Word2Vec.load(given.vectors)
        trained = model.config["loss"] == "negative_sampling"
        vectors, source = model.vectors, model if trained else model.vectors
    else:
        vectors = source = load(given, given.limit)
    fasttext.save(source, given.output)
    print(f"{given.output}: {len(vectors)} words, vectors of size {vectors.size}")
