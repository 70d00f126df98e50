"""Run by `test_distribution.py` in other processes: one training, saved to a file.

    python distributed.py STRATEGY SETTINGS OUTPUT [BACKUP [KILLED_AT]]

STRATEGY is "one", "mirrored" (two CPUs of one process) or "workers" (those in TF_CONFIG), which
keep backups. SETTINGS are arguments of the optimizer, and "scaled", whether to scale the loss.
After step KILLED_AT the process kills itself.
"""

import json
import os
import signal
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf


def strategy_of(kind):
    if kind == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [logical, logical])
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if kind == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def killing(optimizer, call):
    """A callback that ends its process as `kill -9` does, within the epoch of this step."""
    import keras

    class Killing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if optimizer.iterations == call:
                os.kill(os.getpid(), signal.SIGKILL)

    return Killing()


def main(kind, settings, output, backup=None, killed_at=None):
    settings = json.loads(settings)
    is_scaled = settings.pop("scaled", False)
    strategy = strategy_of(kind)  # before anything uses a device
    import keras

    from fastkeras.optimizers import AdamW, set_learning_rate_multiplier, transforms
    from fastkeras.training import fit_on_workers

    def halve(gradient, variable):
        return 0.5 * gradient

    x = np.random.default_rng(0).standard_normal((64, 4)).astype("float32")
    y = (x @ [[1.0], [-2.0], [0.5], [0.0]]).astype("float32")
    keras.utils.set_random_seed(3)
    with strategy.scope():
        layers = [keras.layers.Dense(8, "tanh", name="body"), keras.layers.Dense(1, name="head")]
        model = keras.Sequential([keras.Input((4,)), *layers])
        optimizer = AdamW(
            0.01,
            weight_decay=0.1,
            global_clipnorm=0.2,
            learning_rate_multipliers=[("body/kernel", 0.3)],
            gradient_transforms=[
                ("body", transforms.chain(transforms.centralize(), transforms.clip_by_norm(0.1))),
                ("head", transforms.chain(halve, transforms.sanitize())),
            ],
            **settings,
        )
        scaled = keras.optimizers.LossScaleOptimizer(optimizer) if is_scaled else optimizer
        model.compile(scaled, "mse")
        optimizer.build(model.trainable_variables)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    fewer = tf.data.Dataset.from_tensor_slices((x[:37], y[:37])).batch(16)
    callbacks = [killing(optimizer, int(killed_at))] if killed_at else []
    results = {}
    for i, (layer, multiplier) in enumerate([(None, 1), (layers[0], 0.0), (layers[1], 3.0)]):
        if layer is not None:
            set_learning_rate_multiplier(layer, multiplier)
        if kind == "workers":
            folder = f"{backup}/{i}"
            settings = {"backup": folder, "backup_every": 1, "callbacks": callbacks, "verbose": 2}
            fitted = fit_on_workers(model, data, 2, validation_data=fewer, **settings)
        else:
            settings = {"shuffle": False, "verbose": 0}
            fitted = model.fit(data, epochs=2, validation_data=fewer, **settings)
        results[f"{i} logs"] = [fitted.history[name][-1] for name in ("loss", "val_loss")]
        for j, variable in enumerate((*model.trainable_variables, *optimizer._momentums)):
            copies = strategy.experimental_local_results(variable.value)
            for k, copy in enumerate(copies):
                results[f"{i} {j} {k}"] = copy.numpy()
    results["replicas"] = strategy.num_replicas_in_sync
    results["skipped"] = optimizer.skipped_steps
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
