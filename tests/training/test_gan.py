"""The GAN of one loss: each weight's gradient is that of the two separate losses."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers
from fastkeras.callbacks import SampleSheet
from fastkeras.layers import Reparameterize
from fastkeras.training import SingleLossGAN, SpectralNorm
from fastkeras.training.gan import LOSSES
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(4)
IMAGES = RNG.standard_normal((16, 6)).astype("float32")


def arrays(variables):
    return [np.array(ops.convert_to_numpy(ops.stop_gradient(v))) for v in variables]


def networks(kind="plain"):
    keras.utils.set_random_seed(11)
    g = keras.Sequential([
        keras.Input((3,)), keras.layers.Dense(8, "tanh"), keras.layers.BatchNormalization(),
        keras.layers.Dense(6),
    ], name="g")  # fmt: skip
    dense = keras.layers.Dense(8)
    if kind == "spectral":
        dense = Reparameterize(dense, SpectralNorm(3))
    inner = {
        "plain": [],
        "spectral": [],
        "dropout": [keras.layers.Dropout(0.5, seed=1)],
        "batch": [keras.layers.BatchNormalization()],
    }[kind]
    d = keras.Sequential(
        [keras.Input((6,)), dense, *inner, keras.layers.LeakyReLU(), keras.layers.Dense(1)],
        name="d",
    )
    return g, d


def gan_of(kind, loss="hinge", rate=1.0, **options):
    gan = SingleLossGAN(*networks(kind), loss, **options)
    gan.compile(keras.optimizers.SGD(rate))
    return gan


def separate_gradients(kind, loss, weight, noise):
    """The gradients of two separate losses, with the same models, noise and random state."""
    g, d = networks(kind)
    loss_of_d, loss_of_g = LOSSES[loss]

    def with_values(variables, of):
        def function(values):
            # Dropout draws for real, then for fake images; both losses see the same draw
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping) as scope:
                fakes = g(noise, training=True)
                real = d(IMAGES, training=True)
                fake = d(fakes, training=True)
                result = of(real, fake)
            return result, [scope.get_current_value(v) for v in d.non_trainable_variables]

        start = [ops.convert_to_tensor(array) for array in arrays(variables)]
        (_, statistics), gradients = value_and_gradients(function, start)
        return arrays(gradients), arrays(statistics)

    of_g, _ = with_values(g.trainable_variables, lambda real, fake: weight * loss_of_g(fake))
    of_d, statistics = with_values(d.trainable_variables, loss_of_d)
    return of_g + of_d, statistics


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["plain", "dropout", "batch", "spectral"])
def test_one_step_is_that_of_the_two_losses_in_every_weight(kind, loss):
    gan = gan_of(kind, loss, generator_weight=0.7)
    noise = keras.random.normal((16, 3), seed=next_seed(gan))
    expected, statistics = separate_gradients(kind, loss, 0.7, noise)
    variables = gan.generator.trainable_variables + gan.discriminator.trainable_variables
    before = arrays(variables)
    gan.train_on_batch(IMAGES)
    for b, a, g in zip(before, arrays(variables), expected, strict=True):
        np.testing.assert_allclose(b - a, g, 1e-3, 2e-6)
    assert all(np.abs(g).max() > 1e-6 for g in expected[:2])
    if kind == "batch":  # D's statistics have seen real and generated images, once each
        for ours, theirs in zip(gan.discriminator.non_trainable_variables, statistics, strict=True):
            np.testing.assert_allclose(arrays([ours])[0], theirs, 1e-4, 1e-6)


def test_the_judge_is_the_discriminator_of_the_same_step():
    """Even if its state changes with every call, both calls give generated images equal scores."""
    g, _ = networks()
    dense = Reparameterize(keras.layers.Dense(4), SpectralNorm(1, persistent=True))
    inner = [keras.layers.Dropout(0.5), dense, keras.layers.Dense(1)]
    d = keras.Sequential([keras.Input((6,)), *inner])
    gan = SingleLossGAN(g, d, "wasserstein")
    gan.compile(keras.optimizers.SGD(0.0))
    zero = np.zeros((16, 6), "float32")
    logs = gan.train_on_batch(zero, return_dict=True)
    bias = float(ops.convert_to_numpy(d(zero))[0, 0])  # also the score of real images
    expected = -float(logs["generator_loss"]) - bias
    assert float(logs["discriminator_loss"]) == pytest.approx(expected, abs=1e-6)
    assert abs(expected) > 1e-3


def next_seed(gan):
    """A seed generator that repeats the next draws of the model's."""
    seed = keras.random.SeedGenerator(0)
    seed.state.assign(gan._noise.state)
    return seed


