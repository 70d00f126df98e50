"""Run by test_several_gradients.py in another process, with two devices on one CPU.

It saves a step of rules on both devices and, as "expected …", on one; on TensorFlow also the next
step of the saved model, loaded for both devices, and what callbacks keep of a model on both.
"""

import os
import sys
from pathlib import Path

import numpy as np

X = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
Y = (X @ [[1.0, 0.3], [-2.0, 0.0], [0.5, 1.0], [0.0, -1.0]]).astype("float32")


def network(optimizer=None, policy="float32"):
    import keras

    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(5, "tanh", name="hidden", dtype=policy),
        keras.layers.Dense(2, dtype=policy),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer or keras.optimizers.SGD(0.3), "mse")
    return model


def named(name, weights):
    return {f"{name} {i}": array for i, array in enumerate(weights)}


def on_tensorflow(output):
    import keras
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [logical, logical])
    both = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope

    from fastkeras import optimizers
    from fastkeras.training import GradientPenalty, Heun, VirtualAdversarial, train_with

    def scaled():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.3), initial_scale=64.0)

    virtual = VirtualAdversarial("hidden/kernel", xi=0.1, from_logits=True)
    found = {}
    for name, rule, optimizer, policy in (
        ("heun", Heun(), lambda: optimizers.SGD(0.3), "float32"),
        ("penalty", GradientPenalty("hidden/kernel", 2.0), scaled, "float32"),
        ("virtual", virtual, scaled, "float32"),
        ("float16", Heun(), scaled, "mixed_float16"),
    ):
        with both():
            model = train_with(network(optimizer(), policy), rule)
        one = train_with(network(optimizer(), policy), rule)
        before = one.get_weights()
        losses = [m.fit(X, Y, batch_size=8, verbose=0).history["loss"] for m in (model, one)]
        assert all(np.any(new != old) for new, old in zip(one.get_weights(), before, strict=True))
        found |= named(name, [*model.get_weights(), losses[0]])
        found |= named(f"expected {name}", [*one.get_weights(), losses[1]])
        path = Path(output).with_name(f"{name}.keras")
        model.save(path)
        with both():
            again = keras.models.load_model(path)
        assert again._rule == rule
        for each in (again, one):
            each.fit(X, Y, batch_size=8, verbose=0)
        found |= named(f"{name} loaded", again.get_weights())
        found |= named(f"expected {name} loaded", one.get_weights())

    from fastkeras.callbacks import Evaluate, ExponentialMovingAverage, Norms, Warmup

    with both():
        model = network()
    average, scored = model.get_weights(), []

    class Average(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for i, weight in enumerate(self.model.get_weights()):
                average[i] = (average[i] + weight) / 2

    def score(model):
        with ema.applied():
            scored.append(model.get_weights())
            return -model.evaluate(X, Y, verbose=0)

    ema, evaluate = ExponentialMovingAverage(0.5), Evaluate(score)
    given = [ema, Average(), evaluate, Norms((X, Y)), Warmup(steps=3)]
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=given)
    found |= named("averages", ema.values()) | named("expected averages", average)
    found |= named("best", model.get_weights())
    found |= named("expected best", scored[evaluate.best_epoch])
    np.savez(output, **found)


def on_jax(output):
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

    import jax
    import keras

    from fastkeras.training import Heun, train_with

    weights = {}
    for name in ("expected two", "two"):
        if name == "two":
            assert len(jax.devices()) == 2
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        model = train_with(network(), Heun())
        model.fit(X, Y, batch_size=8, verbose=0)
        weights |= named(name, model.get_weights())
    np.savez(output, **weights)


if __name__ == "__main__":
    run = on_jax if os.environ.get("KERAS_BACKEND") == "jax" else on_tensorflow
    run(sys.argv[1])
