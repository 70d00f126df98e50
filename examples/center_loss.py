"""Digits in two dimensions, with and without center loss; a watched tensor, a metric of our own.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/center_loss.py             half a minute on 2 cores; build/center_loss.png
python examples/center_loss.py --help
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers, ops

from fastkeras.callbacks import Evaluate, Warmup
from fastkeras.layers import CenterDistances
from fastkeras.losses import CenterLoss, SmoothedCrossentropy
from fastkeras.metrics import watch


def network(weight):
    """A network with two-dimensional features; the centre loss has this weight."""
    keras.utils.set_random_seed(0)
    x = keras.Input((64,))
    hidden = layers.Dense(128, "relu")(layers.Dense(128, "relu")(x))
    features = watch(layers.Dense(2)(hidden), "squared_length", lambda f: ops.sum(f * f, -1))
    scores = layers.Dense(10, name="scores")(features)
    distances = CenterDistances(10, name="distances")(features)
    model = keras.Model(x, {"scores": scores, "distances": distances})
    losses = {"scores": SmoothedCrossentropy(0.0), "distances": CenterLoss()}
    weights = {"scores": 1.0, "distances": weight}
    model.compile(keras.optimizers.Adam(2e-3), losses, loss_weights=weights)
    return model, keras.Model(x, [features, scores])


def accuracy_and_spread(reader, images, labels):
    """Share of right classes; distance within classes divided by distance between them."""
    features, scores = reader.predict(images, verbose=0)
    centres = np.array([features[labels == c].mean(0) for c in range(10)])
    within = ((features - centres[labels]) ** 2).sum(-1).mean()
    between = ((centres - centres.mean(0)) ** 2).sum(-1).mean()
    return {"accuracy": (scores.argmax(-1) == labels).mean(), "spread": within / between}


def main(arguments=None):
    given = digits.options(__doc__, "center_loss.png", 40, arguments)
    (x, y), (test, test_labels) = digits.read()
    figure, axes = digits.panels(2)
    results = {}
    for axis, weight in zip(axes, (0.0, 0.1), strict=True):
        model, reader = network(weight)
        evaluate = Evaluate(
            lambda _, data, reader=reader: accuracy_and_spread(reader, *data),
            (test, test_labels),
            monitor="accuracy",
        )
        targets = {"scores": y, "distances": y}
        callbacks = [Warmup(epochs=2), evaluate]
        options = {"epochs": given.epochs, "callbacks": callbacks, "verbose": 0}
        history = model.fit(x, targets, **options).history
        found = results[weight] = accuracy_and_spread(reader, test, test_labels)
        print(
            f"weight {weight}: best test accuracy {evaluate.best:.3f} in epoch "
            f"{evaluate.best_epoch + 1}, spread {found['spread']:.3f}, mean squared length of the "
            f"features {history['squared_length'][-1]:.1f}"
        )
        features, _ = reader.predict(test, verbose=0)
        axis.scatter(*features.T, c=test_labels, cmap="tab10", s=12)
        axis.set_title(f"center loss × {weight}: accuracy {found['accuracy']:.3f}")
    digits.write(figure, given.output)
    return results


if __name__ == "__main__":
    main()
