"""The step of each rule that has kernels, beside a loop that only moves the bytes that it must.

And that of Muon, beside its products of matrices alone, beside the time that these would take at
the rate of a large product, and beside the Muon of Keras. They take turns, and what counts is the
ratio of their processor times, round by round: the speed of the memory drifts. Results are checked
against the reference on a part first; those of Muon by tests/optimizers/test_muon.py.
"""

import time

import numpy as np
import pytest

from fastkeras.optimizers import update
from fastkeras.optimizers.rules import RULES

NUMBERS, ROUNDS = 16 * 2**20, 25  # 64 MiB for each array, more than caches hold
# What a second pass before the step reads again, besides the gradient: the arrays of the others
# are in the table "bytes for each float32 number" of docs/optimizers.md.
READ_BEFORE = {"cautious_adam": 1, "cautious_lion": 1, "stable_adamw": 1, "lamb": 3}
MORE = {"nadam": {"u_product": 0.4}}
KERNELS = [rule for rule, row in RULES.items() if row.has_kernel]
LARGE = 3072  # rows and columns of the large product
MATRICES = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]  # a layer of BERT-base


def mover(rule):
    """A loop that reads the arrays of a rule, and writes all of them but the gradient."""
    import numba

    parallel = numba.njit(parallel=True, fastmath=True)

    @parallel
    def read(x):
        total = np.float32(0)
        for i in numba.prange(x.size):
            total += x[i]
        return total

    @parallel
    def move_2(g, p):
        for i in numba.prange(g.size):
            p[i] += g[i]

    @parallel
    def move_3(g, p, a):
        for i in numba.prange(g.size):
            p[i] += g[i]
            a[i] += g[i]

    @parallel
    def move_4(g, p, a, b):
        for i in numba.prange(g.size):
            p[i] += g[i]
            a[i] += g[i]
            b[i] += g[i]

    @parallel
    def move_5(g, p, a, b, c):
        for i in numba.prange(g.size):
            p[i] += g[i]
            a[i] += g[i]
            b[i] += g[i]
            c[i] += g[i]

    count = 2 + len(RULES[rule].slots)
    arrays = [np.ones(NUMBERS, np.float32) for _ in range(count)]  # zeros could share one page
    move = (move_2, move_3, move_4, move_5)[count - 2]
    before = arrays[: 1 + READ_BEFORE[rule]] if rule in READ_BEFORE else []

    def call():
        for array in before:
            read(array)
        move(*arrays)

    call()  # compiles it
    return call, 4 * (len(before) + 2 * count - 1)


def stepper(rule, size, engine, dtype=np.float32):
    rng = np.random.default_rng(0)
    parameter, gradient = rng.standard_normal((2, size)).astype(dtype)
    slots = tuple(np.full(size, 0.5, dtype) for _ in RULES[rule].slots)
    settings = {"learning_rate": 1e-3, "weight_decays": [0.01], "engine": engine}
    settings |= MORE.get(rule, {})

    def step():
        update(rule, [parameter], [gradient], [slots], step=3, **settings)
        return parameter

    return step


@pytest.mark.parametrize("rule", KERNELS)
def test_rule(benchmark, records, quick, rule):
    found, exact = (stepper(rule, 10_000, engine)() for engine in ("native", "reference"))
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-6)
    benchmark.group = "optimizer rules"
    step, (move, size) = stepper(rule, NUMBERS, "native"), mover(rule)
    seconds = np.array(
        benchmark.pedantic(
            lambda: [pair(step, move) for _ in range(ROUNDS // 5 if quick else ROUNDS)], rounds=1
        )
    )
    row = ratio(*seconds.T) | {"bytes": size, "cpu": float(np.median(seconds[:, 0]))}
    benchmark.extra_info.update(row)
    records.setdefault("optimizer_rules", {})[rule] = row


def ratio(ours, other):
    low, middle, high = np.percentile(ours / other, [20, 50, 80])
    return {"p20": low, "median": middle, "p80": high}


def pair(*calls):
    """The processor time of each call."""
    seconds = []
    for call in calls:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return seconds


@pytest.mark.parametrize("ns_dtype", ["float32", "bfloat16"])
def test_muon(benchmark, records, quick, ns_dtype):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    benchmark.group = "Muon"
    found, share = steps_of_muon(ns_dtype)
    for call in found.values():
        call()  # traces it
    rounds = 2 if quick else ROUNDS
    seconds = np.array(
        benchmark.pedantic(lambda: [pair(*found.values()) for _ in range(rounds)], rounds=1)
    )
    of = dict(zip(found, seconds.T, strict=True))
    row = {"cpu": float(np.median(of["muon"]))}
    row["gemm_gflops"] = 2e-9 * LARGE**3 / float(np.median(of["gemm"]))  # a second of a processor
    of["gemm"] = share * of["gemm"]
    row |= {name: ratio(of["muon"], of[name]) for name in [*found][1:]}
    benchmark.extra_info.update(row)
    records.setdefault("muon", {})[ns_dtype] = row


def steps_of_muon(ns_dtype):
    """Return functions, and what share of the large product our products of matrices are.

    The functions are our step, its products, one large product, and the step of Keras, which has no
    `ns_dtype`.
    """
    import keras
    import tensorflow as tf

    from fastkeras import optimizers

    rng = np.random.default_rng(0)
    gradients = [tf.constant(rng.standard_normal(shape).astype("f4")) for shape in MATRICES]

    def step_of(optimizer):
        variables = [keras.Variable(np.zeros(shape, "f4")) for shape in MATRICES]
        optimizer.build(variables)
        return tf.function(lambda: optimizer.apply(gradients, variables))

    wide = [tf.transpose(g) if g.shape[0] > g.shape[1] else g for g in gradients]
    wide = [tf.cast(x / tf.norm(x), ns_dtype) for x in wide]
    large = tf.cast(rng.standard_normal((LARGE, LARGE)).astype("f4"), ns_dtype)
    found = {
        "muon": step_of(optimizers.Muon(ns_dtype=ns_dtype)),
        "products": tf.function(lambda: [products(x)[0, 0] for x in wide]),
        "gemm": tf.function(lambda: tf.matmul(large, large)[0, 0]),
    }
    if hasattr(keras.optimizers, "Muon"):
        found["keras"] = step_of(keras.optimizers.Muon())
    return found, sum(map(multiplications, wide)) / LARGE**3


def multiplications(x):
    """Those of `products`."""
    from fastkeras.optimizers.fused.classes.muon import stretches

    rows, columns = x.shape
    of_squares = [1 + (step > 0) + 2 * (step < n - 1) for n in stretches(5, x) for step in range(n)]
    return sum(of_squares) * rows**3 + 2 * len(stretches(5, x)) * rows * rows * columns


def products(x):
    """Take the products of `orthogonal` in muon.py, in their order, and nothing between them."""
    import tensorflow as tf

    from fastkeras.optimizers.fused.classes.muon import stretches

    for count in stretches(5, x):
        square, factor = tf.matmul(x, x, transpose_b=True), None
        for step in range(count):
            last = tf.matmul(square, square)
            factor = last if factor is None else tf.matmul(last, factor)
            if step < count - 1:
                square = tf.matmul(tf.matmul(last, square), last)
        x = tf.matmul(factor, x)
    return x
