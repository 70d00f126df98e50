"""Digits by networks whose weights are transformed before use: what it does to singular values.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/reparameterize.py              half a minute on 2 cores; a picture
python examples/reparameterize.py --help

The same network is trained with each transform around its hidden layers, and with Keras' own
SpectralNormalization, which overwrites the weight. Then every test image is moved along the
gradient of the loss: the less a network can stretch differences, the less this harms it.
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers, ops

from fastkeras.layers import Reparameterize
from fastkeras.training import (
    L2Normalize,
    LowRank,
    Masked,
    SpectralNorm,
    WeightNorm,
    WeightStandardization,
)
from fastkeras.training.gradients.differentiate import value_and_gradients

UNITS = 64
DISTANCES = np.linspace(0, 1, 5)  # by which images, of length 3.5 or so, are moved
MASK = np.random.default_rng(0).random((UNITS, UNITS)) < 0.25

TRANSFORMS = {
    "plain": None,
    "SpectralNorm(5)": SpectralNorm(5),
    "SpectralNorm(1, persistent)": SpectralNorm(1, persistent=True),
    "Keras' SpectralNormalization": layers.SpectralNormalization,
    "WeightNorm": WeightNorm(),
    "L2Normalize": L2Normalize(),
    "WeightStandardization": WeightStandardization(),
    "LowRank(8)": LowRank(8),
    "Masked, a quarter left": Masked(MASK),
}


def network(transform):
    """A classifier with two hidden layers, the first of which is returned too."""
    keras.utils.set_random_seed(0)

    def hidden():
        dense = layers.Dense(UNITS, "relu")
        if transform is None or transform is layers.SpectralNormalization:
            return transform(dense) if transform else dense
        return Reparameterize(dense, transform)

    first = hidden()
    model = keras.Sequential([keras.Input((64,)), first, hidden(), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model, first


def singular_values(layer):
    """The singular values of the kernel as the layer uses it."""
    if isinstance(layer, Reparameterize):
        (kernel,) = layer.transformed_weights().values()
    else:
        kernel = getattr(layer, "layer", layer).kernel
    return np.linalg.svd(ops.convert_to_numpy(ops.stop_gradient(kernel)), compute_uv=False)


def directions(model, images, labels):
    """For each image, the vector of length 1 in whose direction its loss grows fastest."""

    def loss(values):
        return ops.sum(model.loss(labels, model(values[0], training=False))), None

    _, (gradient,) = value_and_gradients(loss, [ops.convert_to_tensor(images)])
    gradient = ops.convert_to_numpy(gradient)
    return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)


def accuracies(model, images, labels):
    """The accuracies with images moved by each of DISTANCES."""
    step = directions(model, images, labels)
    moved = np.concatenate([images + distance * step for distance in DISTANCES])
    found = model.predict(moved, batch_size=len(images), verbose=0).argmax(-1)
    return (found.reshape(len(DISTANCES), -1) == labels).mean(1)


def main(arguments=None):
    given = digits.options(__doc__, "reparameterize.png", 20, arguments)
    (x, y), test = digits.read()
    print("largest and smallest singular value of the first kernel, weights trained, accuracy on")
    print(f"the test, and with its images moved by {DISTANCES[2]}")
    figure, (left, right) = digits.panels(2, width=5.6)
    found = {}
    for color, (name, transform) in enumerate(TRANSFORMS.items()):
        model, first = network(transform)
        model.fit(x, y, epochs=given.epochs, batch_size=64, verbose=0)
        values, right_ones = singular_values(first), accuracies(model, *test)
        trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        print(
            f"  {name:28} {values[0]:6.2f} {values[-1]:6.2f} {trained:7,}   {right_ones[0]:.3f}   "
            f"{right_ones[2]:.3f}",
            flush=True,
        )
        found[name] = {"values": values, "trained": trained, "accuracies": right_ones}
        line = {"color": f"C{color}", "label": name, "ls": "--" if "Keras" in name else "-"}
        left.plot(values, **line)
        right.plot(DISTANCES, right_ones, **line)
    left.set_title("singular values of the first kernel")
    right.set_title("test accuracy, images moved by …")
    left.legend(fontsize=8)
    digits.write(figure, given.output)
    return found


if __name__ == "__main__":
    main()
