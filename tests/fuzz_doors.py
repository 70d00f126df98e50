"""Make mutated calls of every function of `fastkeras._core`; each must return, or raise an error.

    python tests/fuzz_doors.py [--cases 100000] [--seconds 240] [--seed 0] [--only NAME]

A case is a correct, small call in which one to three arguments were changed: in shape, dtype,
strides, values or type. Its result does not matter, but the process must survive, and under the
address sanitizer (`make sanitize`) nothing outside an array may be accessed. A case depends on the
seed and its number only, so that a failure can be repeated alone: `--first NUMBER --cases 1`.
"""

import argparse
import os
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress

import ml_dtypes
import numpy as np

from fastkeras import _core

A_CHUNK = 500  # cases for one child process
CHUNK_SECONDS = 60  # after which a child is considered to hang

INTEGERS = (-1, 0, 1, 2, 3, 7, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 2**64)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e38, 1e308, np.nan, np.inf, -np.inf)
OTHERS = (None, True, 1.5, "x", b"y", [], {}, (1, 2), [None], np.int64(5), np.float32(0), object())
DTYPES = [
    "f4",
    "f8",
    "f2",
    "i4",
    "i8",
    "u4",
    "i1",
    "u1",
    "?",
    "c8",
    ">f4",
    ">i4",
    "S3",
    "O",
    "M8[s]",
]


def crf_chain(rng, dtype, may_vary=True):
    batch, steps, tags = rng.integers((0, 0, 1), (5, 7, 6))
    varies = may_vary and rng.random() < 0.3
    pairs = (batch, max(steps - 1, 0), tags, tags) if varies else (tags, tags)
    return {
        "emissions": rng.standard_normal((batch, steps, tags)).astype(dtype),
        "transitions": rng.standard_normal(pairs).astype(dtype),
        "lengths": rng.integers(0, steps + 1, batch).astype("i4"),
        "mask": rng.random((batch, steps)) < 0.7 if rng.random() < 0.4 else None,
        "start_transitions": rng.standard_normal(tags).astype(dtype),
        "end_transitions": rng.standard_normal(tags).astype(dtype),
    }


