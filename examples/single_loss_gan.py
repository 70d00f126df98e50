"""A GAN of one loss on handwritten digits, against alternating training: quality and time.

pip install --editable '.[tensorflow-cpu,examples]'    the 1,797 digits of 8 × 8 pixels come with it
python examples/single_loss_gan.py         45 seconds on 2 cores; build/gan has the pictures
python examples/single_loss_gan.py --seed 1 --results gan.json     adds the figures to a file
python examples/single_loss_gan.py --data fashion-mnist      60,000 of 28 × 28, fetched by Keras
python examples/single_loss_gan.py --help
"""

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

from fastkeras.callbacks import SampleSheet
from fastkeras.layers import Reparameterize
from fastkeras.ops import stop_gradient_through
from fastkeras.optimizers import Adam
from fastkeras.training import SingleLossGAN, SpectralNorm
from fastkeras.training.callbacks.sample_sheet import sheet, write_png

NOISE, BATCH = 32, 64
GENERATOR_WEIGHT = 0.3  # both networks move at once: at D's rate, G would run away from it
EPOCHS = {"digits": 100, "fashion-mnist": 5}


def images_of(name):
    """Return images from −1 to 1, their labels, and how many of them to hold out."""
    if name == "digits":
        digits = load_digits()
        return (digits.images / 8 - 1).astype("float32"), digits.target, 500
    try:
        (images, labels), _ = keras.datasets.fashion_mnist.load_data()
    except Exception as error:  # of any kind: no network, a truncated file, a full disk
        raise SystemExit(
            f"Fashion-MNIST cannot be fetched: {error}\n"
            "Put its four files, train-images-idx3-ubyte.gz and so on, into "
            "~/.keras/datasets/fashion-mnist, or take --data digits."
        ) from error
    return (images / 127.5 - 1).astype("float32"), labels.astype("int64"), 2000


def generator(shape, units):
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(units, "relu"),
            layers.BatchNormalization(),
            layers.Dense(units, "relu"),
            layers.BatchNormalization(),
            layers.Dense(int(np.prod(shape)), "tanh"),
            layers.Reshape(shape),
        ]
    )


def discriminator(shape, units):
    def normalised(units):
        return Reparameterize(layers.Dense(units), SpectralNorm(1, persistent=True))

    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            normalised(units),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.2),
            normalised(units),
            layers.LeakyReLU(0.2),
            normalised(1),
        ]
    )


class DiscriminatorStep(keras.Model):
    """One half of alternating training: D learns, G is fixed."""

    def __init__(self, g, d):
        super().__init__()
        self.d, self.fixed = d, lambda: g
        self.noise = keras.random.SeedGenerator(1)

    def call(self, images):
        z = keras.random.normal((ops.shape(images)[0], NOISE), seed=self.noise)
        fake = ops.stop_gradient(self.fixed()(z, training=True))
        real, fake = self.d(images, training=True), self.d(fake, training=True)
        self.add_loss(ops.mean(ops.relu(1 - real)) + ops.mean(ops.relu(1 + fake)))
        return real


class GeneratorStep(keras.Model):
    """The other half: G learns, D is fixed."""

    def __init__(self, g, d):
        super().__init__()
        self.g, self.fixed = g, lambda: d
        self.noise = keras.random.SeedGenerator(2)

    def call(self, images):
        z = keras.random.normal((ops.shape(images)[0], NOISE), seed=self.noise)
        fake = self.g(z, training=True)
        self.add_loss(-ops.mean(stop_gradient_through(self.fixed())(fake, training=True)))
        return fake


