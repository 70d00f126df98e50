"""Averages of all weights, BatchNormalization's too, and what layers inside a network return.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/averages.py                    half a minute on 2 cores; a picture
python examples/averages.py --help

There is one training, with a rate so large that the weights never settle. After each epoch it
compares three sets of weights: as they are; all of them averaged; and only those that the optimizer
trains averaged, by `use_ema` of Keras, which does not average the moving statistics. A fourth comes
when training ends: the mean of the ends of the last epochs, with statistics computed anew for it.
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers

from fastkeras.callbacks import ExponentialMovingAverage, StochasticWeightAveraging
from fastkeras.training import intermediate_outputs

MOMENTUM, BATCH = 0.98, 32


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,)), layers.Reshape((8, 8, 1))])
    for name, filters in (("first", 16), ("second", 16)):
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False, name=name))
        model.add(layers.BatchNormalization(momentum=0.9, name=f"{name}_normalised"))
        model.add(layers.ReLU())
    for layer in (layers.GlobalAveragePooling2D(), layers.Dense(10)):
        model.add(layer)
    optimizer = keras.optimizers.Adam(2e-2, use_ema=True, ema_momentum=MOMENTUM)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


class Accuracy(keras.callbacks.Callback):
    """The accuracy on the test data after each epoch, with the weights that the model then has."""

    def __init__(self, test, average=None):
        super().__init__()
        self.test, self.average, self.seen = test, average, []

    def on_epoch_end(self, epoch, logs=None):
        if self.average is None:
            self.seen.append(self.measured())
        else:
            with self.average.applied():
                self.seen.append(self.measured())

    def measured(self):
        found = self.model.predict(self.test[0], batch_size=400, verbose=0).argmax(-1)
        return float((found == self.test[1]).mean())


def main(arguments=None):
    given = digits.options(__doc__, "averages.png", 20, arguments)
    (x, y), test = digits.read()
    model = network()
    ema = ExponentialMovingAverage(MOMENTUM)
    of_training, of_all, of_keras = Accuracy(test), Accuracy(test, ema), Accuracy(test)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    of_ends = StochasticWeightAveraging(given.epochs // 2, data=x)
    callbacks = [ema, of_training, of_all, of_ends, swap, of_keras]
    model.fit(x, y, batch_size=BATCH, epochs=given.epochs, callbacks=callbacks, verbose=0)

    of_mean = of_training.measured()
    curves = {
        "weights as they are": of_training.seen,
        "average of all": of_all.seen,
        "average of what is trained": of_keras.seen,
    }
    print(f"test accuracy: mean of the last {given.epochs // 2} epochs, and the worst of them")
    figure, (left, right) = digits.panels(2, width=6)
    for name, seen in curves.items():
        late = seen[given.epochs // 2 :]
        print(f"  {name:28} {np.mean(late):.3f}   {min(late):.3f}")
        left.plot(range(1, given.epochs + 1), seen, label=name)
    print(f"  {'mean of the ends of these':28} {of_mean:.3f}")
    left.plot([given.epochs], [of_mean], "*", label="mean of the ends of the last epochs")
    left.legend()
    left.set_title("test accuracy by epoch")
    left.set_xlabel("epoch")

    with ema.applied():
        inside = intermediate_outputs(model, test[0][:1], ["first", "second_normalised"])
    rows = [maps[0, :, :, :8] for maps in inside.values()]
    rows = [(row - row.min()) / (row.max() - row.min()) for row in rows]
    tiles = np.stack([np.repeat(test[0][0].reshape(8, 8, 1), 8, -1), *rows])
    tiles = np.pad(tiles.transpose(0, 3, 1, 2), [(0, 0)] * 2 + [(1, 1)] * 2)
    right.imshow(tiles.transpose(0, 2, 1, 3).reshape(30, 80), cmap="gray_r")
    right.set_title("a digit; eight maps of “first” and of “second_normalised”", fontsize=10)
    right.axis("off")
    digits.write(figure, given.output)
    return curves, of_mean, inside


if __name__ == "__main__":
    main()
