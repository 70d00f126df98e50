"""What the fine-tuning example found, as a text and as a figure; both from its results.json."""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from segment_report import BLUE, INK, ORANGE, STYLE

LABELS = {
    "layered": "fastkeras AdamW, layered rates",
    "one rate": "fastkeras AdamW, one rate",
    "8 bits": "fastkeras AdamW, moments in 8 bits",
    "Keras": "Keras AdamW, one rate",
}
COLORS = {"layered": BLUE, "one rate": "#7fb3d5", "8 bits": "#4d9221", "Keras": ORANGE}
# The last three curves almost coincide.
DASHES = {"layered": "-", "one rate": "-", "8 bits": (0, (1, 1)), "Keras": (0, (3, 2))}


def report(results):
    """The tables that a comparison prints at its end."""
    training, _, test = results["tweets"]
    epochs, seconds = results["epochs"], results["seconds_a_step"]
    lines = [
        "",
        f"{training:,} tweets, {epochs} epoch{'s' if epochs > 1 else ''}".ljust(38)
        + "accuracy, test   loss, test   loss, training",
    ]
    for run, label in LABELS.items():
        row = results["runs"][run]
        lines.append(
            f"  {label:36}{row['test_accuracy']:14.4f}{row['test_loss']:13.3f}"
            f"{row['training_loss']:17.3f}"
        )
    floor = "always the most frequent outlet"
    lines += [
        f"  {floor:36}{results['most_frequent']:14.4f}",
        "",
        "one step, 32 tweets of 32 tokens".ljust(40)
        + "ms: forward, backward   optimizer     both   state, MB",
    ]
    for run, label in LABELS.items():
        gradient, step = 1000 * seconds["gradient"], 1000 * seconds[run]
        state = results["runs"][run]["state_mb"]
        lines.append(f"  {label:36}{gradient:23.1f}{step:12.1f}{gradient + step:9.1f}{state:12.1f}")
    error = 100 * (0.25 / test) ** 0.5
    return "\n".join(lines) + (
        f"\n\n{test:,} test tweets: two accuracies closer than about {2.8 * error:.0f} points may "
        f"be luck.\nThe four runs took {results['minutes']:.1f} minutes."
    )


def draw(results, path):
    """Write loss, validation accuracy and step times as a PNG."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(13, 3.9), width_ratios=(1.1, 1.1, 1), layout="constrained"
        )
        draw_curves(left, results, "loss", "Training loss")
        draw_curves(middle, results, "val_accuracy", "Accuracy, validation tweets")
        left.legend(frameon=False, loc="upper right")
        draw_steps(right, results)
        figure.get_layout_engine().set(wspace=0.06)
        partial = path.with_name(f"partial-{path.name}")
        figure.savefig(partial, dpi=110)
        plt.close(figure)
    partial.replace(path)


def draw_curves(axes, results, value, title):
    for run, label in LABELS.items():
        curve = results["runs"][run]["curve"]
        axes.plot(
            [point["step"] for point in curve],
            [point[value] for point in curve],
            color=COLORS[run],
            ls=DASHES[run],
            lw=2,
            marker="o",
            ms=4,
            label=label,
        )
    axes.set_xlim(0)
    axes.set_xlabel("step")
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_title(title)


def draw_steps(axes, results):
    seconds = results["seconds_a_step"]
    gradient = 1000 * seconds["gradient"]
    rows = np.arange(len(LABELS))
    steps = [1000 * seconds[run] for run in LABELS]
    axes.barh(rows, gradient, 0.4, color="#d5d5d5")
    axes.barh(rows, steps, 0.4, left=gradient, color=[COLORS[run] for run in LABELS])
    for row, label, step in zip(rows, LABELS.values(), steps, strict=True):
        axes.text(0, row - 0.27, label, va="bottom")
        axes.text(gradient + step, row, f" {step:.0f} ms", va="center", fontweight="bold")
    axes.text(gradient / 2, 0, f"forward, backward {gradient:.0f} ms", ha="center", va="center")
    axes.set_xlim(0, 1.18 * (gradient + max(steps)))
    axes.set_ylim(len(rows) - 0.6, -0.75)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title("One training step")
    axes.text(0, len(rows) - 0.6, "in bold: the optimizer", color=INK, va="top")
