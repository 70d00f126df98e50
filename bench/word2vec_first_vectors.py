"""Word2Vec's first vectors, drawn from ±0.5 / size (as word2vec.c) or from ±1 / size (as gensim).

    python bench/word2vec_first_vectors.py

The English text and judgements of word2vec_english.py, both ranges for each mode and seed, 5 epochs
on one thread; an hour and a half. It prints how often the wider range was better.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import word2vec_english

from conftest import machine, results_path, store

RANGES = (0.5, 1.0)  # times 1 / vector_size
MODES = {
    "skip-gram, exact": {"shared_negatives": None},
    "skip-gram, window-shared": {},
    "skip-gram, tree": {"loss": "hierarchical_softmax"},
    "skip-gram, subwords": {"subwords": True},
    "CBOW, word2vec's update": {"objective": "cbow", "cbow_gradient": "word2vec"},
    "CBOW, exact gradient": {"objective": "cbow"},
    "CBOW, tree": {"objective": "cbow", "loss": "hierarchical_softmax"},
}
MEASURES = ("wordsim", "simlex", "analogies")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="default: bench/results/<machine>.json")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text.txt")
        words = word2vec_english.write(path)
        for seed in range(1, options.seeds + 1):
            for mode in MODES:
                for first in RANGES:
                    row = {"mode": mode, "seed": seed, "range": first}
                    rows.append(row | scores(path, seed, first, MODES[mode]))
                    print(json.dumps(rows[-1]), flush=True)
    results = {"machine": machine(), "words": words, "epochs": 5, "rows": rows}
    print("\n".join(summary(results)))
    path = options.results or results_path("word2vec-first-vectors", results["machine"])
    store(results, path)
    print(f"written: {path}")


def scores(path, seed, first, settings):
    from fastkeras.word2vec import Word2Vec
    from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
    from fastkeras.word2vec.training import matrices

    usual = matrices.RANGE
    matrices.RANGE = first
    model = Word2Vec(sample=1e-3, epochs=5, num_threads=1, seed=seed, **settings)
    vectors = model.fit(path, progress=False).vectors
    matrices.RANGE = usual
    *pairs, analogies = word2vec_english.judged()
    found = [evaluate_word_pairs(vectors, each).spearman for each in pairs]
    found.append(100 * evaluate_analogies(vectors, analogies).accuracy)
    return dict(zip(MEASURES, found, strict=True)) | {"loss": model.history["loss"][-1]}


def summary(results):
    """Lines that tell, for each measure, in how many pairs of runs the wider range was better."""
    pairs = {}
    for row in results["rows"]:
        pairs.setdefault((row["mode"], row["seed"]), {})[row["range"]] = row
    pairs = [pair for pair in pairs.values() if len(pair) == len(RANGES)]
    for measure in MEASURES:
        gains = [pair[1.0][measure] - pair[0.5][measure] for pair in pairs]
        better, mean = sum(gain > 0 for gain in gains), sum(gains) / len(gains)
        yield f"{measure}: better in {better} of {len(gains)}, by {mean:+.4f} on average"


if __name__ == "__main__":
    main()
