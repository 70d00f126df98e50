"""Keras' own tests of its optimizers, as they are installed, run on ours."""

import os
import subprocess
import sys
from pathlib import Path

import keras

FOLDER = Path(keras.__file__).parent / "src" / "optimizers"
FILES = ("adam", "adamw", "sgd", "nadam", "lion", "lamb", "adafactor", "rmsprop", "adagrad",
         "optimizer", "optimizer_sparse", "loss_scale_optimizer", "multi_optimizer")  # fmt: skip
# These want to see that Keras' `assign_sub` gets a sparse value. Ours hands the rows to the kernel,
# or makes them dense; what comes of a sparse gradient, test_sparse_correctness_* of each tells.
HOW_KERAS_DOES_IT = ("adafactor", "adagrad", "loss_scale_optimizer_sgd", "rmsprop", "sgd")

OPTIONS = ["-p", "keras_swapped", "-p", "no:cacheprovider", "-c", os.devnull, "-qx", "-W", "ignore"]


def test_the_tests_of_keras_pass_on_our_optimizers(tmp_path):
    files = [str(FOLDER / f"{name}_test.py") for name in FILES]
    sparse = "optimizer_sparse_test.py::OptimizerSparseTest::test_sparse_gradients_"
    files += [f"--deselect={sparse}{name}" for name in HOW_KERAS_DOES_IT]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "--rootdir", str(FOLDER), *files],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    passed = int(run.stdout.rpartition(" passed")[0].rpartition(" ")[2].rpartition("\n")[2])
    assert passed > 100, run.stdout[-1000:]
