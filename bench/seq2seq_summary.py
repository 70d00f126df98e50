"""The ratios of a run, and what they should be."""

SELECT = {  # how many times faster than these a step has to be
    "TensorFlow": 10,
    "TensorFlow, XLA": 6,
    "torch": None,
    "JAX": None,
    "NumPy loop": 25,
}
GRU = {"TensorFlow": 1.5, "TensorFlow, XLA": 1.2, "article": 15}
OURS = ("tensorflow_native", "native", "torch_native", "jax_native")
SHOWN = (0, 1, 2, 4, 8, 16, 32, 48, 63)  # steps of the transformer


def summary(results):
    """The lines printed at the end of a run."""
    machine = results["machine"]
    yield ""
    yield f"Beam search on {machine['cpu']}, {machine['threads']} threads, float32"
    rows = results.get("select", {})
    if rows:
        yield f"  select {'×'.join(map(str, rows['shape']))}"
    for ours in OURS:
        if ours in rows:
            yield f"    {ours:24}{1000 * rows[ours]['median']:9.2f} ms"
    yield from _ratios(rows, "native", {"NumPy loop": SELECT["NumPy loop"]})
    rest = {name: aim for name, aim in SELECT.items() if name != "NumPy loop"}
    yield from _ratios(rows, "tensorflow_native", rest)
    rows = results.get("gru", {})
    if rows:
        yield f"  a GRU's whole search of {rows['steps']} steps"
        for name, row in rows.items():
            if isinstance(row, dict):
                yield f"    {name:24}{1000 * row['median']:9.1f} ms"
    yield from _ratios(rows, "fastkeras", GRU)
    for beams, row in results.get("transformer", {}).items():
        if beams == "1":
            yield "  a transformer's steps, ms, " + " ".join(f"{t + 1:6d}" for t in SHOWN)
        cells = " ".join(f"{1000 * row['steps'][t]:6.1f}" for t in SHOWN)
        yield (
            f"    {beams} beams{'':17}{cells}; reordering would add {1000 * row['reordering']:.1f}"
        )
    for name, row in results.get("generate", {}).items():
        if "missing" in row:
            yield f"    {name}: {row['missing']}"
        else:
            yield (
                f"    GPT-2, {name:17}{row['tokens_per_second']:9,.0f} tokens a second, "
                f"{row['same']:.0%} the same, mean log-likelihood {row['log_likelihood']:.2f}"
            )


def markdown(results, path):
    """The tables of docs/seq2seq.md."""
    select, gru = results["select"], results["gru"]
    lines = [f"| one step, {' × '.join(map(str, select['shape']))} | ms | ± | of ours |"]
    lines.append("|---|---:|---:|---:|")
    for name, row in select.items():
        if isinstance(row, dict):
            mine = "native" if name in ("native", "NumPy loop", "numba") else "tensorflow_native"
            times = row["median"] / select[mine]["median"]
            text = f"**`{name}`**" if name.partition(",")[0] in (*OURS, "numba") else name
            lines.append(
                f"| {text} | {1000 * row['median']:.2f} | {row['error']:.0e} | {times:.1f}× |"
            )
    lines += [
        "",
        f"| a GRU's whole search, {gru['steps']} steps | ms | of ours |",
        "|---|---:|---:|",
    ]
    for name, row in gru.items():
        if isinstance(row, dict):
            times = row["median"] / gru["fastkeras"]["median"]
            lines.append(f"| {name} | {1000 * row['median']:,.0f} | {times:.1f}× |")
    lines += ["", "| a transformer's step, ms | " + " | ".join(f"{t + 1}" for t in SHOWN)]
    lines[-1] += " | reordering |"
    lines.append("|---" * (len(SHOWN) + 2) + "|")
    for beams, row in results["transformer"].items():
        cells = " | ".join(f"{1000 * row['steps'][t]:.1f}" for t in SHOWN)
        lines.append(f"| {beams} beams | {cells} | {1000 * row['reordering']:.1f} |")
    rows = {k: row for k, row in results.get("generate", {}).items() if "median" in row}
    if rows:
        lines += ["", "| GPT-2, 4 beams | tokens/s | the same | log p |", "|---|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['tokens_per_second']:,.0f} | {row['same']:.0%} | "
            f"{row['log_likelihood']:.2f} |"
        )
    return "\n".join([*lines, "", f"[{path.name}](../bench/results/{path.name})"])


def _ratios(rows, ours, aims):
    for name, aim in aims.items():
        if name in rows and ours in rows:
            ratio = rows[name]["median"] / rows[ours]["median"]
            judged = (
                "" if aim is None else f" (at least {aim:g}{'' if ratio >= aim else ', missed'})"
            )
            yield f"    {ours}: {ratio:6.1f} × faster than {name}{judged}"
