"""Digits by losses that are no functions of (y_true, y_pred): an auto-encoder, and triplets.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/losses_without_targets.py      half a minute on 2 cores; a picture
python examples/losses_without_targets.py --help

Both models are trained by `fit(x, None)`. Values from inside, the length of the code and the share
of triplets that are still wrong, are in the history, like metrics. Beside them is an encoder that
gets labels, whose loss finds the triplets in each batch.
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers, ops

from fastkeras.layers import LossLayer, TripletLossLayer
from fastkeras.losses import BatchTripletLoss, add_loss
from fastkeras.metrics import add_metric, watch

CODE, TRIPLETS = 16, 8  # length of an image's code; triplets per image and epoch


def autoencoder():
    """A model without targets, and one of the same layers that returns decoded images."""
    x = keras.Input((64,))
    code = layers.Dense(CODE, "relu", name="code")(layers.Dense(100, "relu")(x))
    code = watch(code, "squared_length", lambda c: ops.sum(c * c, -1))
    decoded = layers.Dense(64, "sigmoid")(layers.Dense(100, "relu")(code))
    loss = LossLayer(lambda y, x: ops.sum(ops.square(y - x), -1), name="reconstruction")
    model = add_loss(keras.Model(x, loss([decoded, x])), 0.01 * ops.sum(ops.abs(code), -1))
    model.compile(keras.optimizers.Adam(3e-3))
    return model, keras.Model(x, decoded)


def encoder_of_two_numbers():
    hidden = [layers.Dense(128, "relu"), layers.Dense(128, "relu"), layers.Dense(2)]
    return keras.Sequential([keras.Input((64,)), *hidden])


def triplet_model():
    """A model of three images, and the encoder of one."""
    encoder = encoder_of_two_numbers()
    images = [keras.Input((64,), name=name) for name in ("anchor", "positive", "negative")]
    anchor, positive, negative = (encoder(x) for x in images)
    loss = TripletLossLayer(1.0, "squared_euclidean")
    model = keras.Model(images, loss([anchor, positive, negative]))
    near, far = (ops.sum(ops.square(anchor - x), -1) for x in (positive, negative))
    model = add_metric(model, ops.cast(near > far, "float32"), "wrong")
    model.compile(keras.optimizers.Adam(1e-3))
    return model, encoder


def triplets(labels, rng):
    """Return rows of anchors, of others of their class, and of others of another class."""
    anchors = np.tile(rng.permutation(len(labels)), TRIPLETS)
    rows = np.arange(len(labels))
    same = [rows[labels == c] for c in range(10)]
    other = [rows[labels != c] for c in range(10)]
    positive = np.array([rng.choice(same[labels[i]]) for i in anchors])
    negative = np.array([rng.choice(other[labels[i]]) for i in anchors])
    return anchors, positive, negative


def nearest_neighbour(points, labels, test, test_labels):
    """Share of the test points whose nearest neighbour has their label."""
    distances = ((test[:, None] - points) ** 2).sum(-1)
    return (labels[distances.argmin(-1)] == test_labels).mean()


def principal_components(images, *others):
    """Project sets of images on the first two principal components of the first set."""
    mean = images.mean(0)
    axes = np.linalg.svd(images - mean, full_matrices=False)[2][:2]
    return [(x - mean) @ axes.T for x in (images, *others)]


def main(arguments=None):
    given = digits.options(__doc__, "losses_without_targets.png", 30, arguments)
    (x, y), (test, test_labels) = digits.read()
    keras.utils.set_random_seed(0)

    model, decoder = autoencoder()
    history = model.fit(x, None, epochs=given.epochs, verbose=0).history
    decoded = decoder.predict(test, verbose=0)
    error = ((decoded - test) ** 2).sum(-1).mean()
    spread = ((test - x.mean(0)) ** 2).sum(-1).mean()
    print(f"auto-encoder of {CODE} numbers: squared error {error:.2f} of {spread:.2f} on the test")
    lengths = history["squared_length"]
    print(
        f"  squared length of the code: {lengths[0]:.1f} in epoch 1, {lengths[-1]:.1f} at the end"
    )

    model, encoder = triplet_model()
    rng, wrong = np.random.default_rng(0), []
    for _ in range(given.epochs):
        rows = triplets(y, rng)
        epoch = model.fit([x[row] for row in rows], None, batch_size=128, verbose=0).history
        wrong += epoch["wrong"]
    print(f"triplets in the wrong order: {wrong[0]:.1%} in epoch 1, {wrong[-1]:.1%} at the end")
    by_batch = encoder_of_two_numbers()
    by_batch.compile(keras.optimizers.Adam(1e-3), BatchTripletLoss("semi_hard"))
    by_batch.fit(x, y, batch_size=128, epochs=4 * given.epochs, verbose=0)
    points = {
        "principal components": principal_components(x, test),
        "triplet loss": [encoder.predict(images, verbose=0) for images in (x, test)],
        "triplets of batches": [by_batch.predict(images, verbose=0) for images in (x, test)],
    }
    print("nearest neighbour in two dimensions, share of the test with the right label")
    scores = {
        name: nearest_neighbour(known, y, new, test_labels) for name, (known, new) in points.items()
    }
    for name, score in scores.items():
        print(f"  {name:22} {score:.3f}")

    figure, axes = digits.panels(4)
    pairs = np.stack([test[:30], decoded[:30]], 1).reshape(3, 10, 2, 8, 8)
    pairs = np.pad(pairs, [(0, 0)] * 3 + [(1, 1)] * 2).transpose(0, 2, 3, 1, 4)
    axes[0].imshow(pairs.reshape(60, 100), cmap="gray_r")
    axes[0].set_title(f"test digits; below each, decoded from {CODE} numbers")
    axes[0].axis("off")
    for axis, (name, (_, new)) in zip(axes[1:], points.items(), strict=True):
        axis.scatter(*new.T, c=test_labels, cmap="tab10", s=12)
        axis.set_title(f"{name}: {scores[name]:.3f}")
    digits.write(figure, given.output)
    return {"error": error, "spread": spread, "lengths": lengths, "wrong": wrong, **scores}


if __name__ == "__main__":
    main()
