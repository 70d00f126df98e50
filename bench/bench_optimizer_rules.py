"""The step of each rule that has kernels, beside a loop that only moves the bytes that it must.

Both take turns, and what counts is the ratio of their processor times, pair by pair: the speed of
the memory drifts. Results are checked against the reference on a part first.
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
    low, middle, high = np.percentile(seconds[:, 0] / seconds[:, 1], [20, 50, 80])
    row = {"p20": low, "median": middle, "p80": high, "bytes": size}
    row["cpu"] = float(np.median(seconds[:, 0]))
    benchmark.extra_info.update(row)
    records.setdefault("optimizer_rules", {})[rule] = row


def pair(*calls):
    """The processor time of each call."""
    seconds = []
    for call in calls:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return seconds
