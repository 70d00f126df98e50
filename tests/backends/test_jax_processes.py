"""Two processes of JAX on CPUs train as one does: `keras.distribution`, and states in two parts."""

import os
import runpy
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("jax", reason="the processes are of JAX")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

PROGRAM = Path(__file__).with_name("two_processes.py")


def test_two_processes_train_like_one_with_their_whole_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "XLA_FLAGS": ""}
    outputs = [tmp_path / f"{process}.npz" for process in range(2)]
    with ExitStack() as stack:
        processes = []
        for process, output in enumerate(outputs):
            command = [sys.executable, PROGRAM, str(process), address, output]
            started = subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            processes.append(stack.enter_context(started))
            stack.callback(started.kill)
        expected = runpy.run_path(str(PROGRAM))["trained"]()
        for process in processes:
            text, _ = process.communicate(timeout=240)
            assert process.returncode == 0, text[-3000:]
    first, second = (dict(np.load(output)) for output in outputs)
    assert len(first) == len(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(first[key], second[key], key)
        np.testing.assert_allclose(first[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
