"""The table of docs/optimizers.md: what the steps are to reach, what they reach, and why not."""

from aims import Aim, table
from optimizer_quantization_summary import beside
from optimizer_rules_summary import KERAS_OVER_MUON, MUON_OVER_PRODUCTS
from optimizer_summary import (
    A_VARIABLE,
    FIRST_CALL,
    IN_PARTS,
    LARGEST_SWEEPS,
    OF_OPTAX,
    OURS,
    OURS_ON_JAX,
    QUANTIZED,
    SMALL,
    TARGETS,
    ratio,
)

SWEEPS = ("schedule_free_sgd", "schedule_free_adamw", "ademamix")
NOTHING = "tensorflow, nothing"
PEERS = {
    "keras": "Keras",
    "keras, XLA": "Keras under XLA",
    "keras MultiOptimizer": "Keras' MultiOptimizer",
    "torch fused": "torch, fused",
}
ON = {"fastkeras": "TensorFlow", "fastkeras, XLA": "XLA", "fastkeras, NumPy": "NumPy arrays"}
ON |= {"fastkeras, torch": "torch"}

OF_ARGUMENTS = (
    "a variable is four arguments of a `tf.function`, and passing them takes time: an empty one "
    "with as many takes{nothing} of it. One argument for all would save that, but by those of an "
    "operation TensorFlow orders reads and writes, SavedModels find their variables, and XLA "
    "compiles"
)
OF_MEMORY = "a step already takes {sweeps:.2f} × the time of moving its bytes once"
OF_NORMS = OF_MEMORY + ", and reads the gradients twice"
OF_DRIFT = "rates by layer move the same bytes: the speed of the memory drifts within a run"
OF_CODES = (
    f"it moves {16 / 28:.2f} × the bytes; the rest is the arithmetic of the codes, which counts "
    "where the memory is fast"
)
OF_PRODUCTS = (
    "both take the same products, nearly all of the time, and no framework has one on CPUs that "
    "computes only half of a symmetric matrix"
)
OF_SHRINKING = 'second moments in 8 bits are noisy until they have followed, see "8 bits"'
OF_LION = 'a single moment in 8 bits has more noise than its signs can bear, see "8 bits"'
OF_VARIABLES = "what a variable costs besides its numbers, see below"
OF_CALLS = "the call: reading tensors, and the lists of them"


def markdown(results, path, of_rules=(None, None), of_quality=(None, None)):
    """The table, from the results of bench_optimizer.py, and two more pairs of results and file.

    Which are of bench_optimizer_rules.py and of optimizer_quantization_quality.py.
    """
    others = [(found, file) for found, file in (of_rules, of_quality) if found]
    aims = [*of_steps(results["optimizer"]), *of_parts(results.get("optimizer_parts", {}))]
    for found, _ in others:
        aims += [*of_other_rules(found), *of_few_bits(found.get("problems", {}))]
    return table(aims, [path, *(file for _, file in others)])


def of_steps(models):
    """Steps of AdamW beside peers, in processor time; those of 8 bits on the clock."""
    for model, of_model in models.items():
        for case, peers in TARGETS.items():
            rows = of_model.get(case, {})
            if OURS in rows:
                yield from of_case(model, case, rows, peers)
    rows = models["BERT-base"]["one rate"]
    if "first_call" in rows[OURS]:
        name = "BERT-base: first call of a `tf.function`"
        yield Aim(name, rows[OURS]["first_call"], FIRST_CALL, True, "{:.2f} s")


