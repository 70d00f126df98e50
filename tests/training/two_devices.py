"""Run by test_several_gradients.py in another process, with two devices on one CPU.

On TensorFlow it prints the errors that refuse several replicas, and saves what callbacks keep of a
model on both devices; on JAX it saves a step of a rule, with the batch on both devices and on one.
"""

import os
import sys

import numpy as np

X = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")
Y = (X @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")


def network():
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(5, "tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(0.3), "mse")
    return model


def on_tensorflow(output):
    import keras
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [logical, logical])
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = network()

    from fastkeras.training import SAM, train_with

    try:
        train_with(model, SAM())
    except ValueError as error:
        print(error)

    from fastkeras.callbacks import Evaluate, ExponentialMovingAverage, Norms, Warmup

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
    found = {"averages": ema.values(), "expected averages": average}
    found |= {"best": model.get_weights(), "expected best": scored[evaluate.best_epoch]}
    named = {f"{name} {i}": a for name, of_name in found.items() for i, a in enumerate(of_name)}
    np.savez(output, **named)


def on_jax(output):
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

    import jax
    import keras

    from fastkeras.training import Heun, train_with

    weights = {}
    for name in ("one", "two"):
        if name == "two":
            assert len(jax.devices()) == 2
            keras.distribution.set_distribution(keras.distribution.DataParallel())
        model = train_with(network(), Heun())
        model.fit(X, Y, batch_size=8, verbose=0)
        weights |= {f"{name} {i}": array for i, array in enumerate(model.get_weights())}
    np.savez(output, **weights)


if __name__ == "__main__":
    run = on_jax if os.environ.get("KERAS_BACKEND") == "jax" else on_tensorflow
    run(sys.argv[1])
