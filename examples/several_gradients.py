"""Steps of several gradients: Heun and Runge-Kutta, a game, and SAM with wrong labels.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/several_gradients.py           half a minute on 2 cores; a picture
python examples/several_gradients.py --help

1. How far from the gradient flow does training end, depending on the step? Halving the step halves
   the error of descent, and divides that of Heun's method by 4, that of Runge-Kutta's by 16.
2. min over x, max over y of x·y: descent spirals away from the solution, extragradient does not.
3. Digits, four of ten labels wrong: SAM looks for flat minima and memorizes fewer wrong labels.
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers

from fastkeras.layers import GradientReversal, LossLayer
from fastkeras.optimizers import SGD
from fastkeras.training import ASAM, SAM, Extragradient, Heun, RungeKutta4, train_with

TIME, STEPS = 2.0, (4, 8, 16, 32)  # of the gradient flow; into how many steps it is divided
WRONG, ROUNDS = 0.4, 60  # share of wrong labels; steps of the game


def network(units, activation, optimizer):
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(units, activation)
    model = keras.Sequential([keras.Input((64,)), hidden, layers.Dense(10, "softmax")])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def errors_of_the_flow(images, labels):
    """For each method, the distance of the weights from the flow, for each number of steps."""

    def end(model, steps):
        model.set_weights(start)
        model.optimizer.learning_rate = TIME / steps
        for _ in range(steps):
            model.train_on_batch(images, labels)
        return np.concatenate([weights.ravel() for weights in model.get_weights()])

    errors = {}
    for name, rule in {"Runge-Kutta": RungeKutta4(), "Heun": Heun(), "descent": None}.items():
        model = train_with(network(8, "tanh", keras.optimizers.SGD()), rule)
        if not errors:  # the first method is the most accurate
            start = model.get_weights()
            flow = end(model, 8 * STEPS[-1])
        errors[name] = [np.linalg.norm(end(model, steps) - flow) for steps in STEPS]
    return errors


class Product(layers.Layer):
    """x·y, with the gradient of y reversed: x descends, y ascends."""

    def build(self, shape):
        self.x = self.add_weight(shape=(1,), initializer="ones", name="x")
        self.y = self.add_weight(shape=(1,), initializer="ones", name="y")
        self.reverse = GradientReversal()

    def call(self, inputs):
        return 0 * inputs + self.x * self.reverse(self.y)


def game(rule):
    """The values of x and y after each step.

    The gradient of this loss does not depend on its value, so with an optimizer of Keras,
    TensorFlow would read weights that have already changed (docs/training.md); ours waits.
    """
    one = keras.Input((1,))
    model = keras.Model(one, LossLayer()(Product()(one)))
    model.compile(SGD(0.2))
    train_with(model, rule)
    places = [np.ravel(model.get_weights()[:2])]
    for _ in range(ROUNDS):
        model.train_on_batch(np.ones((1, 1)))
        places.append(np.ravel(model.get_weights()[:2]))
    return np.array(places)


def main(arguments=None):
    given = digits.options(__doc__, "several_gradients.png", 30, arguments)
    (x, y), test = digits.read()
    figure, axes = digits.panels(3)

    errors = errors_of_the_flow(x[:200], y[:200])
    print(f"distance from the gradient flow after {', '.join(map(str, STEPS))} steps, and how many")
    print(f"times less it is after {STEPS[2]} than after {STEPS[1]}; float32 ends it near 2e-6")
    for name, of_steps in errors.items():
        times = of_steps[1] / of_steps[2]
        print(f"  {name:12} " + " ".join(f"{e:8.2e}" for e in of_steps) + f"   {times:5.1f}")
        axes[0].loglog([TIME / steps for steps in STEPS], of_steps, marker="o", label=name)
    axes[0].set_xticks([TIME / steps for steps in STEPS], [f"{TIME / steps:g}" for steps in STEPS])
    axes[0].minorticks_off()
    axes[0].set_title("error by length of step")

    places = {"descent": game(None), "extragradient": game(Extragradient())}
    print(f"distance from the solution of the game after {ROUNDS} steps, from {2**0.5:.2f}")
    for name, of_step in places.items():
        print(f"  {name:12} {np.linalg.norm(of_step[-1]):8.2f}")
        axes[1].plot(*of_step.T, marker=".", label=name)
    axes[1].plot(0, 0, "k+")
    axes[1].set_aspect("equal")
    axes[1].set_title("a game, from (1, 1)")

    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(y)) < WRONG, rng.integers(0, 10, len(y)), y)
    print("test accuracy with wrong labels, the best of all epochs and that of the last")
    accuracies = {}
    for name, rule in {"descent": None, "SAM": SAM(0.5), "ASAM": ASAM(2.0)}.items():
        model = train_with(network(256, "relu", keras.optimizers.Adam(5e-3)), rule)
        options = {"epochs": given.epochs, "batch_size": 32, "validation_data": test}
        accuracies[name] = model.fit(x, noisy, verbose=0, **options).history["val_accuracy"]
        best, last = max(accuracies[name]), accuracies[name][-1]
        print(f"  {name:12} {best:8.3f} {last:8.3f}", flush=True)
        axes[2].plot(range(1, given.epochs + 1), accuracies[name], label=name)
    axes[2].set_title("test accuracy by epoch")
    for axis in axes:
        axis.legend()
    digits.write(figure, given.output)
    return errors, places, accuracies


if __name__ == "__main__":
    main()