@pytest.mark.parametrize("kind", ["plain", "batch"])
def test_reversed_gradients_do_the_same_with_one_call_less(kind):
    steps = []
    for reverse in (False, True):
        gan = gan_of(kind, "wasserstein", 0.5, generator_weight=0.3, reverse=reverse)
        gan._noise.state.assign([1, 2])
        before = arrays(gan.trainable_variables)
        gan.train_on_batch(IMAGES)
        after = arrays(gan.trainable_variables)
        steps.append([b - a for b, a in zip(before, after, strict=True)])
    for a, b in zip(*steps, strict=True):
        np.testing.assert_allclose(a, b, 1e-3, 1e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_the_rates_of_both_are_in_the_given_proportion(name):
    moved = {}
    for weight in (0.1, 1.0, 10.0):
        gan = SingleLossGAN(*networks("dropout"), generator_weight=weight)
        gan._noise.state.assign([1, 2])
        gan.compile(getattr(optimizers, name)(1e-3))
        g, d = gan.generator, gan.discriminator
        before = arrays(g.trainable_variables), arrays(d.trainable_variables)
        gan.train_on_batch(IMAGES)
        after = arrays(g.trainable_variables), arrays(d.trainable_variables)
        moved[weight] = [
            np.concatenate([(x - y).ravel() for x, y in zip(*pair, strict=True)])
            for pair in zip(before, after, strict=True)
        ]
    for weight, (of_g, of_d) in moved.items():
        np.testing.assert_allclose(of_g, weight * moved[1.0][0], 2e-2, 2e-6)
        np.testing.assert_allclose(of_d, moved[1.0][1], 1e-3, 1e-7)


def test_a_weight_that_the_optimizer_would_ignore_is_refused():
    gan = SingleLossGAN(*networks(), generator_weight=0.5)
    with pytest.raises(ValueError, match=r"generator_weight=0.5: Adam ignores"):
        gan.compile("adam")
    with pytest.raises(ValueError, match=r"loss='hing' must be one of"):
        SingleLossGAN(*networks(), "hing")
    with pytest.raises(ValueError, match=r"reverse=True needs"):
        SingleLossGAN(*networks(), reverse=True)


def test_it_learns_a_distribution_with_fit_and_is_saved(tmp_path):
    gan = SingleLossGAN(*networks("dropout"), "non_saturating")
    gan.compile(optimizers.Adam(5e-3, beta_1=0.5))
    data = (IMAGES * 0.1 + 3).repeat(8, 0)
    history = gan.fit(data, batch_size=16, epochs=25, verbose=0).history
    assert set(history) == {"loss", "discriminator_loss", "generator_loss"}
    assert np.abs(gan.generate(256).mean() - 3) < 1
    gan.save(tmp_path / "gan.keras")
    again = keras.models.load_model(tmp_path / "gan.keras")
    noise = RNG.standard_normal((4, 3)).astype("float32")
    np.testing.assert_allclose(gan.generate(noise), again.generate(noise), 1e-5)
    assert again.optimizer.learning_rate_multipliers == [1.0] * len(gan.trainable_variables)
    again.train_on_batch(data[:16])
    assert gan.generate(np.int64(2)).shape == (2, 6)
    with pytest.raises(ValueError, match="noise=0 must be an integer of at least 1"):
        gan.generate(0)


def test_a_sheet_of_samples_is_written(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    inner = [keras.layers.Dense(16, "tanh"), keras.layers.Reshape((4, 4))]
    g = keras.Sequential([keras.Input((3,)), *inner])
    d = keras.Sequential([keras.Input((4, 4)), keras.layers.Flatten(), keras.layers.Dense(1)])
    gan = SingleLossGAN(g, d)
    gan.compile("sgd")
    noise = RNG.standard_normal((5, 3))
    sheet = SampleSheet(tmp_path / "deep" / "{epoch}.png", noise, every=2)
    gan.fit(RNG.standard_normal((8, 4, 4)), epochs=2, callbacks=[sheet], verbose=0)
    (path,) = (tmp_path / "deep").iterdir()
    pixels = np.array(image.open(path))
    assert path.name == "2.png" and pixels.shape == (10, 16)
    first = np.round(127.5 * (1 + gan.generate(noise.astype("float32"))[0]))
    np.testing.assert_allclose(pixels[:4, :4], first, atol=1)
