"""What docs/word2vec.md says of a run of word2vec_vectors.py."""

ROWS = {  # what was done: ours, the peer
    "load a text file": ("text, fastkeras", "text, gensim"),
    "load word2vec's binary file": ("binary, fastkeras", "binary, gensim"),
    "map a `.npy`": ("mapped .npy, fastkeras", None),
    "map a `.npy` of 8 bits": ("mapped .npy of 8 bits, fastkeras", None),
    "the nearest of each query": ("fastkeras", "NumPy, matmul and argpartition"),
    "the same in 8 bits": ("fastkeras, 8 bits", "NumPy, matmul and argpartition"),
}


def markdown(results, path):
    seconds = results["loading"] | results["nearest"]
    lines = ["| | fastkeras | gensim; for searches NumPy |", "|---|---:|---:|"]
    for what, (ours, peer) in ROWS.items():
        own = seconds[ours]["clock"]
        cell = ""
        if peer:
            cell = f"{seconds[peer]['clock']:,.2f} s · {seconds[peer]['clock'] / own:.1f}×"
        lines.append(f"| {what} | **{own:.2f} s** | {cell} |")
    machine = results["machine"]
    lines += [
        "",
        f"{results['words']:,} words of size {results['size']}, {results['queries']:,} queries, "
        f"{machine['cpu']}, {machine['threads']} threads, time on the clock, medians; "
        f"[{path.name}](../bench/results/{path.name})",
    ]
    return "\n".join(lines)
