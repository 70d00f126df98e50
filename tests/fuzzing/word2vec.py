"""Correct, small calls of the doors of Word2Vec."""

import numpy as np

from fastkeras import _core

TABLES = ("keep", "noise", "logit_offsets")
TABLES += ("path_starts", "path_nodes", "path_signs", "bag_starts", "bag_rows")


def word2vec_train(rng):
    def train(**arguments):
        tables = _core.Word2VecTables(*(arguments.pop(name) for name in TABLES))
        return _core.word2vec_train(tables=tables, **arguments)

    words, length = int(rng.integers(1, 40)), int(rng.integers(0, 200))
    rows, stride = words + int(rng.integers(0, 9)), 16 * int(rng.integers(1, 3))
    paths = [rng.integers(0, words, rng.integers(min(words, 6))) for _ in range(words)]
    bags = [np.append(w, rng.integers(0, rows, rng.integers(4))) for w in range(words)]
    subwords, hierarchical = rng.random() < 0.4, rng.random() < 0.4
    if not subwords:
        rows, bags = words, []
    if not hierarchical:
        paths = []
    starts = [np.cumsum([0, *map(len, lists)]) if lists else [] for lists in (paths, bags)]
    noise = np.stack([rng.integers(0, 2**32, words), rng.integers(0, words, words)], 1)
    nodes = np.concatenate([[], *paths])
    first = int(rng.integers(length + 1))
    return train, {
        "ids": rng.integers(-1, words, length).astype("i4"),
        "begin": first,
        "end": int(rng.integers(first, length + 1)),
        "input": rng.standard_normal((rows, stride)).astype("f4"),
        "output": rng.standard_normal((words, stride)).astype("f4"),
        "keep": np.full(words, 2**32 - 1, "u4"),
        "noise": noise.astype("u4"),
        "logit_offsets": rng.random(words).astype("f4"),
        "path_starts": np.asarray(starts[0], "i8"),
        "path_nodes": nodes.astype("i4"),
        "path_signs": rng.choice((-1, 1), len(nodes)).astype("f4"),
        "bag_starts": np.asarray(starts[1], "i8"),
        "bag_rows": np.concatenate([[], *bags]).astype("i4"),
        "objective": int(rng.integers(2)),
        "loss": int(rng.choice((1, 3) if hierarchical else (0, 2))),
        **{
            name: bool(rng.integers(2))
            for name in ("shared_negatives", "exact_cbow", "exact_subwords", "shrink_windows")
        },
        "window": int(rng.integers(1, 6)),
        "negative": int(rng.integers(1, 6)),
        "key": int(rng.integers(2**63)),
        "learning_rate": 0.02,
        "learning_rate_slope": 0.0,
        "num_threads": 1,
        "deterministic": bool(rng.integers(2)),
    }


def text(rng, words):
    alphabet = np.frombuffer(b"ab \n\t\xff\0", "u1")
    return bytes(rng.choice(alphabet, rng.integers(0, 60 if rng.random() < 0.9 else 40_000)))


def keep_best(rng):
    dtype, (queries, columns) = rng.choice(("f4", "f8")), rng.integers(0, (5, 150))
    best = np.full((queries, rng.integers(1, 5)), -np.inf, dtype)
    return _core.word2vec_keep_best, {
        "scores": rng.standard_normal((queries, columns)).astype(dtype),
        "scales": rng.random(columns).astype(dtype),
        "first_row": int(rng.integers(2**40)),
        "best": best,
        "best_rows": np.zeros(best.shape, "i8"),
    }


def read_rows(rng):
    alphabet = np.frombuffer(b"12 \n\t.-e+a\r\xff\0", "u1")
    lines = b"a 1 2\nb\t-3.5e3\t.5\n" * int(rng.integers(3))
    return _core.word2vec_read_rows, {
        "block": lines + bytes(rng.choice(alphabet, rng.integers(60))) + lines,
        "rows": np.zeros(rng.integers((0, 1), (9, 4)), "f4"),
        "is_text": bool(rng.integers(2)),
        "longest_word": int(rng.integers(9)),
        "num_threads": int(rng.integers(4)),
    }


def counter(rng):
    def count(block, num_threads, floor, min_count):
        counter = _core.WordCounter()
        counter.add(block, num_threads)
        counter.drop(floor)
        return counter.words(min_count), len(counter)

    return count, {
        "block": text(rng, 30),
        "num_threads": int(rng.integers(4)),
        "floor": int(rng.integers(3)),
        "min_count": int(rng.integers(3)),
    }


def encoder(rng):
    def encode(words, ends, block, num_threads):
        return _core.WordEncoder(words, ends).encode(block, num_threads)

    ends = np.unique(rng.integers(0, 9, 3))
    return encode, {
        "words": bytes(rng.choice(np.frombuffer(b"ab", "u1"), ends[-1])),
        "ends": ends.astype("i8"),
        "block": text(rng, 30),
        "num_threads": int(rng.integers(4)),
    }


def word2vec_layers(name):
    def call(rng):
        dtype = str(rng.choice(("f4", "f8")))
        batch, columns, size, words = (int(n) for n in rng.integers((0, 1, 1, 1), (9, 5, 20, 9)))
        ids = rng.integers(0, words, (batch, columns)).astype("i4")
        factors = rng.random((batch, columns)).astype(dtype)
        rows, hidden = (rng.random((n, size)).astype(dtype) for n in (words, batch))
        bias, offset = (rng.random(words).astype(dtype) for _ in range(2))
        arguments = {
            "pool": {"rows": rows, "words": ids, "weights": factors},
            "scatter": {"upstream": hidden, "factors": factors, "words": ids, "num_words": words},
            "loss": {
                "hidden": hidden, "rows": rows, "bias": bias, "offset": offset, "words": ids,
                "loss": int(rng.integers(2)),
            },
        }[name]  # fmt: skip
        threads = {"num_threads": int(rng.integers(1, 3))}
        return getattr(_core, f"word2vec_layers_{name}"), {**arguments, **threads}

    return call


CALLS = {
    "word2vec_train": word2vec_train,
    **{f"word2vec_layers_{name}": word2vec_layers(name) for name in ("pool", "scatter", "loss")},
    "word2vec_keep_best": keep_best,
    "word2vec_read_rows": read_rows,
    "WordCounter": counter,
    "WordEncoder": encoder,
}
