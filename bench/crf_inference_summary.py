"""The ratios of a run, and what they should be."""

LIMITS = {  # call: the call it is compared with, the largest ratio, and what it is called
    "k_best": ("viterbi", 6, "the 8 best: Viterbi"),
    "sample": ("gradient", 1, "16 samples, uniform numbers given: loss and gradient"),
    # NumPy draws the numbers, on one thread.
    "sample, numbers too": (
        "gradient",
        None,
        "16 samples, numbers drawn by NumPy: loss and gradient",
    ),
    "marginals": ("gradient", 1, "marginals: loss and gradient"),
    "constrained": ("gradient", 1.05, "loss and gradient, BIO constraints: loss and gradient"),
    "log-likelihood, weighted": ("log-likelihood", 1.1, "weighted likelihood: likelihood"),
    "gradient, weighted": (
        "gradient in two calls",
        1.1,
        "weighted loss and gradient: loss and gradient",
    ),
}
DOOR = 10e-6  # seconds of a function beside its kernel
SEMI_MARKOV = 10  # times faster than the peer
VARYING = 10  # loss and gradient, times faster than the keras engine under XLA
SECOND_ORDER = 2.5  # times the limit of arithmetic, loss and gradient


def summary(results):
    """The lines printed at the end of a run."""
    yield ""
    cpu, threads = results["machine"]["cpu"], results["machine"]["threads"]
    yield f"CRF inference on {cpu}, {threads} threads, float32"
    for name, rows in results.get("crf", {}).items():
        yield f"  {name} {'×'.join(map(str, rows['shape']))}"
        for what, (by, limit, _) in LIMITS.items():
            ratio = rows[what]["median"] / rows[by]["median"]
            yield f"    {what:20} {ratio:5.2f} × {by}{_judged(ratio, limit)}"
    if "doors" in results:
        rows = results["doors"]
        yield f"  one sentence {'×'.join(map(str, rows['shape']))}, the function beside its kernel"
        for what in ("log-likelihood", "gradient", "viterbi"):
            seconds = rows[what]["median"] - rows[f"{what}, kernel"]["median"]
            missed = "" if seconds <= DOOR else ", missed"
            yield f"    {what:20} {1e6 * seconds:5.1f} µs (at most {1e6 * DOOR:g}{missed})"
    for name, rows in results.get("varying", {}).items():
        yield f"  transitions that vary, {name} {'×'.join(map(str, rows['shape']))}"
        for ours in ("native", "tensorflow_native"):
            ratio = rows["keras, XLA"]["median"] / rows[ours]["median"]
            share = rows["limit of memory"] / rows[ours]["median"]
            yield (
                f"    {ours:20} {ratio:5.1f} × faster than keras, XLA, at {share:.0%} of what the "
                f"memory allows ({VARYING}{'' if ratio >= VARYING else ', missed'})"
            )
    for name, rows in results.get("second_order", {}).items():
        yield f"  second-order chains, {name} {'×'.join(map(str, rows['shape']))}"
        for what, limit in rows["limits of arithmetic"].items():
            ratio = rows[what]["median"] / limit
            judged = _judged(ratio, SECOND_ORDER if what == "gradient" else None)
            yield f"    {what:20} {ratio:5.2f} × what the arithmetic takes{judged}"
        ours = "gradient, tensorflow_native"
        ratio = rows["gradient, keras, XLA"]["median"] / rows[ours]["median"]
        yield f"    {ours} {ratio:5.1f} × faster than keras, XLA"
    rows = results.get("semi_markov")
    if rows is None:
        yield "  semi-Markov chains: not measured, flash-semicrf is not installed"
        return
    yield f"  semi-Markov chains {'×'.join(map(str, rows['shape']))}"
    for what in ("log_partition", "marginals", "viterbi"):
        ratio = rows[f"{what}, flash-semicrf"]["median"] / rows[what]["median"]
        holds = "" if ratio >= SEMI_MARKOV else ", missed"
        yield f"    {what:14} {ratio:6.1f} × faster than flash-semicrf ({SEMI_MARKOV}{holds})"


def markdown(results, path):
    """docs/crf.md: what inference costs."""
    names = [
        f"{name} {' × '.join(map(str, rows['shape']))}" for name, rows in results["crf"].items()
    ]
    lines = [
        f"| as many times | {' | '.join(names)} | at most |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for what, (by, limit, title) in LIMITS.items():
        cells = [
            f"{rows[what]['median'] / rows[by]['median']:.2f}" for rows in results["crf"].values()
        ]
        aim = "" if limit is None else f"{limit:g}"
        lines.append(f"| {title} | {' | '.join(cells)} | {aim} |")
    lines += [
        "",
        "| varying transitions, loss and gradient | native | tensorflow_native | keras, XLA |",
    ]
    lines.append("|---|" + "---:|" * 3)
    for name, rows in results["varying"].items():
        peer = rows["keras, XLA"]["median"]
        cells = [f"{1e3 * peer:.2f} ms"]
        for ours in ("tensorflow_native", "native"):
            each = rows[ours]["median"]
            cells.insert(0, f"{1e3 * each:.2f} ms · {peer / each:.1f} ×")
        lines.append(f"| {name} {' × '.join(map(str, rows['shape']))} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"[{path.name}](../bench/results/{path.name})"])


def _judged(ratio, limit):
    if limit is None:
        return ""
    return f" (at most {limit:g}{'' if ratio <= limit else ', missed'})"
