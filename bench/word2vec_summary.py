"""The ratios of a run of bench_word2vec.py, against what they should be."""

PASSES = 5  # for each time the text is read: the default number of epochs
TARGETS = {  # by case and provider: times the words per second of each peer
    "skip-gram": {
        "fastkeras, window-shared": {"gensim": 9, "fastText": 20},
        "fastkeras, exact": {"gensim": 4, "fastText": 9},
        "numba, window-shared": {"gensim": 2.5},
        "numba, exact": {"gensim": 2.5},
    },
    "CBOW": {
        "fastkeras, word2vec's update": {"gensim": 6, "fastText": 9},
        "fastkeras, exact gradient": {"gensim": 6, "fastText": 9},
        "numba, word2vec's update": {"gensim": 2.5},
    },
    "hierarchical softmax": {"fastkeras": {"gensim": None}, "numba": {"gensim": None}},
}
OF_CACHE = 1.6  # times the processor time with all rows in the first cache
SCAN = 20e6  # bytes per second


def speed(row, which="median", clock="cpu"):
    """Words per second, the reading of the text included."""
    return row["words"] / (row[clock][which] + row["setup"] / PASSES)


def ratio(ours, peer):
    """Return (median ratio, its low, its high)."""
    return (
        speed(ours) / speed(peer),
        speed(ours, "high") / speed(peer, "low"),
        speed(ours, "low") / speed(peer, "high"),
    )


def verdict(reached):
    return "yes" if reached else "NO"


def summary(results):
    """The lines that end a run."""
    machine = results["machine"]
    yield ""
    corpus = "{name}, {bytes:,} bytes".format(**results.get("corpus", {"name": "?", "bytes": 0}))
    yield f"Word2Vec on {machine['cpu']}, a thread each; {corpus}; words per processor second"
    for case, rows in results.get("word2vec", {}).items():
        yield ""
        yield case
        yield from of_case(TARGETS[case], rows)
    yield ""
    for name, row in results.get("cache", {}).items():
        memory, cache = row["memory"], row["cache"]
        times = memory["median"] / cache["median"]
        low, high = memory["low"] / cache["high"], memory["high"] / cache["low"]
        seconds = f"{memory['median']:.2f} s, {cache['median']:.2f} s with all rows in cache"
        aim = f"to reach: at most {OF_CACHE}: {verdict(times <= OF_CACHE)}"
        yield f"  {name:26}{seconds}: {times:.2f} × ({low:.2f} to {high:.2f}); {aim}"
    if "scan" in results:
        yield from of_scan(results["scan"])


def of_case(targets, rows):
    for name, row in rows.items():
        if "missing" in row:
            yield f"  {name:30}missing: {row['missing']}"
            continue
        solved = f"   analogies {row['analogies']:3.0f} %" if "analogies" in row else ""
        clock = f"clock {speed(row, clock='wall') / 1e3:7,.0f} k"
        yield f"  {name:30}{speed(row) / 1e3:7,.0f} k   {clock}{solved}"
    for name, of_peer in targets.items():
        for peer, aim in of_peer.items():
            if "cpu" in rows.get(name, {}) and "cpu" in rows.get(peer, {}):
                middle, low, high = ratio(rows[name], rows[peer])
                text = f"{name} is {middle:.2f} × as fast as {peer} ({low:.2f} to {high:.2f})"
                reached = f"; to reach: {aim}: {verdict(middle >= aim)}" if aim else ""
                yield f"  {text}{reached}"


def of_scan(row):
    counted, encoded = (row[f"bytes_{key}_per_second"] for key in ("counted", "encoded"))
    yield (
        f"  words are counted at {counted / 1e6:.0f} MB/s a core, encoded at {encoded / 1e6:.0f}; "
        f"to reach: {SCAN / 1e6:.0f}: {verdict(min(counted, encoded) >= SCAN)}"
    )
    memory, allowed = row["memory"] / 2**20, row["memory_allowed"] / 2**20
    yield (
        f"  {row['vocabulary']:,} words take {memory:.0f} MiB; to reach: at most {allowed:.0f} "
        f"MiB: {verdict(memory <= allowed)}"
    )


def markdown(results, path):
    """The table for a README: a row for each provider."""
    lines = ["| one thread | k words / CPU second | against gensim |", "|---|---:|---:|"]
    for case, rows in results["word2vec"].items():
        for name, row in rows.items():
            if "cpu" in row:
                times = f"{ratio(row, rows['gensim'])[0]:.1f}×" if "cpu" in rows["gensim"] else ""
                lines.append(f"| {case}: {name} | {speed(row) / 1e3:,.0f} | {times} |")
    versions = results["machine"]["versions"]
    note = (
        f"{results['machine']['cpu']}, 100 dimensions, window 5, 5 negatives, sample 1e-4, the "
        f"text read once in {PASSES} passes; gensim {versions['gensim']} reads its corpus_file; "
        f"[{path.name}](bench/results/{path.name})."
    )
    return "\n".join([*lines, "", note])
