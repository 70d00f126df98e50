"""The table of a run of word2vec_workers.py, and what it should be."""

import numpy as np
from word2vec_quality_summary import MEASURES, mean

SPEEDUP = 0.9  # of each worker beyond the first: 1.8 times the words/s by two
MEASURED = [measure for measure in MEASURES if measure != "planted"]


def summary(results):
    """The lines printed at the end of a run."""
    settings, speed = results["settings"], results["speed"]
    workers = settings["workers"]
    yield ""
    yield f"{results['words']:,} words; load before the first: {speed['load']:.1f}"
    least = SPEEDUP * workers
    for name in ("here", "one"):
        times = speed["all"] / speed[name]
        reached = "yes" if times >= least else "NO"
        title = {"here": "one thread without Ray", "one": "one worker"}[name]
        yield f"{workers} workers: {times:.2f} x words/s of {title}; to reach: {least}: {reached}"
    yield ""
    yield f"{'':36}" + "".join(f"{MEASURES[measure][0]:>17}" for measure in MEASURED)
    for name, number, scores in rows(results):
        cells = (mean(scores[measure], MEASURES[measure][1]) for measure in MEASURED)
        yield f"{name:26}{number} workers" + "".join(f"{cell:>17}" for cell in cells)
    yield ""
    for name, measure, difference, allowed in compared(results):
        reached = "yes" if difference >= -allowed else "NO"
        yield (
            f"  {name}: {difference:+.3f} to one worker in {MEASURES[measure][0]}; "
            f"to reach: at least {-allowed:+.3f}: {reached}"
        )


def rows(results):
    """Yield (model, number of workers, scores by measure)."""
    for name, by_workers in results["quality"].items():
        for number, scores in by_workers.items():
            yield name, number, scores


def compared(results):
    """Yield (model, measure, difference of the means, the spread of one worker's seeds)."""
    for name, by_workers in results["quality"].items():
        alone, together = by_workers.values()
        for measure in MEASURED:
            if len(alone[measure]) > 1:
                difference = float(np.mean(together[measure]) - np.mean(alone[measure]))
                yield name, measure, difference, float(np.std(alone[measure], ddof=1))


def markdown(results, path):
    """docs/word2vec.md: words/s, and a row for each model and number of workers."""
    settings, speed = results["settings"], results["speed"]
    lines = [
        f"On {results['words'] / 1e6:.1f} million words of English, {settings['workers']} workers "
        f"of one thread each train {speed['all'] / 1e6:.2f} million words/s, "
        f"{speed['all'] / speed['one']:.2f} times as many as one and "
        f"{speed['all'] / speed['here']:.2f} times as many as `Word2Vec.fit`, with "
        f"{settings['between'] / 1e6:g} million words between two rounds. Scores of 100 rounds, "
        f"means and deviations of {settings['seeds']} seeds:",
        "",
        f"| | workers | {' | '.join(MEASURES[measure][0] for measure in MEASURED)} |",
        "|---|---:|" + "---:|" * len(MEASURED),
    ]
    for name, number, scores in rows(results):
        cells = (mean(scores[measure], MEASURES[measure][1]) for measure in MEASURED)
        lines.append(f"| {name} | {number} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"[{path.name}](../bench/results/{path.name})"])
