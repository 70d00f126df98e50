"""Scikit-learn's 1,797 handwritten digits, and what the examples that use them have in common."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.pyplot as plt
from segment_report import STYLE
from sklearn.datasets import load_digits

TEST = 400


def read():
    """Return (images, labels) for training and for test; images are 64 float32 from 0 to 1."""
    digits = load_digits()
    images, labels = (digits.data / 16).astype("float32"), digits.target
    return (images[TEST:], labels[TEST:]), (images[:TEST], labels[:TEST])


def options(documentation, output, epochs, arguments=None):
    """Return the options of an example: where its picture goes, and how long it trains."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("build") / output, help=f"(default: build/{output})"
    )
    parser.add_argument("--epochs", type=int, default=epochs, help=f"(default: {epochs})")
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs {given.epochs} must be at least 1")
    return given


def panels(count, height=4.0, width=4.6):
    """Return a figure and its axes, side by side."""
    plt.rcParams.update(STYLE | {"legend.frameon": False})
    return plt.subplots(1, count, figsize=(width * count, height), layout="constrained")


def write(figure, path):
    """Write a picture, whole or not at all, and print where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    figure.savefig(partial, dpi=110, format="png")
    plt.close(figure)
    os.replace(partial, path)
    print(path)
