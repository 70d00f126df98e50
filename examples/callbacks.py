"""Noisy digits with the callbacks: a metric of our own, warm-up, moving coefficient, TensorBoard.

pip install --editable '.[tensorflow-cpu,examples]'
python examples/callbacks.py                   20 seconds on 2 cores; build/callbacks has all of it
python examples/callbacks.py --help

A fifth of the training labels are wrong, so the network is best before training ends: Evaluate
keeps the weights of the epoch with the best macro F1, by scikit-learn, on held-out digits.
"""

import digits  # first: it quiets TensorFlow
import keras
import numpy as np
from keras import layers
from sklearn.metrics import f1_score

from fastkeras.callbacks import (
    Evaluate,
    Norms,
    PrintSamples,
    RichProgress,
    ScheduleScalar,
    Warmup,
)
from fastkeras.losses import SmoothedCrossentropy

BATCH, RATE, WARMUP = 32, 5e-3, 2


class Rates(keras.callbacks.Callback):
    """The learning rate of each batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(self.model.optimizer.learning_rate))


def macro_f1(model, data):
    """Any function of the model and the data can be the metric."""
    images, labels = data
    return f1_score(labels, model.predict(images, verbose=0).argmax(-1), average="macro")


def mistakes(model, data, count=6):
    """One line with digits that the model mistakes for others."""
    images, labels = data
    found = model.predict(images, verbose=0).argmax(-1)
    wrong = np.flatnonzero(found != labels)[:count]
    return "taken for others: " + ", ".join(f"{labels[i]} for {found[i]}" for i in wrong)


def network():
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(256, "relu", name=f"hidden_{i}") for i in (1, 2)]
    model = keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(10, name="scores")])
    loss = SmoothedCrossentropy(0.0)
    model.compile(keras.optimizers.Adam(RATE), loss)
    return model, loss


def main(arguments=None):
    given = digits.options(__doc__, "callbacks", 40, arguments)
    (x, y), held_out = digits.read()
    rng = np.random.default_rng(0)
    y = np.where(rng.random(len(y)) < 0.2, rng.integers(0, 10, len(y)), y)

    model, loss = network()
    rates = Rates()
    evaluate = Evaluate(macro_f1, held_out, monitor="f1", keep_best=True)
    norms = Norms((x[:256], y[:256]), log_dir=given.output / "logs")
    callbacks = [
        Warmup(epochs=WARMUP),
        ScheduleScalar(loss.smoothing, {0: 0.1, given.epochs // 2: 0.01}),
        evaluate,
        norms,
        PrintSamples(lambda model: mistakes(model, held_out), every=-(-given.epochs // 4)),
        RichProgress(),
        rates,
    ]
    history = model.fit(
        x, y, batch_size=BATCH, epochs=given.epochs, callbacks=callbacks, verbose=0
    ).history
    kept = macro_f1(model, held_out)
    print(f"macro F1 after the last epoch: {history['f1'][-1]:.3f}")
    print(f"of the weights that were kept, those of epoch {evaluate.best_epoch + 1}: {kept:.3f}")
    print(f"tensorboard --logdir {given.output / 'logs'}")

    figure, axes = digits.panels(4, width=3.7)
    epochs = np.arange(1, given.epochs + 1)
    axes[0].plot(np.arange(len(rates.seen)) * BATCH / len(x), rates.seen)
    axes[0].set_title("Warmup: learning rate")
    axes[1].step(epochs, history["smoothing"], where="post")
    axes[1].set_ylim(0)
    axes[1].set_title("ScheduleScalar: smoothing")
    axes[2].plot(epochs, history["f1"])
    axes[2].plot(evaluate.best_epoch + 1, evaluate.best, "o", label="weights kept")
    axes[2].legend()
    axes[2].set_title("Evaluate: macro F1")
    for name, lengths in norms.history.items():
        if name.startswith("gradient") and name.endswith("kernel"):
            axes[3].plot(epochs, lengths, label=name.split("/")[-2])
    axes[3].set_yscale("log")
    axes[3].legend()
    axes[3].set_title("Norms: gradients")
    for axis in axes:
        axis.set_xlabel("epoch")
    digits.write(figure, given.output / "callbacks.png")
    return {"history": history, "kept": kept, "best": evaluate.best, "rates": rates.seen}


if __name__ == "__main__":
    main()
