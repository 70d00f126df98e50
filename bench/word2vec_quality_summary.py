"""The table of a run of word2vec_quality.py, and what it should be."""

import numpy as np

MEASURES = {  # name, digits
    "wordsim": ("WordSim-353", 3),
    "simlex": ("SimLex-999", 3),
    "rare": ("rare pairs", 3),
    "analogies": ("analogies %", 1),
    "planted": ("planted %", 1),
}
PEERS = {  # a model has to be as good as its peer: its mean, less the spread of its seeds
    "skip-gram, exact": "gensim skip-gram",
    "skip-gram, window-shared": "gensim skip-gram",
    "CBOW, word2vec's update": "gensim CBOW",
    "hierarchical softmax": "gensim hierarchical softmax",
    "n-grams": "fastText",
}


def mean(values, digits):
    """A mean and, after ±, the standard deviation."""
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def summary(results):
    """The lines printed at the end of a run."""
    yield ""
    yield f"Word2Vec: means and deviations of {seeds_of(results)} seeds, one thread each"
    for name, text in results["texts"].items():
        counts = ", ".join(f"{value:,} {key}" for key, value in text["common"].items())
        yield f"{name}: {text['words']:,} words; {counts}"
    yield ""
    yield f"{'':30}" + "".join(f"{title:>17}" for title, _ in MEASURES.values())
    for name, row in rows_of(results).items():
        cells = (mean(row.get(key, []), digits) for key, (_, digits) in MEASURES.items())
        yield f"{name:30}" + "".join(f"{cell:>17}" for cell in cells)
    yield ""
    for name, peer, measure, difference, allowed in compared(results):
        text = f"{name}: {difference:+.3f} to {peer} in {MEASURES[measure][0]}"
        reached = "yes" if difference >= -allowed else "NO"
        yield f"  {text}; to reach: at least {-allowed:+.3f}: {reached}"


def rows_of(results):
    """Return {model: {measure: values by seed}} of all texts together."""
    rows = {}
    for text in results["texts"].values():
        for name, row in text["rows"].items():
            rows.setdefault(name, {}).update(row)
    return rows


def seeds_of(results):
    """How many seeds the rows have, "3" or "3 to 8"."""
    counts = {len(values) for row in rows_of(results).values() for values in row.values()}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def compared(results):
    """Yield (model, peer, measure, difference of the means, the spread of the peer's seeds)."""
    rows = rows_of(results)
    for name, peer in PEERS.items():
        for measure in MEASURES:
            values, others = (rows.get(one, {}).get(measure) for one in (name, peer))
            if values and len(others or ()) > 1:
                difference = float(np.mean(values) - np.mean(others))
                yield name, peer, measure, difference, float(np.std(others, ddof=1))


def markdown(results, path):
    """docs/word2vec.md: a row for each model."""
    lines = [f"| | {' | '.join(title for title, _ in MEASURES.values())} |"]
    lines.append("|---|" + "---:|" * len(MEASURES))
    for name, row in rows_of(results).items():
        title = name if name in PEERS.values() else f"**{name}**"
        cells = (mean(row.get(key, []), digits) for key, (_, digits) in MEASURES.items())
        lines.append(f"| {title} | {' | '.join(cells)} |")
    order = (
        "Each seed has an order of lines of its own, and so a Huffman tree of its own"
        if results.get("order_by_seed")
        else "The seeds share one order of lines, and so one Huffman tree, which is chance (see "
        "above): their deviations do not have that of the trees in them"
    )
    return "\n".join([*lines, "", f"{order}; [{path.name}](../bench/results/{path.name})."])
