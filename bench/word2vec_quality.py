"""Word2Vec's vectors against people's judgements of English words: ours and others', by seed.

    pip install gensim==4.4.0 fasttext==0.9.3

    python bench/word2vec_quality.py
    python bench/word2vec_quality.py --corpus text8
    python bench/word2vec_quality.py --seeds 8 --models 'skip-gram, exact' 'gensim skip-gram'

The texts are those of word2vec_english.py, or the plain text that --corpus names, and a synthetic
one with planted analogies (fastkeras/bench/word2vec_corpus.py). All have the same settings, one
thread, and a learning rate that falls linearly in the same way, which gensim's does only with one
worker. The scores are Spearman's coefficients (WordSim-353, SimLex-999) and solved analogies, where
the word is sought among the 30,000 most frequent. Rare pairs are those of both sets with a word
that occurs fewer than 100 times; theirs is the mean of the two coefficients. On texts as small as
these the scores are low, and differ by seed.

Each seed has an order of lines of its own, the same for all models, and thereby a tree of its own
too: words of one frequency are put into the tree in the order of their first occurrence, by gensim
in the reverse. Which of them come together is chance, and with one tree the hierarchical softmax
solves up to a point more of the analogies than with another.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import word2vec_english
from word2vec_quality_summary import summary

from conftest import CORES, machine, results_path, store
from fastkeras.bench import word2vec_corpus
from fastkeras.bench.word2vec import END_RATE, MIN_COUNT, NEGATIVE, RATES, SAMPLE, SIZE, WINDOW

SYNTHETIC_WORDS = 2_000_000
BUCKETS = 200_000  # of n-grams
RARE = 100  # occurrences
LONGEST_LINE = 1 << 13  # characters
MODELS = {  # of ours
    "skip-gram, exact": {"shared_negatives": None},
    "skip-gram, window-shared": {},
    "CBOW, word2vec's update": {"objective": "cbow", "cbow_gradient": "word2vec"},
    "CBOW, exact gradient": {"objective": "cbow", "cbow_gradient": "exact"},  # at a rate of its own
    "hierarchical softmax": {"loss": "hierarchical_softmax"},
    "n-grams": {"subwords": True, "buckets": BUCKETS},
}
OF_GENSIM = {
    "gensim skip-gram": {"sg": 1, "alpha": RATES["skip-gram"]},
    "gensim CBOW": {"sg": 0, "alpha": RATES["CBOW"]},
    "gensim hierarchical softmax": {
        "sg": 1, "hs": 1, "negative": 0, "alpha": RATES["hierarchical softmax"],
    },
}  # fmt: skip
OF_FASTTEXT = {"fastText": {"minn": 3, "maxn": 6, "bucket": BUCKETS, "lr": 0.05}}  # its default


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", help="a plain text, such as text8, instead of the English one")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    names = [name for _, models in TRAINED for name in models]
    parser.add_argument(
        "--models", nargs="+", choices=names, metavar="MODEL", default=names,
        help="only these; the others keep the scores that are on record",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=len(CORES), help="trainings at a time")
    parser.add_argument("--quick", action="store_true", help="one seed and epoch; writes nothing")
    parser.add_argument("--results", type=Path, help="default: bench/results/<machine>.json")
    options = parser.parse_args()
    if options.quick:
        options.epochs = options.seeds = 1
    results = {"machine": machine(), "epochs": options.epochs, "texts": {}}
    results |= {"order_by_seed": True}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(options.jobs) as pool:
        for name, path, words in texts(folder, options.corpus, options.quick):
            size = os.path.getsize(path)
            results["texts"][name] = {"words": words, "bytes": size, "rows": {}}
            # Planted analogies occur so often that one pass is enough.
            epochs = 1 if name == "synthetic" else options.epochs
            if name != "synthetic":
                for judgements in word2vec_english.judged()[:2]:  # before several processes read
                    of_rare(judgements, path)
            planted = name == "synthetic"
            fill(results["texts"][name], pool, path, planted, epochs, options.seeds, options.models)
    path = options.results or results_path("word2vec-quality", results["machine"])
    if options.models != names and path.exists():
        keep_rows(results["texts"], json.loads(path.read_text("utf-8"))["texts"], names)
    print("\n".join(summary(results)))
    if not (options.quick or options.corpus) or options.results:
        store(results, path)
        print(f"written: {path}")


def texts(folder, own, quick):
    """Yield (name, path, words) of each text."""
    path = os.path.join(folder, "text.txt")
    if own:
        yield os.path.basename(own), path, with_short_lines(own, path)
    else:
        yield "English", path, word2vec_english.write(path)
    words = SYNTHETIC_WORDS // 4 if quick else SYNTHETIC_WORDS
    word2vec_corpus.write(path, words)
    yield "synthetic", path, words


def with_short_lines(source, path):
    """Copy a text, with long lines cut as word2vec.c does; return the number of words.

    gensim drops everything after the 10,000th word of a line, and text8 is a single line.
    """
    words, left = 0, ""
    with open(source, encoding="utf-8") as text, open(path, "w", encoding="utf-8") as file:
        while part := text.readline(LONGEST_LINE):
            part, left = left + part, ""
            if not part.endswith("\n"):
                part, _, left = part.rpartition(" ")
            file.write(part.rstrip("\n") + "\n")
            words += len(part.split())
        file.write(left + "\n")
    return words + len(left.split())


def keep_rows(texts, recorded, names):
    """Add the rows of the models that were not trained now."""
    for name, text in texts.items():
        former = recorded[name]
        assert former["common"] == text["common"], f"{name} has other words than on record"
        rows = former["rows"] | text["rows"]
        text["rows"] = {name: rows[name] for name in names if name in rows}


def fill(of_text, pool, path, planted, epochs, seeds, models):
    """Train each model with each seed; add the scores, and what is common to all."""
    orders = {seed: in_order_of(seed, path) for seed in range(1, seeds + 1)}
    cases = list(product(orders, models))
    asked = [(path, orders[seed], name, seed, epochs, planted) for seed, name in cases]
    for (seed, name), (scores, common) in zip(
        cases, pool.map(score, *zip(*asked, strict=True)), strict=True
    ):
        print(f"{name}, seed {seed}: {scores}", file=sys.stderr, flush=True)
        row = of_text["rows"].setdefault(name, {})
        for measure, value in scores.items():
            row.setdefault(measure, []).append(value)
        assert of_text.setdefault("common", common) == common, f"{name} has other words"


def in_order_of(seed, path):
    """Write the lines of a text in the order of a seed; return the path."""
    lines = Path(path).read_text("utf-8").splitlines()
    own = Path(path).with_name(f"{seed}.txt")
    order = np.random.default_rng(seed).permutation(len(lines))
    own.write_text("".join(f"{lines[i]}\n" for i in order), "utf-8")
    return str(own)


def score(path, own, name, seed, epochs, planted):
    """Return the scores of a model by measure, and (vocabulary, pairs, questions) they are of.

    It learns from `own`, the lines of `path` in another order; `path` has the order of the words.
    """
    from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
    from fastkeras.word2vec.vectors import Vectors
    from fastkeras.word2vec.vocabulary import build

    words = build(path, min_count=MIN_COUNT).words
    matrix = next(
        train(own, words, seed, epochs, models[name]) for train, models in TRAINED if name in models
    )
    vectors = Vectors(words, matrix)
    common = {"vocabulary": len(vectors)}
    if planted:
        return {"planted": word2vec_corpus.analogies((vectors.words, vectors.matrix))}, common
    wordsim, simlex, analogies = word2vec_english.judged()
    pairs = {
        "wordsim": evaluate_word_pairs(vectors, wordsim),
        "simlex": evaluate_word_pairs(vectors, simlex),
    }
    solved = evaluate_analogies(vectors, analogies)
    common |= {measure: found.pairs for measure, found in pairs.items()}
    common["analogies"] = solved.questions
    rare = [evaluate_word_pairs(vectors, of_rare(file, path)) for file in (wordsim, simlex)]
    common["rare"] = sum(found.pairs for found in rare)
    scores = {measure: found.spearman for measure, found in pairs.items()}
    scores["rare"] = sum(found.spearman for found in rare) / len(rare)
    return {**scores, "analogies": 100 * solved.accuracy}, common


def of_rare(judgements, text):
    """Write the pairs with a rare word, once; return their path."""
    from fastkeras.word2vec.vocabulary import build

    path = Path(text).with_name(f"rare-{judgements.name}")
    if not path.exists():
        vocabulary = build(text, min_count=MIN_COUNT)
        counts = dict(zip(vocabulary.words, vocabulary.counts, strict=True))
        lines = judgements.read_text("utf-8").splitlines()
        pairs = [line for line in lines if len(line.split()) >= 3 and line[0] != "#"]
        rare = [
            line
            for line in pairs
            if min(counts.get(w.lower(), RARE) for w in line.split()[:2]) < RARE
        ]
        path.write_text("\n".join(rare), "utf-8")
    return path


def ours(path, words, seed, epochs, settings):
    from fastkeras.word2vec import Word2Vec

    model = Word2Vec(
        SIZE, WINDOW, MIN_COUNT, NEGATIVE, sample=SAMPLE, end_learning_rate=END_RATE,
        epochs=epochs, num_threads=1, seed=seed, **settings,
    )  # fmt: skip
    return model.fit(path, progress=False).vectors[words]


def gensim(path, words, seed, epochs, settings):
    from gensim.models import Word2Vec

    model = Word2Vec(
        corpus_file=path, vector_size=SIZE, window=WINDOW, min_count=MIN_COUNT,
        sample=SAMPLE, min_alpha=END_RATE, epochs=epochs, workers=1, seed=seed,
        **{"negative": NEGATIVE, **settings},
    )  # fmt: skip
    return model.wv[words]


def fasttext(path, words, seed, epochs, settings):
    """It takes no seed in Python; the order of the lines differs.

    Version 0.9.3 sets only as many tenths of its first vectors as it has threads.
    """
    from fasttext import train_unsupervised

    model = train_unsupervised(
        path, dim=SIZE, ws=WINDOW, minCount=MIN_COUNT, neg=NEGATIVE, t=SAMPLE, epoch=epochs,
        thread=1, verbose=0, **settings,
    )  # fmt: skip
    return np.array([model.get_word_vector(word) for word in words])


TRAINED = [(ours, MODELS), (gensim, OF_GENSIM), (fasttext, OF_FASTTEXT)]


if __name__ == "__main__":
    main()
