"""The table of docs/word2vec.md: what is aimed at, what is reached, and why not."""

import numpy as np
from aims import Aim, table
from scipy.stats import ttest_rel
from word2vec_quality_summary import MEASURES, PEERS
from word2vec_quality_summary import compared as compared_with_peers
from word2vec_quality_summary import rows_of as rows_of_models
from word2vec_summary import OF_CACHE, OF_SKIP_GRAM, SCAN, TARGETS, ratio, share_of_limit
from word2vec_workers_summary import SPEEDUP
from word2vec_workers_summary import compared as compared_with_one

CHANCE = 0.05  # the probability, by chance, of one difference as large among all of a table
LOADED, SEARCHED, AT_ONCE = 10, 2, 1.0  # times gensim's speed, and NumPy's; seconds

OF_SPREAD = "the ratios of this run go from {:.2f} to {:.2f}"
OF_ROWS = (
    "rows of words and n-grams are several times as many as those of words, and do not fit into "
    "the caches; each word brings the rows of its n-grams into its first window"
)
OF_BINARY = (
    "word2vec's format has the words between the rows, at any byte, so that no array can be "
    "mapped onto it; `.npy` can, and `fastkeras word2vec export` writes it"
)
OF_ONE_WORKER = (
    "one worker has {:.0%} of the speed of `Word2Vec.fit`, since matrices are copied in each round "
    "and their updates counted; two have {:.2f} times the speed of one"
)


def markdown(speed, quality, vectors, workers):
    """The table, from (results, path) of each program; None for those that were not run."""
    parts = {of_speed: speed, of_quality: quality, of_vectors: vectors, of_workers: workers}
    aims = [aim for of, given in parts.items() if given for aim in of(given[0])]
    return table(aims, [given[1] for given in parts.values() if given])


def of_speed(results):
    """Words per processor second beside peers, and beside the limit that the caches set."""
    for case, rows in results["word2vec"].items():
        for name, of_peer in TARGETS[case].items():
            for peer, aim in of_peer.items():
                if aim and "cpu" in rows.get(name, {}) and "cpu" in rows.get(peer, {}):
                    value, low, high = ratio(rows[name], rows[peer])
                    reason = OF_SPREAD.format(low, high)
                    name_of = f"{case}, {name}: times as fast as {peer}"
                    yield Aim(name_of, value, aim, False, "{:.1f} ×", reason=reason)
    cache = results.get("cache", {})
    for name, row in cache.items():
        share, reason = share_of_limit(row), OF_ROWS if name.startswith("subwords") else ""
        title = f"{name}: of its speed with all rows in the first cache"
        yield Aim(title, share, 1 / OF_CACHE, False, "{:.1f} %", 100, reason)
        peer = OF_SKIP_GRAM.get(name)
        if peer in cache:
            least = share_of_limit(cache[peer])
            title = f"{title}, beside that of {peer}"
            yield Aim(title, share, least, False, "{:.1f} %", 100, reason)
    if "scan" in results:
        scan = results["scan"]
        for key in ("counted", "encoded"):
            value = scan[f"bytes_{key}_per_second"]
            yield Aim(f"text, {key} by a core", value, SCAN, False, "{:.0f} MB/s", 1e-6)
        title = f"memory of a training of {scan['vocabulary']:,} words"
        allowed = scan["memory_allowed"]
        yield Aim(title, scan["memory"], allowed, True, "{:.0f} MiB", 2**-20)


def of_quality(results):
    """Scores beside peers: not below their mean by more than the spread of their seeds."""
    rows, every = rows_of_models(results), list(compared_with_peers(results))
    for name, peer, measure, difference, allowed in every:
        title, digits = MEASURES[measure]
        reason = of_seeds(rows[name], rows[PEERS[name]], measure, len(every))
        yield Aim(
            f"{name}: {title}, beside {peer}", difference, -allowed, False,
            f"{{:+.{digits}f}}", reason=reason,
        )  # fmt: skip


def of_seeds(ours, others, measure, comparisons):
    """Whether a difference may be chance, and what the other measures are.

    Seeds are compared by pairs: one seed is one order of lines for all models.
    """
    seeds = min(len(ours[measure]), len(others[measure]))
    chance = ttest_rel(ours[measure][:seeds], others[measure][:seeds]).pvalue
    text = f"p = {chance:.2g} by pairs of {seeds} seeds"
    if not chance * comparisons < CHANCE:
        return f"may be chance, as one of {comparisons} differences: {text}"
    better = [
        f"{MEASURES[other][0]} {difference:+.{MEASURES[other][1]}f}"
        for other in MEASURES
        if other in ours and other in others
        if (difference := np.mean(ours[other]) - np.mean(others[other])) > 0
    ]
    beside = f"; there are also {', '.join(better)}" if better else ""
    return f"hardly chance: {text}{beside}"


def of_vectors(results):
    """Files of vectors, and searches, on the clock."""
    loading, nearest = (
        {name: row["clock"] for name, row in results[key].items()} for key in ("loading", "nearest")
    )
    size = f"{results['words'] / 1e6:g} M words of size {results['size']}"
    text = loading["text, gensim"] / loading["text, fastkeras"]
    yield Aim(f"{size}: a text file, times as fast as gensim", text, LOADED, False, "{:.1f} ×")
    for name, key, reason in (
        ("a `.npy`, mapped", "mapped .npy, fastkeras", ""),
        ("word2vec's binary file", "binary, fastkeras", OF_BINARY),
    ):
        yield Aim(f"{size}: {name}", loading[key], AT_ONCE, True, "{:.2f} s", reason=reason)
    numpy = nearest["NumPy, matmul and argpartition"]
    title = f"{size}: the nearest of {results['queries']:,}, times as fast as NumPy"
    yield Aim(title, numpy / nearest["fastkeras"], SEARCHED, False, "{:.1f} ×")


def of_workers(results):
    """Words per second of several workers, and their scores beside those of one."""
    speed, workers = results["speed"], results["settings"]["workers"]
    reason = OF_ONE_WORKER.format(speed["one"] / speed["here"], speed["all"] / speed["one"])
    for name, key in {"one worker": "one", "`Word2Vec.fit` on one thread": "here"}.items():
        title, value = f"{workers} workers: times as fast as {name}", speed["all"] / speed[key]
        yield Aim(title, value, SPEEDUP * workers, False, "{:.2f} ×", reason=reason)
    every = list(compared_with_one(results))
    for name, measure, difference, allowed in every:
        alone, together = results["quality"][name].values()
        title, digits = MEASURES[measure]
        reason = of_seeds(together, alone, measure, len(every))
        yield Aim(
            f"{workers} workers, {name}: {title}, beside one", difference, -allowed, False,
            f"{{:+.{digits}f}}", reason=reason,
        )  # fmt: skip
