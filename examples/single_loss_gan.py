"""A GAN of one loss on handwritten digits, against alternating training: quality and time.

pip install --editable '.[tensorflow-cpu,examples]'    the 1,797 digits of 8 × 8 pixels come with it
python examples/single_loss_gan.py         about a minute on 2 cores; build/gan has the pictures
"""

import argparse
import os
import time
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
from fastkeras.training.sample_sheet import sheet, write_png

NOISE, BATCH = 32, 64


def generator():
    return keras.Sequential(
        [
            keras.Input((NOISE,)),
            layers.Dense(128, "relu"),
            layers.BatchNormalization(),
            layers.Dense(128, "relu"),
            layers.BatchNormalization(),
            layers.Dense(64, "tanh"),
            layers.Reshape((8, 8)),
        ]
    )


def discriminator():
    def normalised(units):
        return Reparameterize(layers.Dense(units), SpectralNorm(1, persistent=True))

    return keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Flatten(),
            normalised(128),
            layers.LeakyReLU(0.2),
            layers.Dropout(0.2),
            normalised(128),
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
    """Of Gaussians fitted to the features of two sets of images (Heusel et al. 2017)."""
    (mean_a, cov_a), (mean_b, cov_b) = (
        (f.mean(0), np.cov(f.T)) for f in (features(x, verbose=0) for x in (a, b))
    )
    # the trace of the root of cov_a·cov_b, from the eigenvalues of a symmetric matrix like it
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross


def classifier(images, labels):
    inputs = keras.Input((8, 8))
    hidden = layers.Dense(32, "relu")(layers.Dense(64, "relu")(layers.Flatten()(inputs)))
    model = keras.Model(inputs, layers.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(images, labels, epochs=15, verbose=0)
    return keras.Model(inputs, hidden).predict


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="of each (default: 100)")
    parser.add_argument("--output", type=Path, default=Path("build/gan"), help="folder")
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    digits = load_digits()
    images, labels = (digits.images / 8 - 1).astype("float32"), digits.target
    held_out, images, labels = images[:500], images[500:], labels[500:]
    features = classifier(images, labels)
    noise = np.random.default_rng(0).standard_normal((500, NOISE)).astype("float32")

    single = SingleLossGAN(generator(), discriminator(), "hinge")
    single.compile(Adam(1e-3, beta_1=0.5))
    pictures = SampleSheet(options.output / "single-{epoch}.png", noise[:100], every=50)
    began = time.perf_counter()
    single.fit(images, batch_size=BATCH, epochs=options.epochs, verbose=0, callbacks=[pictures])
    seconds = time.perf_counter() - began
    samples = {"one loss": single.generate(noise)}

    g, d = generator(), discriminator()
    steps = DiscriminatorStep(g, d), GeneratorStep(g, d)
    for step in steps:
        step.compile(Adam(1e-3, beta_1=0.5))
    rng, began = np.random.default_rng(0), time.perf_counter()
    for _ in range(options.epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            batch = images[order[start : start + BATCH]]
            for step in steps:
                step.train_on_batch(batch)
    alternating_seconds = time.perf_counter() - began
    samples["alternating"] = g.predict(noise, verbose=0)

    count = -(-len(images) // BATCH) * options.epochs
    print("Fréchet distance to 500 held-out digits (lower is better), time of a step")
    print(f"  other real digits   {frechet_distance(features, held_out, images[:500]):7.2f}")
    for name, value in (("one loss", seconds), ("alternating", alternating_seconds)):
        distance = frechet_distance(features, held_out, samples[name])
        print(f"  {name:17}   {distance:7.2f}   {1000 * value / count:6.1f} ms")
        path = options.output / f"{name.replace(' ', '-')}.png"
        write_png(path, np.kron(sheet(samples[name][:100]), np.ones((4, 4, 1), "uint8")))
    print(f"pictures: {options.output}/")


if __name__ == "__main__":
    main()
