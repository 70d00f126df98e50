"""The ratios of a run of bench_optimizer.py, and what they should be."""

OURS = "fastkeras"
TARGETS = {  # of the processor time: peer, times ours, in which case; "at most" for a bound on ours
    "one rate": {"torch fused": 1.0, "keras": 4.5, "keras, XLA": 1.6},
    "rates by layer": {"torch fused": 1.0, "keras MultiOptimizer": 5.0},
    "global norm": {"torch fused": 1.3, "keras": 4.8, "keras, XLA": 2.4},
    "rates and norm": {"torch fused": 1.3},
}
OURS_ON_JAX = "fastkeras, JAX"
OF_OPTAX = {"one rate": 1.0, "rates by layer": 1.3, "global norm": 1.3, "rates and norm": 1.3}
SMALL = {"torch fused": 1 / 1.1}  # where call overhead dominates
LARGEST_SWEEPS = 1.15
FIRST_CALL = 1.5  # seconds
QUANTIZED = {"times": 0.75, "memory": 0.27}  # of that in float32, and so are these
QUANTIZED |= {"loss": 0.005, "largest": 1.1}  # how much more; the largest weight


A_VARIABLE = 3e-6  # seconds
IN_PARTS = 1.25


def ratio(ours, peer, clock="cpu"):
    """Return (median ratio, its low, its high): the peer's time divided by ours."""
    a, b = ours[clock], peer[clock]
    return b["median"] / a["median"], b["p20"] / a["p80"], b["p80"] / a["p20"]


def summary(results):
    """The lines printed at the end of a run."""
    machine = results["machine"]
    yield ""
    yield f"AdamW step on {machine['cpu']}, {machine['threads']} threads, float32"
    for model, of_model in results.get("optimizer", {}).items():
        if "variables" not in of_model:
            continue
        count, numbers = of_model["variables"], of_model["numbers"]
        for case in TARGETS:
            if case in of_model:
                yield ""
                yield f"{model} ({count} variables, {numbers / 1e6:.1f} million), {case}"
                yield from of_case(model, case, of_model[case])
    yield from of_parts(results.get("optimizer_parts", {}))


def of_parts(parts):
    """What a variable costs beside its numbers, on the clock: alone, and in a model of 199."""
    if len(parts) < 3:
        return
    yield ""
    yield "5 million numbers in 199 variables and in one; 199 variables of one number"
    split, whole, empty = (parts[name] for name in ("199 × 25,000", "1 × 4,975,000", "199 × 1"))
    for provider in empty:
        each, together, one = (row[provider]["wall"] for row in (empty, split, whole))
        fixed = each["median"] / 199
        most = IN_PARTS * one["median"] + 199 * A_VARIABLE
        yield (
            f"  {provider:22}a variable {1e6 * fixed:5.2f} us; in 199 parts "
            f"{1e3 * together['median']:.2f} ms, in one {1e3 * one['median']:.2f} ms"
        )
        if provider.startswith(OURS):
            reached = [fixed <= A_VARIABLE, together["median"] <= most]
            a, b = ("yes" if each else "NO" for each in reached)
            yield (
                f"    to reach: {1e6 * A_VARIABLE:.0f} us: {a}; at most {1e3 * most:.2f} ms "
                f"(1.25 × one, and 3 us for each): {b}"
            )


def of_case(model, case, rows):
    for provider, row in rows.items():
        error = f"   error {row['error']:.2f} ulp" if "error" in row else ""
        first = f"   first call {row['first_call']:.1f} s" if "first_call" in row else ""
        yield f"  {provider:22}{times(row)}{error}{first}"
    if OURS_ON_JAX in rows and "optax" in rows:
        middle, low, high = ratio(rows[OURS_ON_JAX], rows["optax"])
        reached = "yes" if middle >= OF_OPTAX[case] else "NO"
        spread = f"{middle:.2f} × less than optax ({low:.2f} to {high:.2f})"
        yield f"  {spread}; to reach: {OF_OPTAX[case]:.2g}: {reached}"
    ours, sweep = rows.get(OURS), rows.get("bytes moved")
    if not ours:
        return
    small = model == "small"
    for peer, aim in TARGETS[case].items():
        if peer in rows:
            aim = SMALL.get(peer, aim) if small else aim
            middle, low, high = ratio(ours, rows[peer])
            spread = f"{middle:.2f} × less than {peer} ({low:.2f} to {high:.2f})"
            yield f"  {spread}; to reach: {aim:.2g}: {'yes' if middle >= aim else 'NO'}"
    eight = rows.get("fastkeras, 8 bits")
    if eight and not small:
        for clock, name in (("wall", "time on the clock"), ("cpu", "processor time")):
            middle, low, high = ratio(ours, eight, clock)
            reached = "yes" if middle <= QUANTIZED["times"] else "NO"
            spread = f"8 bits take {middle:.2f} × the {name} ({low:.2f} to {high:.2f})"
            yield f"  {spread}; to reach: at most {QUANTIZED['times']}: {reached}"
        memory = eight["state_bytes"] / ours["state_bytes"]
        reached = "yes" if memory <= QUANTIZED["memory"] else "NO"
        text = f"8 bits take {memory:.3f} × the memory of the states"
        yield f"  {text}; to reach: at most {QUANTIZED['memory']}: {reached}"
    if sweep and "norm" not in case and not small:
        middle, low, high = ratio(sweep, ours, "wall")
        reached = "yes" if middle <= LARGEST_SWEEPS else "NO"
        spread = f"{middle:.2f} × the time of moving the bytes ({low:.2f} to {high:.2f})"
        yield f"  {spread}; to reach: at most {LARGEST_SWEEPS}: {reached}"
    if not small:
        reached = "yes" if ours["first_call"] <= FIRST_CALL else "NO"
        yield f"  first call {ours['first_call']:.2f} s; to reach: {FIRST_CALL}: {reached}"


def times(row):
    cpu, wall = (1000 * row[clock]["median"] for clock in ("cpu", "wall"))
    return f"processor {cpu:8.1f} ms   clock {wall:8.1f} ms"
