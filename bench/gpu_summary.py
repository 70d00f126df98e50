"""The tables of docs/gpu.md, from the results of bench/bench_gpu."""

COLUMNS = {  # of the CRF: name in the results, head of the column
    "loss and gradient, in a graph": "**fastkeras**, CUDA graph",
    "loss and gradient": "**fastkeras**, CuPy arrays",
    "torch tensors: loss and backward": "**fastkeras**, torch tensors",
    "jax arrays: value and gradient under jit": "**fastkeras**, JAX arrays",
    "torch: scaled recursion, in a graph": "recursion in torch, CUDA graph",
    "jax: scaled lax.scan under jit": "scaled JAX scan",
    "jax: log-space lax.scan under jit": "log-space JAX scan",
    "pytorch-crf": "pytorch-crf",
}
FORMS = {
    "shared": "skip-gram, window-shared",
    "pairs": "skip-gram, exact",
    "cbow": "CBOW",
}


def tables(results):
    """The text between the marks."""
    rows = {domain: [] for domain in ("crf", "optimizers", "word2vec")}
    for row in results["rows"]:
        rows[row["domain"]].append(row)
    machine = results["machine"]
    return "\n\n".join(
        (
            machine_line(machine),
            *(made(rows[domain]) for domain, made in MADE.items() if rows[domain]),
        )
    )


def machine_line(machine):
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("cupy-cuda13x", "torch", "jax") if name in machine
    )
    return (
        f"{machine['gpu']}, whose memory copies {machine['copy_gigabytes_per_second']:,} GB/s, "
        f"bytes read and written; {versions}; results that are wrong are not timed."
    )


def of_crf(rows):
    by_shape = {}
    for row in rows:
        by_shape.setdefault(tuple(row["shape"]), {})[row["name"]] = row
    lines = [
        "| CRF, loss and gradient | "
        + " | ".join(COLUMNS.values())
        + " | **Viterbi**, CUDA graph |",
        "|---|" + "---:|" * (len(COLUMNS) + 1),
    ]
    for shape, found in by_shape.items():
        best = found["loss and gradient, in a graph"]["ms"]
        cells = [crf_cell(found.get(name), best) for name in COLUMNS]
        cells.append(crf_cell(found.get("Viterbi, in a graph"), None))
        lines.append(f"| {' × '.join(map(str, shape))} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def crf_cell(row, best):
    if row is None:
        return ""
    if "ms" not in row:
        return "too far from float64"
    ratio = "" if best in (None, row["ms"]) else f" · {row['ms'] / best:,.1f}×"
    return f"{number(row['ms'])} ms ± {row['error']:.0e}{ratio}"


def of_optimizers(rows):
    lines = [
        "| AdamW, BERT-base, 109 M | a step | GB/s | of the copy's | error |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "ms" not in row or "error" not in row:
            continue
        ours = row["name"] if row["name"].startswith("torch") else f"**fastkeras**, {row['name']}"
        lines.append(
            f"| {ours} | {number(row['ms'])} ms | {row['GB/s']:,.0f} | {row['of the copy']:.0%} "
            f"| {row['error']:.0e} |"
        )
    return "\n".join(lines)


def of_word2vec(rows):
    lines = [
        "| Word2Vec | dimensions | places that train at once | M words/s | planted analogies, % |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "million_words_per_second" not in row:
            continue
        on_gpu = row["engine"] == "cupy"
        name = FORMS[row["name"]] + ("" if on_gpu else f", `{row['engine']}` on the CPU")
        places = (row["places"] or "by default") if on_gpu else "all threads"
        lines.append(
            f"| {name} | {row['size']} | {places} | {row['million_words_per_second']:.3g} "
            f"| {row['quality']:.1f} |"
        )
    return "\n".join(lines)


def number(value):
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


MADE = {"crf": of_crf, "optimizers": of_optimizers, "word2vec": of_word2vec}
