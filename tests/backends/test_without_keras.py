"""The functions of `fastkeras.crf` for arrays of JAX and tensors of torch, without Keras."""

import subprocess
import sys
from pathlib import Path

import keras
import pytest

import fastkeras

BACKEND = keras.backend.backend()


def test_every_function_takes_arrays_without_keras():
    state = fastkeras.engines("crf").get(f"{BACKEND}_native")
    if BACKEND == "tensorflow" or state != "ready":
        pytest.skip(f"of JAX and torch: {state}")
    script = Path(__file__).with_name("without_keras.py")
    run = subprocess.run([sys.executable, script, BACKEND], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