def crf(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        if "value" in name or "gradient" in name:
            chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
            chain["quantity"] = int(rng.integers(3))
        if "gradient" in name:
            chain["weights"] = rng.random(batch).astype(dtype)
        if name == "crf_gradient":
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (2 * tags + 1) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
        if "k_best" in name:
            chain["k"] = int(rng.integers(1, 6))
        if "sample" in name:
            chain["uniforms"] = rng.random((int(rng.integers(4)), batch, steps)).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_entropy(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        if name == "crf_entropy":
            chain["keep_workspace"] = bool(rng.integers(2))
        else:
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (4 * tags + 1) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
            chain["weights"] = rng.random(batch).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_weighted(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype)
        batch, steps, tags = chain["emissions"].shape
        chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
        chain["weights"] = rng.random((batch, steps)).astype(dtype)
        if name == "crf_weighted_value":
            chain["keep_workspace"] = bool(rng.integers(2))
        else:
            chain["value"] = rng.random(batch).astype(dtype)
            size = batch * steps * (2 * tags + 2) + batch
            chain["workspace"] = rng.random(size).astype(dtype)
            chain["factors"] = rng.random(batch).astype(dtype)
        return getattr(_core, name), chain

    return call


def second_order(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype, may_vary=False)
        batch, steps, tags = chain["emissions"].shape
        chain["triples"] = rng.standard_normal((tags, tags, tags)).astype(dtype)
        if name in ("second_order_value", "second_order_gradient"):
            chain["tags"] = rng.integers(0, tags, (batch, steps)).astype("i4")
            chain["quantity"] = int(rng.integers(3))
        if name == "second_order_value":
            chain["keep_workspace"] = bool(rng.integers(2))
        if name == "second_order_gradient":
            size = batch * ((steps + 5) // 8 * tags**2 + steps + 2)
            chain["value"], chain["weights"] = rng.random((2, batch)).astype(dtype)
            chain["workspace"] = rng.random(size).astype(dtype)
        return getattr(_core, name), chain

    return call


def crf_ready_chain(rng):
    return _core.crf_ready_chain, crf_chain(rng, rng.choice(("f4", "f8")))


def crf_ready_tags(rng):
    chain = crf_chain(rng, "f4")
    batch, steps, tags = chain["emissions"].shape
    return _core.crf_ready_tags, {
        "tags": rng.integers(0, tags, (batch, steps)).astype(rng.choice(("i4", "i8"))),
        "batch": batch,
        "steps": steps,
        "num_tags": tags,
        "lengths": chain["lengths"],
        "mask": chain["mask"],
    }


def semi_markov(name):
    def call(rng):
        dtype = rng.choice(("f4", "f8"))
        chain = crf_chain(rng, dtype, may_vary=False)
        del chain["mask"]
        tags = chain["emissions"].shape[2]
        chain["durations"] = rng.standard_normal((int(rng.integers(1, 5)), tags)).astype(dtype)
        return getattr(_core, name), chain

    return call


def seq2seq_select(rng):
    batch, beams, vocabulary, steps = rng.integers((0, 1, 1, 0), (5, 5, 150, 7))
    dtype = rng.choice(("f4", "f8"))
    history = rng.integers(-1, vocabulary, (batch, beams, steps)).astype("i4")
    axes = (1 if rng.random() < 0.3 else size for size in (batch, beams))
    allowed = rng.random((*axes, vocabulary)) < 0.7
    return _core.seq2seq_select, {
        "logits": rng.standard_normal((batch, beams, vocabulary)).astype(dtype),
        "scores": rng.standard_normal((batch, beams)).astype(dtype),
        "history": history if rng.random() < 0.6 else None,
        "allowed": allowed if rng.random() < 0.4 else None,
        "repetition_penalty": float(rng.random() + 0.5),
        "no_repeat_ngram": int(rng.integers(4)),
        "num_candidates": int(rng.integers(1, 12)),
    }


RULES = {name: (slots, signs) for name, slots, signs in _core.optimizer_rules()}
COEFFICIENTS = {}  # how many each rule has, as the compiled function says


def coefficients_of(rule):
    if rule not in COEFFICIENTS:
        for count in range(32):
            try:
                _core.optimizer_step(*no_variables(rule, count))
            except ValueError:
                continue
            COEFFICIENTS[rule] = count
            break
    return COEFFICIENTS[rule]


def no_variables(rule, count):
    none = [], np.zeros((0, count)), np.zeros(0), [], [], [], [], [], np.zeros(0), []
    return rule, [], [], [], *none


def optimizer_step(rng):
    rule = str(rng.choice(list(RULES)))
    count = int(rng.integers(4))
    arguments = {"rule": rule, "parameters": [], "gradients": [], "slots": [], "frozen": []}
    arguments |= {"chains": [], "rows": [], "remainders": [], "adapted": [], "dithered": []}
    slots, signs = RULES[rule]
    for _ in range(count):
        dtype = str(rng.choice(("f4", "f8", "f2")))
        shape = tuple(rng.integers(1, 9, rng.integers(1, 3)))
        quantized = signs and dtype != "f8" and rng.random() < 0.3
        halved = signs and dtype != "f8" and not quantized and rng.random() < 0.3
        sparse = not quantized and rng.random() < 0.3
        adapted = not quantized and not sparse and rng.random() < 0.2
        wide = "f8" if dtype == "f8" else "f4"
        size = int(np.prod(shape))
        rows = rng.permutation(shape[0])[: rng.integers(shape[0] + 1)] if sparse else None
        gradient = shape if rows is None else (len(rows), *shape[1:])
        moments = []
        for _ in range(slots):
            if quantized:
                moments.append(rng.integers(0, 256, shape).astype("u1"))
                moments.append(rng.random(-(-size // 256)).astype("f4"))
            else:
                moments.append(rng.random(shape).astype(ml_dtypes.bfloat16 if halved else wide))
        arguments["parameters"].append(rng.standard_normal(shape).astype(dtype))
        arguments["gradients"].append(rng.standard_normal(gradient).astype(dtype))
        arguments["slots"].append(moments)
        arguments["frozen"].append(bool(rng.random() < 0.1))
        kinds = rng.integers(0, 9, rng.integers(3))
        arguments["chains"].append([(int(kind), 0.5, int(rng.integers(-1, 2))) for kind in kinds])
        arguments["rows"].append(rows)
        has_remainder = dtype == "f2" and rng.random() < 0.3
        arguments["remainders"].append(np.zeros(shape, "f4") if has_remainder else None)
        arguments["adapted"].append(bool(adapted))
        arguments["dithered"].append(bool(rng.random() < 0.2))
    arguments["coefficients"] = rng.random((count, coefficients_of(rule)))
    arguments["decays"] = 0.1 * rng.random(count)
    arguments["rates"] = rng.random(count)
    has_seeds = rng.random() < 0.9
    arguments["seeds"] = rng.integers(0, 2**32, count).tolist() if has_seeds else []
    return _core.optimizer_step, arguments


def optimizer_arrays_are_ready(rng):
    arguments = optimizer_step(rng)[1]
    names = ("rule", "parameters", "gradients", "slots")
    return _core.optimizer_arrays_are_ready, {name: arguments[name] for name in names}


def optimizer_count(rng):
    count = int(rng.integers(4))
    scalars = [np.array(rng.random(), str(rng.choice(("f4", "f8")))) for _ in range(count)]
    return _core.optimizer_count, {"scalars": scalars, "by": 1.0}


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


def settings(rng):
    def set_and_compute(name, num_threads, worth):
        try:
            _core.set_worth_a_thread(worth)
            _core.set_num_threads(num_threads)
            _core.set_instruction_set(name)
            function, chain = CALLS["crf_viterbi"](np.random.default_rng(0))
            return function(**chain)
        finally:
            _core.set_num_threads(2)
            _core.set_worth_a_thread(0)

    names = ("portable", "avx2", "avx512", "mmx")
    return set_and_compute, {
        "name": str(rng.choice(names)),
        "num_threads": int(rng.integers(4)),
        "worth": float(rng.choice((0, 1e5))),
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
    **{
        name: crf(name)
        for name in ("crf_value", "crf_value_and_workspace", "crf_value_and_gradient")
    },
    **{
        f"crf_{name}": crf(f"crf_{name}")
        for name in ("gradient", "marginals", "viterbi", "k_best", "sample")
    },
    **{
        f"crf_{name}": crf_weighted(f"crf_{name}")
        for name in ("weighted_value", "weighted_gradient")
    },
    **{name: crf_entropy(name) for name in ("crf_entropy", "crf_entropy_gradient")},
    "crf_ready_chain": crf_ready_chain,
    "crf_ready_tags": crf_ready_tags,
    **{
        f"second_order_{name}": second_order(f"second_order_{name}")
        for name in ("value", "gradient", "marginals", "viterbi")
    },
    **{
        f"semi_markov_{name}": semi_markov(f"semi_markov_{name}")
        for name in ("log_partition", "marginals", "viterbi")
    },
    "optimizer_step": optimizer_step,
    "optimizer_arrays_are_ready": optimizer_arrays_are_ready,
    "optimizer_count": optimizer_count,
    "seq2seq_select": seq2seq_select,
    "word2vec_train": word2vec_train,
    **{f"word2vec_layers_{name}": word2vec_layers(name) for name in ("pool", "scatter", "loss")},
    "word2vec_keep_best": keep_best,
    "word2vec_read_rows": read_rows,
    "WordCounter": counter,
    "WordEncoder": encoder,
    "set_num_threads": settings,
    "multiply_adds": lambda rng: (_core.multiply_adds, {"times": int(rng.integers(1000))}),
}
COVERED = {"set_worth_a_thread", "set_instruction_set", "Word2VecTables"}  # called by the others
WITHOUT_ARGUMENTS = {"instruction_set", "num_threads", "optimizer_rules", "optimizer_transforms"}


def mutated_array(rng, array):
    kind = rng.integers(16)
    axis = int(rng.integers(array.ndim)) if array.ndim else None
    if kind == 0 and array.ndim:
        return array.take(0, axis) if array.shape[axis] else array.reshape(-1)
    if kind == 1:
        return np.expand_dims(array, int(rng.integers(array.ndim + 1)))
    if kind == 2 and array.ndim:
        return np.concatenate([array, array.take([0], axis)], axis) if array.size else array
    if kind == 3 and array.ndim:
        return array.take(range(max(array.shape[axis] - 1, 0)), axis)
    if kind == 4 and array.ndim:
        return array.take([], axis)
    if kind == 5:
        return array.T
    if kind == 6:
        with np.errstate(all="ignore"):
            return array.astype(str(rng.choice(DTYPES)))
    if kind == 7 and array.ndim:
        return np.repeat(array, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)]
    if kind == 8 and array.ndim:
        return np.flip(array, axis)
    if kind == 9:
        return np.broadcast_to(array.reshape(-1)[0], array.shape) if array.size else array
    if kind == 10:
        array = array.copy()
        array.flags.writeable = False
        return array
    if kind == 11:
        return np.asfortranarray(array)
    if kind == 12:
        memory = np.zeros(array.nbytes + 1, "u1")[1:]
        view = memory.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    if kind == 13:
        return np.zeros((), array.dtype)
    array = array.copy()
    if array.size:
        values = FLOATS if array.dtype.kind == "f" else INTEGERS
        chosen = rng.random(array.shape) < (0.1 if rng.random() < 0.5 else 0.9)
        value = values[rng.integers(len(values))]
        if array.dtype.kind in "iu":
            info = np.iinfo(array.dtype)
            value = int(np.clip(value, info.min, info.max))
        with np.errstate(all="ignore"):
            array[chosen] = value
    return array


def mutated(rng, value, arguments):
    if rng.random() < 0.08:
        return OTHERS[rng.integers(len(OTHERS))]
    if rng.random() < 0.04:  # another argument, possibly the very same memory
        return list(arguments.values())[rng.integers(len(arguments))]
    if isinstance(value, np.ndarray):
        return mutated_array(rng, value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, np.integer)):
        return INTEGERS[rng.integers(len(INTEGERS))]
    if isinstance(value, float):
        return FLOATS[rng.integers(len(FLOATS))]
    if isinstance(value, str):
        return ("", "\0", "adam" * 9, *RULES)[rng.integers(3 + len(RULES))]
    if isinstance(value, bytes):
        return (value[::-1], b"", b"a" * 100, bytearray(value), value.decode("latin1"))[
            rng.integers(5)
        ]
    if isinstance(value, (list, tuple)) and value:
        value, i = list(value), int(rng.integers(len(value)))
        if rng.random() < 0.2:
            value.insert(i, value[i])
        elif rng.random() < 0.2:
            del value[i]
        else:
            value[i] = mutated(rng, value[i], arguments)
        return value
    return np.zeros((2, 3), "f4")  # replaces None


# What NumPy raises if a mutation does not fit an earlier one; RuntimeError for dates.
UNFIT = (TypeError, ValueError, OverflowError, RuntimeError)


def case(seed, number, only=None):
    """Return the function and the arguments of a case, from the seed and the number."""
    rng = np.random.default_rng((seed, number))
    name = only or list(CALLS)[number % len(CALLS)]
    function, arguments = CALLS[name](rng)
    names = list(arguments)
    for _ in range(rng.integers(1, 4)):
        chosen = names[rng.integers(len(names))]
        with suppress(*UNFIT):
            arguments[chosen] = mutated(rng, arguments[chosen], arguments)
    return name, function, arguments


def run(seed, numbers, only, at):
    """Run cases; the number of the current one is written to the file `at`."""
    outcomes = Counter()
    warnings.simplefilter("ignore")
    for number in numbers:
        os.pwrite(at, struct.pack("q", number), 0)
        name, function, arguments = case(seed, number, only)
        try:
            function(**arguments)
            outcomes[name, "returned"] += 1
        except Exception as error:
            outcomes[name, type(error).__name__] += 1
    return outcomes


def in_child(seed, numbers, only, at):
    """Run cases in a forked child; return their outcomes, or how the child ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(CHUNK_SECONDS)
        outcomes = run(seed, numbers, only, at)
        with os.fdopen(writing, "w") as pipe:
            pipe.write(repr(dict(outcomes)))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        printed = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (Counter(eval(printed)), 0) if status == 0 else (Counter(), status)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", choices=CALLS)
    arguments = parser.parse_args()

    names = [name for name in dir(_core) if not name.startswith("__")]
    doors = {name for name in names if callable(getattr(_core, name))}
    left_out = doors - CALLS.keys() - COVERED - WITHOUT_ARGUMENTS
    assert not left_out, f"no calls of {sorted(left_out)}"
    if "asan" not in os.environ.get("LD_PRELOAD", ""):  # the sanitizer sets its own limit
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, resource.RLIM_INFINITY))
    _core.set_worth_a_thread(0)
    _core.set_num_threads(2)

    outcomes, failures, done, start = Counter(), [], 0, time.monotonic()
    with tempfile.TemporaryFile() as file:
        at = file.fileno()
        number, last = arguments.first, arguments.first + arguments.cases
        while number < last and time.monotonic() - start < arguments.seconds:
            numbers = range(number, min(number + A_CHUNK, last))
            found, status = in_child(arguments.seed, numbers, arguments.only, at)
            outcomes += found
            number = numbers.stop
            if status:
                bad = struct.unpack("q", os.pread(at, 8, 0))[0]
                failures.append(bad)
                name, _, values = case(arguments.seed, bad, arguments.only)
                print(f"case {bad} of seed {arguments.seed} ended with {status}: {name}({values})")
                if len(failures) == 20:
                    break
                number = bad + 1
            done = number - arguments.first
    for name in CALLS:
        of_name = {what: count for (n, what), count in outcomes.items() if n == name}
        print(f"{name:26}", *(f"{what} {count}" for what, count in sorted(of_name.items())))
    seconds = time.monotonic() - start
    print(f"{done} cases in {seconds:.0f} s, {len(failures)} ended the process")
    return 1 if failures or not done else 0


if __name__ == "__main__":
    sys.exit(main())