def frechet_distance(features, a, b):
    """The distance of Gaussians fitted to the features of two sets (Heusel et al. 2017)."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (f.mean(0), np.cov(f.T)) for f in (features(x, verbose=0) for x in (a, b))
    )
    # the trace of the root of cov_a·cov_b, from the eigenvalues of a similar symmetric matrix
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross


def classifier(images, labels):
    inputs = keras.Input(images.shape[1:])
    hidden = layers.Dense(32, "relu")(layers.Dense(64, "relu")(layers.Flatten()(inputs)))
    model = keras.Model(inputs, layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    epochs = max(1, 15 * 1297 // len(images))  # about as many steps for all sets of images
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0)
    return keras.Model(inputs, hidden).predict


def milliseconds(steps):
    """The times of several kinds of steps, measured in turn; each is the best of ten times ten.

    In turn, so that other load on the machine slows down all alike; the best, to leave it out.
    """
    best = dict.fromkeys(steps, np.inf)
    for _ in range(10):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(10):
                step()
            best[name] = min(best[name], 100 * (time.perf_counter() - began))
    return best


def by_one_loss(images, units, epochs, pictures):
    """Train by `fit`; return a function from noise to images, and one that does another step."""
    shape = images.shape[1:]
    networks = generator(shape, units), discriminator(shape, units)
    gan = SingleLossGAN(*networks, "hinge", generator_weight=GENERATOR_WEIGHT)
    gan.compile(Adam(1e-3, beta_1=0.5))
    gan.fit(images, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[pictures])
    return gan.generate, lambda: gan.train_on_batch(images[:BATCH])


def by_turns(images, units, epochs):
    """Train by one step of D and one of G in turn.

    Return functions from noise to images, one for the state after each epoch, and a function that
    does another step.
    """
    shape = images.shape[1:]
    g, d = generator(shape, units), discriminator(shape, units)
    steps = DiscriminatorStep(g, d), GeneratorStep(g, d)
    for step in steps:
        step.compile(Adam(1e-3, beta_1=0.5))

    def train(batch):
        for step in steps:
            step.train_on_batch(batch)

    def generate_with(weights, noise):
        g.set_weights(weights)
        return g.predict(noise, verbose=0)

    rng, generators = np.random.default_rng(0), []
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            train(images[order[start : start + BATCH]])
        generators.append(partial(generate_with, g.get_weights()))
    return generators, lambda: train(images[:BATCH])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=EPOCHS, default="digits", help="(default: digits)")
    parser.add_argument(
        "--epochs", type=int, help="of each (default: 100, of Fashion-MNIST 5, in minutes)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--results", type=Path, help="JSON file to add the figures to")
    parser.add_argument(
        "--output", type=Path, default=Path("build/gan"), help="folder (default: build/gan)"
    )
    given = parser.parse_args(arguments)
    epochs = EPOCHS[given.data] if given.epochs is None else given.epochs
    if epochs < 1:
        parser.error(f"--epochs {epochs} must be at least 1")
    keras.utils.set_random_seed(given.seed)
    images, labels, count = images_of(given.data)
    held_out, images, labels = images[:count], images[count:], labels[count:]
    features = classifier(images, labels)
    noise = np.random.default_rng(0).standard_normal((count, NOISE)).astype("float32")
    units = min(512, 2 * images[0].size)

    pictures = SampleSheet(given.output / "single-{epoch}.png", noise[:100], max(1, epochs // 2))
    one_loss, step_of_one_loss = by_one_loss(images, units, epochs, pictures)
    turns, step_of_turns = by_turns(images, units, epochs)
    found = {"real": frechet_distance(features, held_out, images[:count])}
    for name, generate in (("one loss", one_loss), ("alternating", turns[-1])):
        samples = generate(noise)
        found[name] = frechet_distance(features, held_out, samples)
        path = given.output / f"{name.replace(' ', '-')}.png"
        enlarged = np.ones((max(1, 32 // images.shape[1]),) * 2 + (1,), "uint8")
        write_png(path, np.kron(sheet(samples[:100]), enlarged))
    times = milliseconds({"one loss": step_of_one_loss, "alternating": step_of_turns})
    in_time = round(epochs * times["one loss"] / times["alternating"])
    in_time = min(max(in_time, 1), epochs)
    in_the_time = "alternating, in the time of one loss"
    found[in_the_time] = frechet_distance(features, held_out, turns[in_time - 1](noise))

    print(f"Fréchet distance to {count:,} held-out images (lower is better), time of a step")
    print(f"  other real images   {found['real']:7.2f}")
    for name, time_of_step in times.items():
        print(f"  {name:17}   {found[name]:7.2f}   {time_of_step:6.1f} ms")
    print(f"    in the same time  {found[in_the_time]:7.2f}   {in_time} of {epochs} epochs")
    print(f"pictures: {given.output}/")
    if given.results:
        figures = {
            "data": given.data,
            "seed": given.seed,
            "epochs": epochs,
            "generator weight": GENERATOR_WEIGHT,
            "Fréchet distance": {name: round(float(d), 3) for name, d in found.items()},
            "milliseconds of a step": {name: round(t, 2) for name, t in times.items()},
            "epochs of alternating training in the time of one loss": in_time,
        }
        add(figures, given.results)
    return found


def add(figures, path):
    """Append to the list in a JSON file."""
    known = json.loads(path.read_text("utf-8")) if path.exists() else []
    path.write_text(json.dumps([*known, figures], indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
