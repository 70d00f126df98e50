"""Keras' own tests of its optimizers, as they are installed, run on ours."""

import os
import subprocess
import sys
from pathlib import Path

import keras

FOLDER = Path(keras.__file__).parent / "src" / "optimizers"
FILES = ("adam", "adamw", "sgd", "nadam", "lion", "lamb", "adafactor", "rmsprop", "adagrad",
         "optimizer", "loss_scale_optimizer", "multi_optimizer")  # fmt: skip
# Not optimizer_sparse_test.py: it wants to see scatter operations. Ours sum what a sparse gradient
# says of the same row first; test_optimizer.py has what comes of it.

OPTIONS = ["-p", "keras_swapped", "-p", "no:cacheprovider", "-c", os.devnull, "-qx", "-W", "ignore"]


def test_the_tests_of_keras_pass_on_our_optimizers(tmp_path):
    files = [str(FOLDER / f"{name}_test.py") for name in FILES]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "--rootdir", str(tmp_path), *files],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    passed = int(run.stdout.rpartition(" passed")[0].rpartition(" ")[2].rpartition("\n")[2])
    assert passed > 100, run.stdout[-1000:]
