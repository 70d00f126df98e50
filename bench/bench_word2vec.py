"""A pass of Word2Vec over a text: ours and the peers, checked, then timed in turns.

The text is synthetic (fastkeras/bench/word2vec_corpus.py), or the file that the environment
variable WORD2VEC_CORPUS names, one sentence a line; a file has no planted analogies to check.

Compare words per second of processor time: on a shared machine they repeat better than those by the
time on the clock, which is in the results too.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastkeras.bench import word2vec_corpus
from fastkeras.bench.word2vec import MIN_COUNT, NEGATIVE, PROVIDERS, SAMPLE, SIZE, timed

WORDS = 4_000_000
ROUNDS = 3
OURS = ("fastkeras", "numba")
FOLDED = 512  # words, for the limit with all rows in the first cache
ALONE = "documents, PV-DBOW"  # words have no vectors there; the suite checks those of documents
SOLVED = 50  # percent of the planted analogies, after a pass
OF_CACHE = {  # settings of the passes whose rows are all in the first cache
    "skip-gram, window-shared": {"shared_negatives": True},
    "skip-gram, exact": {},
    "CBOW, exact gradient": {"objective": "cbow"},
    "hierarchical softmax": {"loss": "hierarchical_softmax"},
    "subwords, window-shared": {"shared_negatives": True},
}
SUBWORDS = 2_000_000, 3, 6  # buckets, and letters of an n-gram
APART = 13  # rows from one to the next of a word's folded list: at most 39 different ones


@pytest.fixture(scope="module")
def text(tmp_path_factory, quick, records):
    """Return (path, whether it has planted analogies)."""
    own = os.environ.get("WORD2VEC_CORPUS")
    path = own or str(tmp_path_factory.mktemp("word2vec") / "text.txt")
    if not own:
        word2vec_corpus.write(path, WORDS // 2 if quick else WORDS)
    records["corpus"] = {"name": os.path.basename(own or "synthetic")}
    records["corpus"]["bytes"] = os.path.getsize(path)
    return path, not own


def in_a_process(benchmark, *arguments):
    """Call this file with arguments; return what it prints last."""
    command = [sys.executable, __file__, *map(str, arguments)]
    settings = {"capture_output": True, "text": True}
    run = benchmark.pedantic(subprocess.run, (command,), settings, rounds=1)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", PROVIDERS)
def test_word2vec(benchmark, records, quick, text, case):
    path, planted = text
    rounds = 1 if quick else ROUNDS
    found = in_a_process(benchmark, "compare", path, case, rounds, int(planted))
    records.setdefault("word2vec", {})[case] = found


def test_word2vec_of_rows_in_the_cache(benchmark, records, quick, text):
    records["cache"] = in_a_process(benchmark, "cache", text[0], 1 if quick else 5)


def test_word2vec_scan_and_memory(benchmark, records, text):
    records["scan"] = in_a_process(benchmark, "scan", text[0])


def compare(path, case, rounds, planted):
    """Return the rows of one case: the providers that can do it, checked, then timed in turns."""
    planted = int(planted) and case != ALONE
    rows, trainings = {}, {}
    for name, (provider, settings) in PROVIDERS[case].items():
        try:
            training = provider(path, case, **settings)
            training.call(1)
        except (ImportError, RuntimeError) as error:  # of fastText: NaN, three times
            if name.startswith(OURS):
                raise
            rows[name] = {"missing": str(error)}
            continue
        rows[name] = {"words": training.words, "setup": training.setup}
        if planted:
            rows[name]["analogies"] = word2vec_corpus.analogies(training.vectors())
        trainings[name] = training, []
    if planted:
        check({name: row["analogies"] for name, row in rows.items() if "analogies" in row})
    for _ in range(int(rounds)):
        for training, seconds in trainings.values():
            seconds.append(training.call(training.passes))
    for name, (_, seconds) in trainings.items():
        cpu, wall = zip(*seconds, strict=True)
        rows[name] |= {"cpu": spread(cpu), "wall": spread(wall)}
    return rows


def check(analogies):
    """Assert that ours have learnt the planted analogies."""
    for name, solved in analogies.items():
        if name.startswith(OURS):
            assert solved >= SOLVED, f"{name} solves {solved:.0f} % of the planted: {analogies}"


def spread(seconds):
    return {"low": min(seconds), "median": float(np.median(seconds)), "high": max(seconds)}


def cache(path, rounds):
    """Time the native pass as it is, and with all words mapped onto rows that fill 28 kB.

    Both get the text after subsampling. 512 words are few enough for the processor to know all of
    their pages, and enough for a window to hold hardly any of them twice. They have as many inner
    nodes and n-grams as words of the text have.
    """
    from fastkeras.word2vec._engines import native
    from fastkeras.word2vec.corpus import encode
    from fastkeras.word2vec.subwords import bags_of
    from fastkeras.word2vec.training import matrices, sampling
    from fastkeras.word2vec.training.settings import Schedule, Settings, tables_of
    from fastkeras.word2vec.vocabulary import build

    vocabulary = build(path, min_count=MIN_COUNT)
    ids = np.array(encode(path, vocabulary))
    keep = np.append(sampling.keep_thresholds(vocabulary.counts, SAMPLE), np.uint32(0xFFFFFFFF))
    ids = ids[
        sampling.stays(sampling.bits_at(sampling.key_of(0, 0), np.arange(len(ids))), keep[ids])
    ]
    folded = np.where(ids < 0, -1, ids % FOLDED).astype(np.int32)
    bags = bags_of(vocabulary.words, *SUBWORDS)
    in_memory = matrices.new(bags.num_rows, len(vocabulary), SIZE, 1)
    folded_rows = aliased(FOLDED, in_memory[0].shape[1])
    alike = np.sort(ids[ids >= 0])  # words of the text, of which each folded word gets one
    alike = alike[np.linspace(0, len(alike) - 1, FOLDED).astype(int)]
    found = {name: {"memory": [], "cache": []} for name in OF_CACHE}
    for _ in range(int(rounds)):
        for name, settings in OF_CACHE.items():
            settings = Settings(negative=NEGATIVE, **settings)
            for where, words, of, counts in (
                ("memory", ids, in_memory, vocabulary.counts),
                ("cache", folded, folded_rows, np.ones(FOLDED, np.int64)),
            ):
                of_words = bags if name.startswith("subwords") else None
                if where == "memory":
                    tables = tables_of(counts, settings, bags=of_words)
                else:
                    whole = tables_of(vocabulary.counts, settings, bags=of_words)
                    tables = folded_lists(whole, tables_of(counts, settings), alike)
                more = tables, settings, sampling.key_of(1, 0), Schedule(1e-4, 0.0)
                native.train(words, 0, len(words) // 20, *of, *more)
                cpu, _ = timed(native.train, words, 0, len(words), *of, *more)
                found[name][where].append(cpu)
    return {
        name: {where: spread(seconds) for where, seconds in of.items()}
        for name, of in found.items()
    }


def folded_lists(whole, tables, alike):
    """Return tables whose words have paths and bags as long as those of `alike`, in few rows."""
    more = {}
    for starts, entries in ("path_starts", "path_nodes"), ("bag_starts", "bag_rows"):
        if len(getattr(whole, starts)):
            lengths = np.minimum(np.diff(getattr(whole, starts))[alike], FOLDED // APART)
            rows = [(w + APART * np.arange(n)) % FOLDED for w, n in enumerate(lengths)]
            more[starts] = np.append(0, np.cumsum(lengths))
            more[entries] = np.concatenate(rows).astype(np.int32)
    if "path_nodes" in more:
        more["path_signs"] = np.ones(len(more["path_nodes"]), np.float32)
    return replace(tables, **more)


def aliased(rows, width):
    """Return two matrices of zeros whose memory is the same few pages, mapped again and again.

    The pass does not know this: it draws, prefetches, computes and stores as always.
    """
    period = int(np.lcm(4 * width, mmap.PAGESIZE))  # whole rows and whole pages
    total = -(-rows * 4 * width // period) * period
    file = os.memfd_create("rows")
    os.ftruncate(file, period)
    memories = [mmap.mmap(-1, total) for _ in range(2)]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    fixed = mmap.MAP_SHARED | 0x10  # MAP_FIXED
    for memory in memories:
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for at in range(base, base + total, period):
            assert libc.mmap(at, period, mmap.PROT_READ | mmap.PROT_WRITE, fixed, file, 0) == at
    os.close(file)
    return [np.frombuffer(m, np.float32, rows * width).reshape(rows, width) for m in memories]


def scan(path):
    """Return how fast words are counted and encoded, and how much memory the training takes."""
    from fastkeras.word2vec import Word2Vec
    from fastkeras.word2vec.corpus import encode
    from fastkeras.word2vec.vocabulary import build

    def peak():  # that of `getrusage` would include the process which started this one
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    size, seconds, before = os.path.getsize(path), {}, peak()
    start = time.process_time()
    vocabulary = build(path, min_count=MIN_COUNT, num_threads=1)
    seconds["counted"] = time.process_time() - start
    encode(path, vocabulary, num_threads=1)
    seconds["encoded"] = time.process_time() - start - seconds["counted"]
    model = Word2Vec(SIZE, epochs=1, num_threads=1, engine="native")
    model.fit(path, vocabulary=vocabulary, progress=False)
    row = 4 * -(-SIZE // 16) * 16
    return {
        **{f"bytes_{key}_per_second": size / value for key, value in seconds.items()},
        "vocabulary": len(vocabulary),
        "memory": peak() - before,
        "memory_allowed": len(vocabulary) * (2 * row + 64) + 64 * 2**20,
    }


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