def of_case(model, case, rows, peers):
    sweeps = rows["bytes moved"]
    reason = OF_VARIABLES
    if model == "BERT-base":
        reason = OF_NORMS if "norm" in case else OF_MEMORY
        reason = reason.format(sweeps=1 / ratio(rows[OURS], sweeps)[0])
    for peer, aim in peers.items():
        if peer in (rows if model == "BERT-base" else SMALL):
            least = SMALL.get(peer, aim) if model == "small" else aim
            name = f"{model}, {case}: times as fast as {PEERS[peer]}"
            yield Aim(name, ratio(rows[OURS], rows[peer])[0], least, False, reason=reason)
    ours = rows.get("fastkeras, torch")
    if ours and "torch fused" in rows and "norm" not in case:
        name = f"{model}, {case}: `compat.torch_optim`, times as fast as torch, fused"
        yield Aim(name, ratio(ours, rows["torch fused"])[0], 1.0, False, reason=reason)
    if OURS_ON_JAX in rows and "optax" in rows:
        name = f"{model}, {case}: on JAX, times as fast as optax"
        value = ratio(rows[OURS_ON_JAX], rows["optax"])[0]
        yield Aim(name, value, OF_OPTAX[case], False, reason=reason)
    if model == "BERT-base" and "norm" not in case:
        name = f"{model}, {case}: of the time of moving the bytes, on the clock"
        value = ratio(sweeps, rows[OURS], "wall")[0]
        yield Aim(name, value, LARGEST_SWEEPS, True, reason=OF_DRIFT)
    eight = rows.get("fastkeras, 8 bits")
    if model == "BERT-base" and eight:
        name = f"{model}, {case}: 8 bits, of the time of float32 on the clock"
        value = ratio(rows[OURS], eight, "wall")[0]
        yield Aim(name, value, QUANTIZED["times"], True, reason=OF_CODES)
        if case == "one rate":
            value = eight["state_bytes"] / rows[OURS]["state_bytes"]
            yield Aim("8 bits, of the memory of float32", value, QUANTIZED["memory"], True)


def of_parts(parts):
    """What a variable costs besides its numbers, on the clock."""
    if len(parts) < 3:
        return
    split, whole, empty = (parts[name] for name in ("199 × 25,000", "1 × 4,975,000", "199 × 1"))
    nothing = " part"
    if NOTHING in empty:
        seconds = empty[NOTHING]["wall"]["median"] / 199
        nothing = f" {1e6 * seconds:.1f} µs"
    for provider, where in ON.items():
        if provider not in empty:
            continue
        on_tensorflow = where in ("TensorFlow", "XLA")
        reason = OF_ARGUMENTS.format(nothing=nothing) if on_tensorflow else OF_CALLS
        each, together, one = (row[provider]["wall"]["median"] for row in (empty, split, whole))
        name = f"a variable of one number, {where}"
        yield Aim(name, each / 199, A_VARIABLE, True, "{:.1f} µs", 1e6, reason)
        most = IN_PARTS * one + 199 * A_VARIABLE
        name = f"5 M numbers in 199 variables, {where}: of {IN_PARTS} × one variable, and 3 µs each"
        reason = "what 199 variables cost, see the row above"
        if on_tensorflow and NOTHING in split and NOTHING in empty:
            a, b = (1e3 * row[NOTHING]["wall"]["median"] for row in (split, empty))
            reason += f". The empty function takes {a:.1f} ms between these steps, not {b:.1f}"
        yield Aim(name, together, most, True, "{:.2f} ms", 1e3, reason)


def of_other_rules(results):
    """Rules beside the time of their bytes, and Muon."""
    for rule in SWEEPS:
        row = results.get("optimizer_rules", {}).get(rule)
        if row:
            name = f"`{rule}`: of the time of moving its bytes"
            yield Aim(name, row["median"], LARGEST_SWEEPS, True)
    for ns_dtype, row in results.get("muon", {}).items():
        name = f"Muon, {ns_dtype}: of the time of its products"
        yield Aim(name, row["products"]["median"], MUON_OVER_PRODUCTS, True)
        if "gemm" in row:
            name = f"Muon, {ns_dtype}: of their time at the rate of a large product"
            yield Aim(name, row["gemm"]["median"], MUON_OVER_PRODUCTS, True)
        if "keras" in row:
            name = f"Muon, {ns_dtype}: times as fast as that of Keras"
            value = 1 / row["keras"]["median"]
            yield Aim(name, value, KERAS_OVER_MUON, False, reason=OF_PRODUCTS)


def of_few_bits(problems):
    """Training with moments in 8 bits beside float32."""
    for problem, rows in problems.items():
        if "fastkeras" not in rows:
            continue
        is_steps = problem == "shrinking gradients"
        what = "steps" if is_steps else "loss or error"
        reason = OF_SHRINKING if is_steps else OF_LION if "Lion" in problem else ""
        loss, largest = beside(rows["fastkeras"], rows["float32"])
        name = f"8 bits, {problem}: {what} beside float32"
        yield Aim(name, loss, QUANTIZED["loss"], True, "{:+.1f} %", 100, reason)
        name = f"8 bits, {problem}: largest weight beside float32"
        yield Aim(name, largest, QUANTIZED["largest"], True, reason=reason)
