"""What the segmentation example found, as a text and as a figure; both from its results.json."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

INK, GREY, BLUE, ORANGE = "#222222", "#9a9a9a", "#2166ac", "#d6604d"
TAGS = ["begin", "middle", "end", "single"]
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 12,
    "xtick.color": INK,
    "ytick.color": INK,
}


def report(results):
    """The tables that a training prints at its end."""
    sentences = results["sentences"]
    lines = [
        "",
        "words of the held-out tenth     precision   recall       F1   illegal tag sequences",
    ]
    names = {"matching": "maximum matching", "softmax": "network, softmax", "crf": "network, CRF"}
    for key, name in names.items():
        row = results[key]
        illegal = f"{row['illegal']:,} of {sentences:,}" if "illegal" in row else "none possible"
        figures = "".join(f"{row[value]:9.4f}" for value in ("precision", "recall", "f1"))
        lines.append(f"  {name:28}{figures}   {illegal}")
    seconds = results["seconds_a_step"]
    batch, steps = results["batch"]
    lines += [
        "",
        f"one training step, {batch} sentences of {steps} characters".ljust(52)
        + "ms   than softmax",
    ]
    for name, value in seconds.items():
        more = "" if name == "softmax" else f"{1000 * (value - seconds['softmax']):+12.1f}"
        label = f"{name} head" if name == "softmax" else f"CRF, {name}"
        lines.append(f"  {label:44}{1000 * value:8.1f}  {more}".rstrip())
    return "\n".join(lines) + f"\n\nAll of it took {results['minutes']:.1f} minutes."


def draw(results, path):
    """Write the training curves, the learned transitions and the step times as a PNG."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(14, 4.4), width_ratios=(1.15, 1.1, 1), layout="constrained"
        )
        draw_curves(left, results)
        draw_transitions(figure, middle, results["transitions"])
        draw_steps(right, results)
        figure.get_layout_engine().set(wspace=0.06)
        partial = path.with_name(f"partial-{path.name}")
        figure.savefig(partial, dpi=150)
        plt.close(figure)
    partial.replace(path)


def draw_curves(axes, results):
    better = max(("softmax", "crf"), key=lambda head: results["curves"][head][-1]["val_f1"])
    for head, name, color in (("crf", "CRF", BLUE), ("softmax", "softmax", ORANGE)):
        f1 = [point["val_f1"] for point in results["curves"][head]]
        epochs = np.arange(1, len(f1) + 1)
        axes.plot(epochs, f1, color=color, lw=2, marker="o", ms=5)
        axes.annotate(
            f"{name} {max(f1):.4f}",
            (epochs[-1], f1[-1]),
            (8, 9 if head == better else -9),
            textcoords="offset points",
            color=color,
            ha="right",
            va="bottom" if head == better else "top",
            fontweight="bold",
            annotation_clip=False,
        )
    floor = results["matching"]["f1"]
    axes.axhline(floor, color=GREY, lw=1, ls=(0, (4, 3)))
    axes.annotate(
        "maximum matching, test tenth",
        (epochs[-1] + 0.25, floor),
        (0, 4),
        textcoords="offset points",
        color="#6a6a6a",
        ha="right",
    )
    axes.set_xticks(epochs)
    axes.set_xlim(0.8, epochs[-1] + 0.25)
    axes.margins(y=0.1)
    axes.set_xlabel("epoch")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_title("Word F1 on the validation tenth")


def draw_transitions(figure, axes, transitions):
    """Rows: from (the start first); columns: to (the end last)."""
    table = np.full((5, 5), np.nan)
    table[0, :4] = transitions["start"]
    table[1:, :4] = transitions["pair"]
    table[1:, 4] = transitions["end"]
    largest = np.nanmax(np.abs(table))
    image = axes.imshow(table, cmap="RdBu", vmin=-largest, vmax=largest)
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            color = "white" if abs(value) > 0.6 * largest else INK
            axes.text(
                j,
                i,
                f"{value:+.1f}".replace("-", "−").replace("−0.0", "+0.0"),
                ha="center",
                va="center",
                color=color,
            )
    axes.set_xticks(range(5), [*TAGS, "[end]"])
    axes.set_yticks(range(5), ["[start]", *TAGS])
    axes.set_xticks(np.arange(0.5, 4), minor=True)
    axes.set_yticks(np.arange(0.5, 4), minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_ylabel("from")
    axes.set_xlabel("to")
    axes.set_title("What the CRF learned about pairs of tags")
    bar = figure.colorbar(image, ax=axes, shrink=0.85, label="score (nats)")
    bar.outline.set_visible(False)


def draw_steps(axes, results):
    seconds = results["seconds_a_step"]
    composite = min("composite", "composite under XLA", key=seconds.get)
    labels = {
        "softmax": "softmax head",
        "fastkeras": "CRF, fastkeras",
        composite: f"CRF, {composite.replace('composite', 'made of Keras operations')}",
    }
    colors = {"softmax": ORANGE, "fastkeras": BLUE}
    names = list(labels)
    milliseconds = [1000 * seconds[name] for name in names]
    rows = np.arange(len(names))
    axes.barh(rows, milliseconds, 0.42, color=[colors.get(name, "#bdbdbd") for name in names])
    for row, name, value in zip(rows, names, milliseconds, strict=True):
        axes.text(0, row - 0.29, labels[name], va="bottom")
        axes.text(value, row, f" {value:.0f} ms", va="center", fontweight="bold")
    axes.set_xlim(0, 1.18 * max(milliseconds))
    axes.set_ylim(len(names) - 0.6, -0.75)
    axes.set_yticks([])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    batch, steps = results["batch"]
    axes.set_title("One training step")
    axes.text(
        0, len(names) - 0.55, f"{batch} sentences of {steps} characters", color="#6a6a6a", va="top"
    )
