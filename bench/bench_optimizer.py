"""The optimizer step alone: ours and the peers, checked and then timed, on the same two cores.

Compare seconds of processor time: on a shared machine they repeat within 5 percent, whereas time on
the clock depends on what else runs.
"""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from fastkeras.bench.optimizer import (
    EPSILON_COMES_LATE,
    ON_JAX,
    PROVIDERS,
    Step,
    check,
    of_shapes,
    transformer,
)

MODELS = {  # width, inner width, layers, vocabulary
    "BERT-base": (768, 3072, 12, 30522),
    "small": (172, 688, 12, 2700),
}
CASES = {  # rates by layer, clipping by the global norm
    "one rate": (False, False),
    "rates by layer": (True, False),
    "global norm": (False, True),
    "rates and norm": (True, True),
}
FRAMEWORKS = {  # which share a process: there is not enough memory for all at once
    "tensorflow, torch": [name for name in PROVIDERS if name not in ON_JAX],
    "jax": ON_JAX,
}
PARTS = {  # the same numbers in many variables and in one, and what many cost that hold nothing
    "199 × 25,000": [(25_000,)] * 199,
    "1 × 4,975,000": [(4_975_000,)],
    "199 × 1": [(1,)] * 199,
}
OF_PARTS = "fastkeras", "fastkeras, NumPy", "fastkeras, XLA", "torch fused", "fastkeras, torch"
NOTHING = "tensorflow, nothing"
ROUNDS = 25  # every provider makes a step in each, since the speed of the memory drifts


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("frameworks", FRAMEWORKS)
def test_optimizer(benchmark, records, quick, model, case, frameworks):
    rounds = ROUNDS // 5 if quick else ROUNDS
    found = in_a_process_of_its_own(benchmark, model, case, rounds, frameworks)
    of_model = records.setdefault("optimizer", {}).setdefault(model, {})
    of_model |= {"variables": found["variables"], "numbers": found["numbers"]}
    of_model.setdefault(case, {}).update(found["rows"])


@pytest.mark.parametrize("parts", PARTS)
def test_cost_of_a_variable(benchmark, records, quick, parts):
    rounds = ROUNDS if quick else 10 * ROUNDS
    found = in_a_process_of_its_own(benchmark, parts, "one rate", rounds, "parts")
    records.setdefault("optimizer_parts", {})[parts] = found["rows"]


def in_a_process_of_its_own(benchmark, model, case, rounds, providers):
    """Since TensorFlow does not give back the memory of a function."""
    arguments = [sys.executable, __file__, model, case, str(rounds), providers]
    benchmark.group = f"{model}, {case}, {providers}"
    run = benchmark.pedantic(
        subprocess.run, (arguments,), {"capture_output": True, "text": True}, rounds=1
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout.splitlines()[-1])
    benchmark.extra_info.update(found["rows"])
    return found


def compare(model, case, rounds, providers):
    """Return the rows of one case: the providers that can do it, checked, then timed in turns."""
    problem, (rates, clip) = problem_of(model), CASES[case]
    steps, rows = {}, {}
    for name, provider in providers.items():
        try:
            step = provider(problem, rates, clip)
        except ImportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        start = time.perf_counter()
        step.call()
        rows[name] = {"first_call": time.perf_counter() - start} if step.first_call_compiles else {}
        late = name in EPSILON_COMES_LATE
        if step.parameters:
            rows[name]["error"] = check(problem, step.parameters(), rates, clip, late)
        if step.state_bytes:
            rows[name]["state_bytes"] = step.state_bytes()
        steps[name] = step
    seconds = {name: ([], []) for name in steps}
    for i in range(rounds + 2):  # two to warm up
        for name, step in steps.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            step.call()
            cpu, wall = time.process_time() - cpu_start, time.perf_counter() - start
            if i >= 2:
                seconds[name][0].append(cpu)
                seconds[name][1].append(wall)
    for name, (cpu, wall) in seconds.items():
        rows[name] |= {"cpu": percentiles(cpu), "wall": percentiles(wall)}
    numbers = sum(p.size for p in problem.parameters)
    return {"rows": rows, "variables": len(problem.parameters), "numbers": numbers}


def problem_of(model):
    if model in MODELS:
        return transformer(*MODELS[model])
    return of_shapes(PARTS[model], [0] * len(PARTS[model]))


def nothing(problem, rates, clip):
    """An empty function with the arguments of a step: variables, two moments each, gradients."""
    import tensorflow as tf

    variables = [tf.Variable(p) for p in problem.parameters for _ in range(3)]
    given = [v.handle for v in variables] + [tf.constant(g) for g in problem.gradients]

    @tf.function
    def step():
        for argument in given:
            tf.identity(argument)  # so that it is an argument; the operation is pruned
        return given[0]

    return Step(step, None)


def chosen(which):
    if which in FRAMEWORKS:
        return {name: PROVIDERS[name] for name in FRAMEWORKS[which]}
    return {name: PROVIDERS[name] for name in OF_PARTS} | {NOTHING: nothing}


def percentiles(seconds):
    return dict(zip(("p20", "median", "p80"), np.percentile(seconds, [20, 50, 80]), strict=True))


if __name__ == "__main__":
    name, of, count, which = sys.argv[1:]
    print(json.dumps(compare(name, of, int(count), chosen(which))))
