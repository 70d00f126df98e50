"""The ratios of a run of bench_word2vec.py, and what they should be."""

from word2vec_quality_summary import MEASURES, compared, mean, rows_of, seeds_of

PASSES = 5  # for each time the text is read: the default number of epochs
TARGETS = {  # by case and provider: the ratio to the words per second of each peer
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
    "documents": {"fastkeras": {"gensim": 5}},
    "documents, PV-DBOW": {"fastkeras": {"gensim": 5}},
    "documents, PV-DM": {"fastkeras": {"gensim": 5}},
}
MODELS = {  # of word2vec_quality.py, by case and provider
    ("skip-gram", "fastkeras, window-shared"): "skip-gram, window-shared",
    ("skip-gram", "fastkeras, exact"): "skip-gram, exact",
    ("skip-gram", "gensim"): "gensim skip-gram",
    ("CBOW", "fastkeras, word2vec's update"): "CBOW, word2vec's update",
    ("CBOW", "fastkeras, exact gradient"): "CBOW, exact gradient",
    ("CBOW", "gensim"): "gensim CBOW",
    ("hierarchical softmax", "fastkeras"): "hierarchical softmax",
    ("hierarchical softmax", "gensim"): "gensim hierarchical softmax",
}
OF_CACHE = 1.6  # times the processor time with all rows in the first cache
OF_SKIP_GRAM = {  # passes that should be as near to that limit as one of skip-gram is
    "hierarchical softmax": "skip-gram, exact",
    "subwords, window-shared": "skip-gram, window-shared",
}
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


def percent(share):
    return f"{100 * share:.1f} %"


def verdict(reached):
    return "yes" if reached else "NO"


def summary(results):
    """The lines printed at the end of a run."""
    machine = results["machine"]
    yield ""
    corpus = "{name}, {bytes:,} bytes".format(**results.get("corpus", {"name": "?", "bytes": 0}))
    yield f"Word2Vec on {machine['cpu']}, a thread each; {corpus}; words per processor second"
    for case, rows in results.get("word2vec", {}).items():
        yield ""
        yield case
        yield from of_case(TARGETS[case], rows)
    yield ""
    yield from of_limit(results.get("cache", {}))
    if "scan" in results:
        yield from of_scan(results["scan"])


def of_limit(cache):
    for name, row in cache.items():
        low, high = row["cache"]["low"] / row["memory"]["high"], row["cache"]["high"]
        share, high = share_of_limit(row), high / row["memory"]["low"]
        aim = f"to reach: {percent(1 / OF_CACHE)}: {verdict(share >= 1 / OF_CACHE)}"
        if name in OF_SKIP_GRAM and OF_SKIP_GRAM[name] in cache:
            of_peer = share_of_limit(cache[OF_SKIP_GRAM[name]])
            aim += f", and {percent(of_peer)}, that of {OF_SKIP_GRAM[name]}"
            aim += f": {verdict(share >= of_peer)}"
        seconds = f"{row['memory']['median']:.2f} s, {row['cache']['median']:.2f} s"
        yield (
            f"  {name:26}{seconds} with all rows in the first cache: {percent(share)} of that "
            f"speed ({percent(low)} to {percent(high)}); {aim}"
        )


def share_of_limit(row):
    """The speed of a pass, as a share of that with all rows in the first cache."""
    return row["cache"]["median"] / row["memory"]["median"]


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


