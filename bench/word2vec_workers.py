"""Word2Vec on one machine's thread and on several workers of Ray: words/s, and quality by seed.

    pip install 'fastkeras[ray]'
    python bench/word2vec_workers.py              # minutes; two processors that do nothing else
    python bench/word2vec_workers.py --quick

Speed is that of rounds of `--between` words a worker, on the English text of word2vec_english.py
again and again; the clock counts, since the workers are other processes, and `loadavg` tells who
else was there. Quality is that of the text once, in 100 rounds of all epochs.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import word2vec_english

from conftest import machine, results_path, store
from fastkeras.bench.word2vec import MIN_COUNT, SAMPLE, SIZE
from fastkeras.word2vec import Word2Vec
from fastkeras.word2vec.corpus import encode
from fastkeras.word2vec.distributed import fit_with_ray
from fastkeras.word2vec.evaluation import evaluate_analogies, evaluate_word_pairs
from fastkeras.word2vec.vocabulary import build

MODELS = {
    "skip-gram": {},
    "CBOW, exact gradient": {"objective": "cbow"},
    "CBOW, word2vec's update": {"objective": "cbow", "cbow_gradient": "word2vec"},
    "hierarchical softmax": {"loss": "hierarchical_softmax"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--between", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little of all; writes nothing")
    parser.add_argument("--results", type=Path, help="default: bench/results/<machine>.json")
    options = parser.parse_args()
    if options.quick:
        options.between, options.rounds, options.epochs, options.seeds = 200_000, 2, 1, 1
    results = {"machine": machine(), "settings": {**vars(options), "results": None}}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text.txt")
        word2vec_english.write(path)
        vocabulary = build(path, min_count=MIN_COUNT)
        ids = np.array(encode(path, vocabulary))
    results["speed"] = speed(ids, vocabulary, options)
    print(results["speed"])
    results["quality"] = {}
    for name, settings in list(MODELS.items())[: 1 if options.quick else None]:
        results["quality"][name] = quality(ids, vocabulary, settings, options)
        for workers, scores in results["quality"][name].items():
            shown = "  ".join(f"{m} {np.mean(v):.3f} ± {np.ptp(v):.3f}" for m, v in scores.items())
            print(f"{name:26}{workers} workers  {shown}", flush=True)
    if not options.quick:
        path = options.results or results_path("word2vec-workers", results["machine"])
        store(results, path)
        print(f"written: {path}")


def speed(ids, vocabulary, options):
    """Return words/s of one thread here, of one worker, and of more; their start is not timed."""
    positions = options.between * options.rounds * options.workers
    text = np.resize(ids, positions)
    found = {"load": os.getloadavg()[0]}

    def rate(workers):
        model = Word2Vec(SIZE, sample=SAMPLE, epochs=2, num_threads=1)
        more = {"vocabulary": vocabulary, "progress": False}
        if workers:
            fit_with_ray(model, text, num_workers=workers, words_between=options.between, **more)
        else:
            model.fit(text, **more)
        return model.history["words_per_second"][1]  # of the epoch in which all is warm

    for name, workers in {
        "here": 0,
        "1 worker": 1,
        f"{options.workers} workers": options.workers,
    }.items():
        found[name] = rate(workers)
    return found


def quality(ids, vocabulary, settings, options):
    """Return {workers: {measure: a score by seed}}."""
    wordsim, simlex, analogies = word2vec_english.judged()
    found = {}
    for workers in (1, options.workers):
        scores = found.setdefault(workers, {"wordsim": [], "simlex": [], "analogies": []})
        for seed in range(1, options.seeds + 1):
            model = Word2Vec(
                SIZE, sample=SAMPLE, epochs=options.epochs, num_threads=1, seed=seed, **settings
            )
            start = time.perf_counter()
            fit_with_ray(model, ids, num_workers=workers, vocabulary=vocabulary, progress=False)
            print(f"seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
            vectors = model.vectors
            scores["wordsim"].append(evaluate_word_pairs(vectors, wordsim).spearman)
            scores["simlex"].append(evaluate_word_pairs(vectors, simlex).spearman)
            scores["analogies"].append(100 * evaluate_analogies(vectors, analogies).accuracy)
    return found


if __name__ == "__main__":
    main()
