"""The CRF: our engines and the peers, checked and then timed, on the same two cores.

Keras takes one backend in a process: KERAS_BACKEND=jax or torch measures what runs on that, and
writes a results file of its own.
"""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from fastkeras.bench import limits
from fastkeras.bench.crf import IN_LOG_SPACE, OF_BACKEND, PROVIDERS, draw
from fastkeras.bench.crf_accuracy import check, exact
from fastkeras.bench.crf_on_torch import LONGEST_TO_COMPILE

WORKLOADS = {  # batch, steps, tags
    "named entities": (32, 128, 9),
    "fine-grained tags": (64, 256, 32),
    "speech": (16, 512, 128),
    "long documents": (8, 2048, 16),
    "morphology": (256, 64, 64),
    "many states": (4, 4096, 512),  # on TensorFlow only: the keras engine of torch takes minutes
}
FUNCTIONS = ("log-likelihood", "gradient", "viterbi")
LARGEST_FOR_LOG_SPACE = 2**32  # bytes they may keep; if more, they get an eighth of the steps
BACKEND = os.environ["KERAS_BACKEND"]
SECONDS = 2.0 if BACKEND == "tensorflow" else 1.0  # of timed rounds for each, two rounds at least
COMPILED = "pytorch-crf, compiled"
MOST_SCALED = 32  # times as many steps as were measured
problems, exact_results = {}, {}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # between peers


@pytest.mark.parametrize(
    ("workload", "function", "provider"),
    [
        pytest.param(workload, function, provider, id=f"{workload}-{function}-{provider}")
        for workload in list(WORKLOADS)[: None if BACKEND == "tensorflow" else -1]
        for function in FUNCTIONS
        for provider in OF_BACKEND[BACKEND]
        if provider != COMPILED or function == "gradient"
    ],
)
def test_crf(benchmark, records, quick, workload, function, provider):
    batch, steps, num_tags = WORKLOADS[workload]
    problem = problem_of(workload)
    kept = 4 * batch * steps * num_tags**2
    factor = 8 if provider in IN_LOG_SPACE and kept > LARGEST_FOR_LOG_SPACE else 1
    if provider == COMPILED:
        factor = steps // LONGEST_TO_COMPILE
        if factor > MOST_SCALED:
            pytest.skip(f"torch.compile writes out all steps, and {steps} would take an hour")
    if factor > 1:
        problem = problem.shortened(factor)
    try:
        call = PROVIDERS[provider](problem)[function]
    except ImportError as error:
        pytest.skip(str(error))
    once, found = timed(call)  # compiles
    errors = check(function, found, problem, exact_of(workload, problem, factor))
    if once < SECONDS:
        once, _ = timed(call)
    seconds = SECONDS / 10 if quick else SECONDS
    rounds = int(np.clip(seconds / once, 3 if once < SECONDS else 2, 200))
    benchmark.group = f"{workload} {batch}×{steps}×{num_tags}, {function}"
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=min(rounds // 10, 3))
    seconds = factor * np.array(benchmark.stats.stats.data)
    low, median, high = np.percentile(seconds, [20, 50, 80]).tolist()
    row = {"median": median, "p20": low, "p80": high, "rounds": rounds, **errors}
    if factor > 1:
        row["steps_scaled_by"] = factor
    benchmark.extra_info.update(row)
    of_workload = records.setdefault("crf", {}).setdefault(workload, {"shape": WORKLOADS[workload]})
    of_workload["valid_steps"] = int(problem_of(workload).lengths.sum())
    of_workload.setdefault(function, {})[provider] = row


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def problem_of(workload):
    if workload not in problems:
        problems.clear()  # one at a time in memory
        exact_results.clear()
        problems[workload] = draw(*WORKLOADS[workload])
    return problems[workload]


def exact_of(workload, problem, factor):
    if factor not in exact_results:
        exact_results[factor] = exact(problem)
    return exact_results[factor]


def test_arithmetic_limit(records, quick):
    """The rates that give the time of an ideal kernel: in registers, or of a library if faster."""
    import torch

    torch.set_num_threads(2)
    products = [limits.measured(threads=2)["flops"]]
    for rows, size in [(16, 128), (64, 128), (64, 512), (512, 512), (1024, 1024)]:
        left, right = np.ones((rows, size), np.float32), np.ones((size, size), np.float32)
        out = np.empty_like(left)
        t_left, t_right, t_out = map(torch.from_numpy, (left, right, out))
        flops = 2 * rows * size * size
        products.append(flops / fastest(lambda: np.matmul(left, right, out=out)))  # noqa: B023
        products.append(flops / fastest(lambda: torch.mm(t_left, t_right, out=t_out)))  # noqa: B023
    values = np.linspace(-9, 0, 8192, dtype=np.float32)
    out = np.empty_like(values)
    t_values, t_out = torch.from_numpy(values), torch.from_numpy(out)
    exps = [
        2 * len(values) / fastest(lambda: np.exp(values, out=out)),  # both use one thread here
        2 * len(values) / fastest(lambda: torch.exp(t_values, out=t_out)),
    ]
    records["limit"] = {"flops_per_second": max(products), "exps_per_second": max(exps)}
    assert min(records["limit"].values()) > 1e8


def test_empty_call(records):
    """The time of a TensorFlow function that does nothing, which is part of every time above."""
    if BACKEND != "tensorflow":
        pytest.skip("no TensorFlow here")
    import tensorflow as tf

    problem = problem_of("named entities")
    scores = [tf.constant(array) for array in problem if array.dtype.kind == "f"]
    nothing = tf.function(lambda *scores: scores[0])
    seconds = []
    for _ in range(500):
        start = time.perf_counter()
        nothing(*scores)
        seconds.append(time.perf_counter() - start)
    records["empty_call"] = float(np.median(seconds[100:]))
    assert records["empty_call"] < 0.1


def fastest(call, seconds=0.2):
    best, end = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(10):
            call()
        best = min(best, (time.perf_counter() - start) / 10)
    return best


MEMORY = """
import re
from pathlib import Path
import numpy as np
from fastkeras import crf

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def workspace(batch, steps, num_tags):
    x = np.random.default_rng(0).standard_normal((batch, steps, num_tags), np.float32)
    tags = np.zeros((batch, steps), np.int32)
    a = np.zeros((num_tags, num_tags), np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = kilobytes("VmRSS")
    crf.log_likelihood_and_gradients(x, tags, a, engine="native")
    return 1024 * (kilobytes("VmHWM") - before) / x.nbytes - 1  # 1: the gradient, a result

workspace(2, 8, 4)
print(workspace(256, 512, 64))
"""


def test_workspace_is_at_most_three_times_the_emissions(records):
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, env=dict(os.environ)
    )
    assert run.returncode == 0, run.stderr
    records["workspace_in_emissions"] = round(float(run.stdout), 3)
    assert records["workspace_in_emissions"] <= 3
