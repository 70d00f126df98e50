"""Keras loads a saved model whichever parts of the package were imported, and in any order."""

import os
import pkgutil
import subprocess
import sys
from importlib import import_module, util
from pathlib import Path

import keras
import numpy as np
import pytest

import fastkeras
from fastkeras import _registration
from fastkeras.layers import CRF, Reparameterize
from fastkeras.optimizers import AdamW, PiecewiseLinear
from fastkeras.training import SpectralNorm

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras


def test_every_registered_class_has_a_stand_in():
    for module in pkgutil.walk_packages(fastkeras.__path__, "fastkeras."):
        if "fastkeras.libfastkeras" in module.name or module.name == "fastkeras.__main__":
            continue  # libraries of ops are not modules
        try:
            import_module(module.name)
        except ModuleNotFoundError as missing:
            assert missing.name in ("jax", "torch")
    ours = {
        name
        for name, registered in keras.saving.get_custom_objects().items()
        if registered.__module__.partition(".")[0] == "fastkeras"
    }
    assert ours == set(_registration.REGISTERED)
    left = {n for n in ours if type(keras.saving.get_custom_objects()[n]) is _registration._StandIn}
    assert not left  # each module registers the classes that the list names


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    inputs, crf = keras.Input((None, 4)), CRF(3, use_kernel=True)
    hidden = Reparameterize(keras.layers.Dense(4), SpectralNorm())(inputs)
    model = keras.Model(inputs, crf(hidden))
    model.compile(AdamW(PiecewiseLinear({10: 1.0, 20: 0.1})), crf.loss, metrics=[crf.accuracy])
    model.fit(np.ones((2, 5, 4)), np.zeros((2, 5), int), verbose=0)
    folder = tmp_path_factory.mktemp("saved")
    model.save(folder / "model.keras")
    crf.decode(model).save(folder / "decoder.keras")
    return folder


LOAD = """
model = keras.models.load_model("model.keras")
decoder = keras.models.load_model("decoder.keras")
print(type(model.optimizer).__module__, type(model.layers[-1]).__module__, type(model.loss))
for loader in (keras.__spec__.loader, keras.__loader__):
    assert type(loader).__module__ != "fastkeras._registration"
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import fastkeras, keras",
        "import keras, fastkeras",
        "import fastkeras.layers, fastkeras.optimizers, keras",
        "import fastkeras; from tensorflow import keras",
    ],
)
def test_model_loads_after(imports, saved):
    ran = subprocess.run(
        [sys.executable, "-c", imports + LOAD],
        cwd=saved,
        env={**os.environ, "PYTHONPATH": str(Path(fastkeras.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    optimizer, layer, loss = ran.stdout.split(maxsplit=2)
    assert optimizer.startswith("fastkeras.optimizers.")
    assert layer.startswith("fastkeras.crf.")
    assert "CRFLoss" in loss


def test_a_keras_that_does_not_load_may_be_tried_again(tmp_path):
    package = tmp_path / "keras"
    package.mkdir()
    (package / "__init__.py").write_text("import os\nassert 'READY' in os.environ, 'no backend'\n")
    (package / "saving.py").write_text(
        "names = {}\n"
        "def get_custom_objects(): return names\n"
        "def register_keras_serializable(package, name):\n"
        "    return lambda value: names.setdefault(package + '>' + name, value)\n"
    )
    code = (
        "import fastkeras, os\n"
        "try: import keras\n"
        "except AssertionError as error: print(error)\n"
        "os.environ['READY'] = ''\n"
        "import keras.saving\n"
        "print('fastkeras>CRF' in keras.saving.names)\n"
    )
    root = Path(fastkeras.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout.splitlines() == ["no backend", "True"], ran.stderr


@pytest.mark.parametrize("order", ["import fastkeras, keras", "import keras, fastkeras"])
def test_a_keras_of_another_kind_is_left_alone(order, tmp_path):
    (tmp_path / "keras.py").write_text("loaded = True\n")
    root = Path(fastkeras.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", f"{order}; print(keras.loaded)"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "True\n", ran.stderr


def test_finder_finds_nothing_but_keras():
    finder = _registration._KerasFinder()
    assert finder.find_spec("keras.layers") is None
    assert finder.find_spec("numpy") is None
    assert finder.find_spec("keras").origin == util.find_spec("keras").origin
