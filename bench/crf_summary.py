"""The ratios of a run, and what they should be."""

from fastkeras.bench.crf import OF_BACKEND

PYTORCH, COMPILED, SCAN = "pytorch-crf", "pytorch-crf, compiled", "JAX scan"
# In float32 (csrc/machine/math.h): to round, 2 for the remainder, 7 of the series, by the power.
MULTIPLY_ADDS_OF_EXP = 11
LIMIT_OF_FEW, LIMIT_OF_MANY = 4, 2.5  # times the arithmetic limit, below ten tags, and from ten
COMPOSITES = ("keras", "keras, XLA")
OF_GRADIENT = {  # how much faster than the composite a gradient has to be, by backend and tags
    "jax": {9: 6, 32: 4, 16: 10, 128: 2.5},
    "torch": {9: 50, 32: 30, 16: 300, 128: 20},
}


def targets(function, num_tags, backend):
    """Yield (peers, how many times faster than the fastest of them we have to be)."""
    if backend != "tensorflow":
        if function == "gradient":
            yield (OF_BACKEND[backend][2],), OF_GRADIENT[backend].get(num_tags)
            yield from {"jax": [((SCAN,), 15)], "torch": [((PYTORCH,), 50), ((COMPILED,), 10)]}[
                backend
            ]
        return
    if function == "gradient":
        yield COMPOSITES, 5 if num_tags <= 32 else 3 if num_tags <= 128 else 2
        yield (PYTORCH,), 25
    if function == "viterbi":
        yield COMPOSITES, 3 if num_tags == 9 else 8  # 9: call overhead dominates
        yield (PYTORCH,), 20


def ratio(rows, peers, ours):
    """Return (median ratio, its low, its high): the fastest peer's time divided by ours.

    Low and high pair the 20th percentile of one with the 80th of the other.
    """
    peer = min((rows[name] for name in peers), key=lambda row: row["median"])
    mine = rows[ours]
    return tuple(
        peer[a] / mine[b] for a, b in (("median", "median"), ("p20", "p80"), ("p80", "p20"))
    )


def arithmetic_limit(workload, function, limit):
    """Seconds of an ideal kernel: its multiply-adds, then exponentials at a library's rate.

    Of Viterbi, the additions and maxima, each of which takes as long as a multiply-add.
    """
    num_tags, steps = workload["shape"][2], workload["valid_steps"]
    if function == "viterbi":
        return 4 * steps * num_tags**2 / limit["flops_per_second"]
    flops = {"log-likelihood": 2, "gradient": 6}[function] * steps * num_tags**2
    return flops / limit["flops_per_second"] + steps * num_tags / limit["exps_per_second"]


def multiply_add_limit(workload, function, limit):
    """The same with exponentials at the rate of their multiply-adds, which is faster."""
    num_tags, steps = workload["shape"][2], workload["valid_steps"]
    of_tags = 2 * MULTIPLY_ADDS_OF_EXP * steps * num_tags
    of_pairs = {"log-likelihood": 2, "gradient": 6}[function] * steps * num_tags**2
    return (of_pairs + of_tags) / limit["flops_per_second"]


def summary(results):
    """The lines printed at the end of a run."""
    yield ""
    yield f"CRF on {results['machine']['cpu']}, {results['machine']['threads']} threads, float32"
    backend = results["machine"].get("backend", "tensorflow")
    yield f"medians, and how many times longer than {OF_BACKEND[backend][0]}"
    for name, workload in results["crf"].items():
        batch, steps, num_tags = workload["shape"]
        yield ""
        yield f"{name} ({batch}, {steps}, {num_tags})"
        for function in ("log-likelihood", "gradient", "viterbi"):
            yield from of_function(workload, function, results.get("limit"), backend)
    if "empty_call" in results:
        yield ""
        yield f"a tf.function that does nothing takes {1000 * results['empty_call']:.3f} ms"
    if "workspace_in_emissions" in results:
        yield ""
        yield f"workspace of loss + gradient: {results['workspace_in_emissions']} × the emissions"


def of_function(workload, function, limit, backend):
    rows = workload.get(function)
    if not rows:
        return
    name = OF_BACKEND[backend][0]
    ours = rows.get(name)
    yield f"  {function}"
    for provider, row in rows.items():
        times = f"{row['median'] / ours['median']:8.2f} ×" if ours else ""
        errors = f"error {row['error']:.1e}"
        if "gradient_error" in row:
            errors += f", of the gradient {row['gradient_error']:.1e}"
        scaled = ", from fewer steps" if "steps_scaled_by" in row else ""
        yield f"    {provider:20}{1000 * row['median']:12.3f} ms {times}   {errors}{scaled}"
    num_tags = workload["shape"][2]
    if limit:
        ideal = arithmetic_limit(workload, function, limit)
        yield f"    {'arithmetic limit':20}{1000 * ideal:12.3f} ms"
        if "native" in rows:
            times = rows["native"]["median"] / ideal
            aim = LIMIT_OF_FEW if num_tags < 10 else LIMIT_OF_MANY
            judged = "" if function == "log-likelihood" else verdict(times, aim, at_most=True)
            yield f"    native is {times:.2f} × the limit{judged}"
    for peers, aim in targets(function, num_tags, backend):
        peers = [name for name in peers if name in rows]
        if ours and peers:
            middle, low, high = ratio(rows, peers, name)
            fastest = min(peers, key=lambda name: rows[name]["median"])
            spread = f"{middle:.1f} × as fast as {fastest} ({low:.1f} to {high:.1f})"
            yield f"    {spread}{verdict(middle, aim) if aim else ''}"


def verdict(value, aim, at_most=False):
    reached = value <= aim if at_most else value >= aim
    words = "at most" if at_most else "at least"
    return f"; to reach: {words} {aim} ×: {'yes' if reached else 'NO'}"
