"""Loading of vector files beside gensim, and the nearest of many vectors beside plain NumPy.

    python bench/word2vec_vectors.py            # 1 M words of size 300; 4 GB of memory, 5 of disk
    python bench/word2vec_vectors.py --quick    # 20,000 words

Each is done `--turns` times, the programs one after the other in each turn. Files are in the page
cache, since they have just been written. NumPy multiplies all queries with all rows of length 1, a
tenth of the queries at a time so that the scores fit into memory, and takes `argpartition`.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from conftest import machine, results_path, store
from fastkeras.word2vec import Vectors

SIZE, TOPN = 300, 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few words, nothing is written")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--results", type=Path, help="default: bench/results/<machine>.json")
    options = parser.parse_args()
    words, queries = (20_000, 100) if options.quick else (1_000_000, 1_000)
    results = {"machine": machine(), "words": words, "size": SIZE, "queries": queries}
    matrix = np.random.default_rng(1).standard_normal((words, SIZE), np.float32)
    vectors = Vectors([f"word{i}" for i in range(words)], matrix)
    with tempfile.TemporaryDirectory() as folder:
        results["loading"] = in_turns(loaders(vectors, Path(folder)), options.turns)
    results["nearest"] = in_turns(searches(vectors, matrix[:queries]), options.turns)
    for what in "loading", "nearest":
        print(what)
        for name, seconds in results[what].items():
            clock, processor = seconds["clock"], seconds["processor"]
            print(f"  {name:34} {clock:8.3f} s, of processors {processor:8.3f} s")
    if not options.quick:
        path = options.results or results_path("word2vec-vectors", results["machine"])
        store(results, path)
        print(f"written: {path}")


def loaders(vectors, folder):
    """Return {name: function} of what reads the files, after they have been written."""
    from gensim.models import KeyedVectors

    for name in ("v.txt", "v.bin", "v.npy"):
        vectors.save(folder / name)
    vectors.quantized().save(folder / "small.npy")

    def by_gensim(name):
        binary = name.endswith(".bin")
        return lambda: KeyedVectors.load_word2vec_format(folder / name, binary=binary)

    def by_us(name):
        return lambda: Vectors.load(folder / name)

    return {
        "text, fastkeras": by_us("v.txt"),
        "text, gensim": by_gensim("v.txt"),
        "binary, fastkeras": by_us("v.bin"),
        "binary, gensim": by_gensim("v.bin"),
        "mapped .npy, fastkeras": by_us("v.npy"),
        "mapped .npy of 8 bits, fastkeras": by_us("small.npy"),
    }


def searches(vectors, queries):
    """Return {name: function} of searches, which give the same rows."""
    unit = vectors.matrix / np.linalg.norm(vectors.matrix, axis=1, keepdims=True)
    of_queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    small = vectors.quantized()
    for each in vectors, small:
        each.norms  # noqa: B018, which are computed once

    def plain():
        found = []
        for part in np.array_split(of_queries, 10):
            scores = part @ unit.T
            best = np.argpartition(scores, -TOPN, axis=1)[:, -TOPN:]
            order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
            found.append(np.take_along_axis(best, order, 1))
        return np.concatenate(found)

    rows, _ = vectors.nearest(queries, TOPN)
    assert (rows == plain()).mean() > 0.999  # but for ties by rounding
    return {
        "fastkeras": lambda: vectors.nearest(queries, TOPN),
        "NumPy, matmul and argpartition": plain,
        "fastkeras, 8 bits": lambda: small.nearest(queries, TOPN),
    }


def in_turns(functions, turns):
    """Return {name: {"clock", "processor"}}, the medians of seconds."""
    measured = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            begin = time.perf_counter(), time.process_time()
            function()
            measured[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return {
        name: dict(zip(("clock", "processor"), np.median(times, 0).tolist(), strict=True))
        for name, times in measured.items()
    }


if __name__ == "__main__":
    main()
