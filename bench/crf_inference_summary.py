"""The ratios of a run, and what they should be."""

LIMITS = {  # call: (the call it is compared with, the largest ratio)
    "k_best": ("viterbi", 6),
    "sample": ("gradient", 1),
    "sample, numbers too": ("gradient", None),  # NumPy draws them, on one thread
    "marginals": ("gradient", 1),
    "constrained": ("gradient", 1.05),
}
SEMI_MARKOV = 10  # times faster than the peer
VARYING = 10  # loss and gradient, times faster than the keras engine under XLA


def summary(results):
    """The lines printed at the end of a run."""
    yield ""
    cpu, threads = results["machine"]["cpu"], results["machine"]["threads"]
    yield f"CRF inference on {cpu}, {threads} threads, float32"
    for name, rows in results.get("crf", {}).items():
        yield f"  {name} {'×'.join(map(str, rows['shape']))}"
        for what, (by, limit) in LIMITS.items():
            ratio = rows[what]["median"] / rows[by]["median"]
            yield f"    {what:20} {ratio:5.2f} × {by}{_judged(ratio, limit)}"
    for name, rows in results.get("varying", {}).items():
        yield f"  transitions that vary, {name} {'×'.join(map(str, rows['shape']))}"
        for ours in ("native", "tensorflow_native"):
            ratio = rows["keras, XLA"]["median"] / rows[ours]["median"]
            share = rows["limit of memory"] / rows[ours]["median"]
            yield (
                f"    {ours:20} {ratio:5.1f} × faster than keras, XLA, at {share:.0%} of what the "
                f"memory allows ({VARYING}{'' if ratio >= VARYING else ', missed'})"
            )
    rows = results.get("semi_markov")
    if rows is None:
        yield "  semi-Markov chains: not measured, flash-semicrf is not installed"
        return
    yield f"  semi-Markov chains {'×'.join(map(str, rows['shape']))}"
    for what in ("log_partition", "marginals", "viterbi"):
        ratio = rows[f"{what}, flash-semicrf"]["median"] / rows[what]["median"]
        holds = "" if ratio >= SEMI_MARKOV else ", missed"
        yield f"    {what:14} {ratio:6.1f} × faster than flash-semicrf ({SEMI_MARKOV}{holds})"


def _judged(ratio, limit):
    if limit is None:
        return ""
    return f" (at most {limit:g}{'' if ratio <= limit else ', missed'})"