def markdown(results, quality, path, quality_path):
    """The table of docs/speed.md, from both runs: a row for each provider."""
    scores = rows_of(quality)
    peers = ("gensim", "fastText")
    titles = ["one thread", "k words / CPU second", *(f"against {peer}" for peer in peers)]
    titles += [title for title, _ in MEASURES.values()]
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    for case, rows in results["word2vec"].items():
        for name, row in rows.items():
            if "cpu" not in row:
                continue
            cells = [f"{case}: {bold(name)}", f"{speed(row) / 1e3:,.0f}"]
            cells += [against(row, rows.get(peer, {})) for peer in peers]
            of_row = scores.get(MODELS.get((case, name)), {})
            for key, (_, digits) in MEASURES.items():
                cells.append(mean(of_row[key], digits) if key in of_row else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", note(results, quality, path, quality_path)])


def bold(name):
    return f"**{name}**" if name.startswith("fastkeras") else name


def against(row, peer):
    if "cpu" not in peer or row is peer:
        return ""
    return "{:.1f}× ({:.1f} to {:.1f})".format(*ratio(row, peer))


def note(results, quality, path, quality_path):
    machine, versions = results["machine"], results["machine"]["versions"]
    corpus = "{name} text of {bytes:,} bytes".format(**results["corpus"])
    text = (
        f"Speed: {machine['cpu']} ({machine['instruction_set']}), {corpus} read once for {PASSES} "
        "passes, 100 dimensions, window 5, 5 negatives, sample 1e-4, median and, in parentheses, "
        f"lowest and highest ratio; gensim {versions['gensim']} by its corpus_file, fastText with "
        f"`-maxn 0`; [{path.name}](../bench/results/{path.name})."
    )
    shares = [f"{name} {percent(share_of_limit(row))}" for name, row in results["cache"].items()]
    text += f" Shares of the speed with all rows in the first cache: {', '.join(shares)}."
    text += f" {of_quality(quality)}; [{quality_path.name}](../bench/results/{quality_path.name})."
    reached = [*aims(results), *aims_of_quality(quality)]
    missed = [aim for aim, is_reached in reached if not is_reached]
    of_all = f"Of {len(reached)} aims, {len(reached) - len(missed)} are reached"
    return f"{text} {of_all}" + (f". Missed: {'; '.join(missed)}." if missed else ".")


def of_quality(quality):
    texts = [
        f"{text['words'] / 1e6:.1f} M words of {name} text" if name != "synthetic" else
        f"planted analogies in {text['words'] / 1e6:.1f} M synthetic ones"
        for name, text in quality["texts"].items()
    ]  # fmt: skip
    return (
        f"Quality: {' and '.join(texts)}, {quality['epochs']} epochs of the former, Spearman's "
        "coefficients and solved analogies, means ± standard deviations of "
        f"{seeds_of(quality)} seeds, one worker each; larger texts score higher"
    )


def aims_of_quality(quality):
    for name, peer, measure, difference, allowed in compared(quality):
        title, digits = MEASURES[measure]
        text = f"{name} in {title} {difference:+.{digits}f} to {peer}, of {-allowed:+.{digits}f}"
        yield text, difference >= -allowed


def aims(results):
    """Yield (what was aimed for and found, whether it is reached)."""
    for case, rows in results["word2vec"].items():
        for name, of_peer in TARGETS[case].items():
            for peer, aim in of_peer.items():
                if aim and "cpu" in rows.get(name, {}) and "cpu" in rows.get(peer, {}):
                    found = ratio(rows[name], rows[peer])[0]
                    yield f"{case}, {name} {found:.1f} × {peer}, of {aim}", found >= aim
    for name, row in results.get("cache", {}).items():
        share = share_of_limit(row)
        text = f"{name} {percent(share)} of its speed with all rows in the first cache, of"
        yield f"{text} {percent(1 / OF_CACHE)}", share >= 1 / OF_CACHE
        if name in OF_SKIP_GRAM and OF_SKIP_GRAM[name] in results["cache"]:
            of_peer = share_of_limit(results["cache"][OF_SKIP_GRAM[name]])
            yield f"{text} {percent(of_peer)}, that of {OF_SKIP_GRAM[name]}", share >= of_peer
    if "scan" in results:
        scan = results["scan"]
        for key in ("counted", "encoded"):
            found = scan[f"bytes_{key}_per_second"]
            yield f"words {key} at {found / 1e6:.0f} MB/s, of {SCAN / 1e6:.0f}", found >= SCAN
        memory, allowed = scan["memory"], scan["memory_allowed"]
        text = f"memory of {memory / 2**20:.0f} MiB, of {allowed / 2**20:.0f}"
        yield text, memory <= allowed
