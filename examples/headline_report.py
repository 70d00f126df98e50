"""What the headline example found, as a text and as a figure."""

import logging
import warnings

import matplotlib
import numpy as np
from segment_report import BLUE, GREY, STYLE
from segment_training import write as write_whole

from fastkeras.word2vec.projection import fonts_with

matplotlib.use("agg")
import matplotlib.pyplot as plt

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # of weights it lacks
WIDTH = 60  # characters of an article in the figure


def report(results):
    """The table that a training prints at its end."""
    count = results["articles"]
    lines = [
        "",
        f"{f'titles of {count} held-out articles':36}  ROUGE-L   in the article as they are",
    ]
    for name, row in results["titles"].items():
        lines.append(f"  {name:34}{row['rouge_l']:9.3f}{row['copied']:12.1%}")
    spread = 0.2 / count**0.5
    lines += [
        "",
        f"Two of these ROUGE-L closer than about {2 * spread:.2f} may be luck. "
        f"{results['pairs']:,} headlines to learn from",
        "are few: the article had more than 800,000.",
        f"All of it took {results['minutes']:.1f} minutes, {results['cpu_minutes']:.1f} of a "
        "processor.",
    ]
    return "\n".join(lines)


def draw(examples, curves, path):
    """Write a PNG: what the decoder reads as it writes each title, and the scores by epoch.

    Args:
        examples: (title, body, weights (characters and the end, characters of the body)).
        curves: for each model the ROUGE-L of the validation articles after each epoch.
    """
    texts = "".join(title + body[:WIDTH] for title, body, _ in examples)
    style = STYLE | {"font.family": fonts_with(texts), "legend.frameon": False}
    with plt.rc_context(style):
        rows = len(examples)
        figure, panels = plt.subplots(
            rows + 1, 1, figsize=(12, 3.1 * (rows + 1)), layout="constrained"
        )
        for axes, example in zip(panels, examples, strict=False):
            draw_attention(axes, *example)
        draw_curves(panels[-1], curves)
        with warnings.catch_warnings():  # fonts_with warns once, Matplotlib for every character
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            write_whole(path, lambda partial: figure.savefig(partial, dpi=110, format="png"))
        plt.close(figure)


def draw_attention(axes, title, body, weights):
    body = body[: min(WIDTH, weights.shape[1])]
    axes.imshow(weights[:, : len(body)], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(body)), list(body))
    axes.set_yticks(range(len(title) + 1), [*title, "[end]"])
    axes.tick_params(length=0)
    axes.set_xlabel("the article")
    axes.set_title(f"What is read while “{title}” is written")


def draw_curves(axes, curves):
    for (name, values), color in zip(curves.items(), (BLUE, GREY), strict=False):
        axes.plot(np.arange(1, len(values) + 1), values, color=color, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylim(bottom=0)
    axes.set_title("ROUGE-L on validation articles, greedy")
    axes.legend()
