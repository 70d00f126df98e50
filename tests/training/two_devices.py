"""What test_several_gradients.py runs in a process of its own, with two devices on one CPU.

On TensorFlow it prints how several replicas are refused; on JAX it saves one step of a rule, with
the batch on both devices and on one.
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


def on_tensorflow():
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
    on_jax(sys.argv[1]) if os.environ.get("KERAS_BACKEND") == "jax" else on_tensorflow()
