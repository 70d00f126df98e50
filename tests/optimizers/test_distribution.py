"""Training on several devices and in several processes, and checkpoints of TensorFlow."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastkeras
from fastkeras import optimizers

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TIMEOUT = 240  # seconds


def start(kind, output, environment=None, *more, **settings):
    """Start a training of distributed.py in a process."""
    root = str(Path(fastkeras.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    script = Path(__file__).with_name("distributed.py")
    return subprocess.Popen(
        [sys.executable, script, kind, json.dumps(settings), output, *more],
        env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def results_of(processes, outputs):
    """Wait for processes, and read what they saved."""
    for code, text in ended(processes):
        assert code == 0, text
    return [dict(np.load(output)) for output in outputs]


def ended(processes):
    """Wait for processes, ending those that take too long; return their codes and what they say."""
    with ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
            stack.callback(process.kill)
        texts = [process.communicate(timeout=TIMEOUT)[0] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, texts, strict=True)]


def trained(kind, folder, environment=None, **settings):
    output = folder / f"{kind}.npz"
    return results_of([start(kind, output, environment, **settings)], [output])[0]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return trained("one", tmp_path_factory.mktemp("one"))


def check(results, expected, copies, averaged=False):
    assert results["replicas"] == 2 and results["skipped"] == 0
    first = [key for key in expected if key.endswith(" 0")]
    assert len(first) == 3 * 8
    for key in first:
        np.testing.assert_allclose(results[key], expected[key], rtol=0, atol=1e-5, err_msg=key)
        for k in range(1, copies):
            np.testing.assert_array_equal(results[key[:-1] + str(k)], results[key], key)
    assert sum(key.endswith(" 1") for key in results) == len(first) * (copies - 1)
    for i in range(3):
        logs = results[f"{i} logs"], expected[f"{i} logs"]
        np.testing.assert_allclose(*logs, rtol=1e-5)
    kernel, frozen, head, faster = (results[key] for key in ("0 0 0", "1 0 0", "0 2 0", "2 2 0"))
    if not averaged:  # averages that overwrite a frozen variable change it
        np.testing.assert_array_equal(kernel, frozen)
    assert np.abs(faster - head).max() > 1e-2


@pytest.mark.parametrize("engine", ["tensorflow_native", "keras"])
def test_two_devices_train_like_one_with_their_whole_batch(engine, one_device, tmp_path):
    results = trained("mirrored", tmp_path, {"FASTKERAS_ENGINE": engine})
    check(results, one_device, copies=2)


def test_two_devices_follow_slow_weights_like_one(tmp_path):
    settings = {"lookahead_period": 3, "slow_step_size": 0.3, "layer_adaptation": ["body"]}
    expected = trained("one", tmp_path, **settings)
    check(trained("mirrored", tmp_path, **settings), expected, copies=2)


ACCUMULATED = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.7}
ACCUMULATED["ema_overwrite_frequency"] = 2


@pytest.mark.parametrize("scaled", [False, True])
def test_two_devices_accumulate_and_average_like_one(scaled, tmp_path):
    """Where Keras meets the other replicas inside of a condition, and raises."""
    expected = trained("one", tmp_path, **ACCUMULATED)
    found = trained("mirrored", tmp_path, **ACCUMULATED, scaled=scaled)
    check(found, expected, copies=2, averaged=True)


def test_two_devices_train_on_a_scaled_loss_like_one_without(one_device, tmp_path):
    check(trained("mirrored", tmp_path, scaled=True), one_device, copies=2)


def start_workers(outputs, backup, killed_at=None, **settings):
    """Start two workers; the second one kills itself after a step, if any."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    processes = []
    for index, output in enumerate(outputs):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        more = [backup, *([str(killed_at)] if killed_at and index == 1 else [])]
        tf_config = {"TF_CONFIG": json.dumps(task)}
        processes.append(start("workers", output, tf_config, *more, **settings))
    return processes


def test_two_processes_train_like_one_even_if_one_of_them_is_killed(one_device, tmp_path):
    outputs, backup = [tmp_path / f"{index}.npz" for index in range(2)], tmp_path / "backup"
    (code, text), (of_killed, _) = ended(start_workers(outputs, backup, killed_at=6))
    assert code != 0 and of_killed == -signal.SIGKILL, text
    assert "UnavailableError" in text and "A worker is lost" in text and str(backup) in text
    (of_first, text), (_, of_second) = ended(start_workers(outputs, backup))
    assert of_first == 0 and "Epoch 1/2" not in text.partition("Epoch 2/2")[0], text
    assert "Epoch" not in of_second  # one of them tells how far it is
    a, b = (dict(np.load(output)) for output in outputs)
    check(a, one_device, copies=1)
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], key)


def test_two_processes_accumulate_and_average_like_one(tmp_path):
    outputs = [tmp_path / f"{index}.npz" for index in range(2)]
    workers = start_workers(outputs, tmp_path / "backup", **ACCUMULATED)
    a, b = results_of(workers, outputs)
    check(a, trained("one", tmp_path, **ACCUMULATED), copies=1, averaged=True)
    for key, value in a.items():
        np.testing.assert_array_equal(value, b[key], key)


OURS, THEIRS = optimizers.AdamW, keras.optimizers.AdamW


@pytest.mark.parametrize("saved, restored", [(THEIRS, OURS), (OURS, THEIRS), (OURS, OURS)])
def test_a_checkpoint_restores_the_optimizer_of_keras_and_back(saved, restored, tmp_path):
    def network(optimizer, seed):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh")])
        model.compile(optimizer, "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    def state(model):
        variables = (*model.trainable_variables, *model.optimizer.variables[:7])
        return [v.value.numpy() for v in variables]

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 8, 4)).astype("float32")
    y = y[:, :3]
    source, target = network(saved(0.01), 1), network(restored(0.5), 2)
    source.fit(x, y, epochs=3, verbose=0)
    target.fit(x, y, epochs=1, verbose=0)
    path = tf.train.Checkpoint(model=source, optimizer=source.optimizer).save(tmp_path / "saved")
    checkpoint = tf.train.Checkpoint(model=target, optimizer=target.optimizer)
    checkpoint.restore(path).assert_existing_objects_matched()
    for a, b in zip(state(source), state(target), strict=True):
        np.testing.assert_array_equal(a, b)
    assert target.optimizer.iterations == 3
    for model in (source, target):
        model.fit(x, y, epochs=2, verbose=0)
    for a, b in zip(state(source), state(target), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
