"""Run Keras' own tests of its optimizers, as installed, on ours."""

import os
import subprocess
import sys
from pathlib import Path

import keras

FOLDER = Path(keras.__file__).parent / "src" / "optimizers"
FILES = ("adam", "adamw", "sgd", "nadam", "lion", "lamb", "adafactor", "rmsprop", "adagrad", "muon",
         "schedule_free_adamw", "optimizer", "optimizer_sparse", "loss_scale_optimizer",
         "multi_optimizer")  # fmt: skip
# These tests check that `assign_sub` of Keras gets a sparse value. The engine `keras` has to pass
# them; our kernel writes rows by itself. test_sparse_correctness_* checks the results.
HOW_KERAS_DOES_IT = ("adafactor", "adagrad", "loss_scale_optimizer_sgd", "rmsprop", "sgd")
# These call the parts of the step of Keras' Muon, which ours does in its own. test_muon.py checks
# what comes of them.
PARTS_OF_MUON = ("Newton_Schulz", "adamw_single_step", "should_use_adamw", "muon_single_step",
                 "adamw_weight_decay", "lr_adjust_none", "lr_adjust_2d")  # fmt: skip

OPTIONS = ["-p", "keras_swapped", "-p", "no:cacheprovider", "-c", os.devnull, "-qx", "-W", "ignore"]


def test_the_tests_of_keras_pass_on_our_optimizers(tmp_path):
    sparse = "optimizer_sparse_test.py::OptimizerSparseTest::test_sparse_gradients_"
    muon = "muon_test.py::MuonTest::test_"
    files = [str(FOLDER / f"{name}_test.py") for name in FILES]
    files = [file for file in files if Path(file).exists()]  # not every Keras has the newer ones
    files += [f"--deselect={sparse}{name}" for name in HOW_KERAS_DOES_IT]
    files += [f"--deselect={muon}{name}" for name in PARTS_OF_MUON]
    assert passed(tmp_path, files) > 100


def test_the_engine_of_keras_operations_writes_rows_as_keras_does(tmp_path):
    sparse = str(FOLDER / "optimizer_sparse_test.py")
    assert passed(tmp_path, [sparse], FASTKERAS_ENGINE="keras") == 38


def passed(folder, arguments, **environment):
    """Return how many tests of Keras passed; raise if one failed."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    plugin = {"PYTHONPATH": os.pathsep.join(paths)}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, "--rootdir", str(FOLDER), *arguments],
        env={**os.environ, **plugin, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    return int(run.stdout.rpartition(" passed")[0].rpartition(" ")[2].rpartition("\n")[2])


def test_importing_the_plugin_leaves_the_optimizers_of_keras_where_they_are():
    sys.path.append(str(Path(__file__).parent))
    import keras_swapped  # as pytest does to look for doctests

    for ours in keras_swapped.MODULES:
        assert getattr(keras.optimizers, ours.__name__, None) is not ours
    assert type(keras.optimizers.get("adam")) is keras.optimizers.Adam
