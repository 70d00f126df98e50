"""Run by test_addons_layer.py in another process, with two devices on one CPU.

It saves the weights and the loss after a step of `CRFModelWrapper` on one device and on both.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import fastkeras.compat.addons as tfa  # noqa: E402

WORDS = np.random.default_rng(0).integers(1, 9, (6, 5))


def trained():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(9, 4, mask_zero=True, embeddings_regularizer="l2")
    model = tfa.text.CRFModelWrapper(keras.Model(inputs, embedding(inputs)), 3)
    model(WORDS)
    model.compile(keras.optimizers.SGD(0.5))
    return model


strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    both = trained()
found = {}
for name, model in (("one", trained()), ("both", both)):
    history = model.fit(WORDS, WORDS % 3, batch_size=6, verbose=0).history
    found |= {f"{name} {i}": weight for i, weight in enumerate(model.get_weights())}
    found[f"{name} loss"] = history["loss"]
np.savez(sys.argv[1], **found)
