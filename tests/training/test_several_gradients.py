"""Steps with several gradients: each weight after a step, by hand, in compiled training."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers, training
from fastkeras.layers import MetricLayer

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(2)
TOKENS = RNG.integers(0, 6, (8, 3)).astype("int32")
LABELS = RNG.integers(0, 3, 8)
RATE = 0.3


def network(rule=None, optimizer=None, dropout=0.0, **options):
    keras.utils.set_random_seed(7)
    x = keras.Input((3,), dtype="int32")
    h = keras.layers.Embedding(6, 4, name="words")(x)
    h = keras.layers.Flatten()(h)
    h = keras.layers.Dense(5, "tanh", name="hidden")(h)
    if dropout:
        h = keras.layers.Dropout(dropout)(h)
    model = keras.Model(x, keras.layers.Dense(3, "softmax", name="out")(h))
    options = {"run_eagerly": False, "metrics": ["accuracy"]} | options
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(optimizer or keras.optimizers.SGD(RATE), loss, **options)
    return training.train_with(model, rule) if rule else model


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def loss_and_gradient(weights):
    """The loss of the network and its gradient, in float64 by hand; also the probabilities."""
    table, w, b, v, c = (np.asarray(x, "float64") for x in weights)
    x = table[TOKENS].reshape(8, -1)
    h = np.tanh(x @ w + b)
    scores = h @ v + c
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    loss = -np.log(p[np.arange(8), LABELS]).mean()
    return loss, backward((table, w, b, v, c), x, h, (p - np.eye(3)[LABELS]) / 8), p


def backward(weights, x, h, at_scores):
    table, w, _, v, _ = weights
    at_hidden = at_scores @ v.T * (1 - h * h)
    at_x = (at_hidden @ w.T).reshape(8, 3, -1)
    at_table = np.zeros_like(table)
    np.add.at(at_table, TOKENS, at_x)
    return [at_table, x.T @ at_hidden, at_hidden.sum(0), h.T @ at_scores, at_scores.sum(0)]


def gradient(weights):
    return loss_and_gradient(weights)[1]


def plus(weights, step, factor):
    return [w + factor * s for w, s in zip(weights, step, strict=True)]


def length(parts):
    return np.sqrt(sum((part**2).sum() for part in parts))


def heun(w):
    first = gradient(w)
    return plus(first, gradient(plus(w, first, -RATE)), 1), 0.5


def runge_kutta(w):
    k1 = gradient(w)
    k2 = gradient(plus(w, k1, -RATE / 2))
    k3 = gradient(plus(w, k2, -RATE / 2))
    k4 = gradient(plus(w, k3, -RATE))
    return plus(plus(plus(k1, k2, 2), k3, 2), k4, 1), 1 / 6


def extragradient(w):
    return gradient(plus(w, gradient(w), -RATE)), 1


def sam(w):
    first = gradient(w)
    return gradient(plus(w, first, 0.1 / length(first))), 1


def asam(w):
    first = gradient(w)
    scales = [np.abs(x) + 0.01 if x.ndim > 1 else 1.0 for x in w]
    scaled = [t * g for t, g in zip(scales, first, strict=True)]
    both = [t * g for t, g in zip(scales, scaled, strict=True)]
    return gradient(plus(w, both, 0.5 / length(scaled))), 1


def on_table(w, attack):
    return [w[0] + attack, *w[1:]]


def fgm(w):
    first = gradient(w)[0]
    return gradient(on_table(w, 0.5 * first / length([first]))), 1


def half_clean(w):
    return plus(gradient(w), fgm(w)[0], 1), 0.5


def pgd(w):
    attack, now = 0, gradient(w)
    for _ in range(3):
        attack = attack + 0.3 * now[0] / length([now[0]])
        attack = attack * min(1, 0.5 / length([attack]))
        now = gradient(on_table(w, attack))
    return now, 1


def penalty(w):
    def penalised(w):
        loss, gradients, _ = loss_and_gradient(w)
        return loss + 0.5 * 2.0 * (gradients[0] ** 2).sum()

    return differences(penalised, w), 1


def differences(function, weights, epsilon=1e-3):
    """Central differences of the fourth order."""
    gradients = []
    for k, w in enumerate(weights):
        gradients.append(np.zeros(w.shape))
        for i in np.ndindex(w.shape):
            e = [np.zeros(x.shape) for x in weights]
            e[k][i] = epsilon
            near = function(plus(weights, e, 1)) - function(plus(weights, e, -1))
            far = function(plus(weights, e, 2)) - function(plus(weights, e, -2))
            gradients[k][i] = (8 * near - far) / (12 * epsilon)
    return gradients


RULES = {
    "heun": (training.Heun(), heun),
    "runge_kutta": (training.RungeKutta4(), runge_kutta),
    "extragradient": (training.Extragradient(), extragradient),
    "sam": (training.SAM(0.1), sam),
    "asam": (training.ASAM(0.5), asam),
    "fgm": (training.FGM("words/embeddings", 0.5), fgm),
    "half_clean": (training.FGM("words/embeddings", 0.5, clean=0.5), half_clean),
    "pgd": (training.PGD(epsilon=0.5), pgd),
    "penalty": (training.GradientPenalty(epsilon=2.0), penalty),
}


@pytest.mark.parametrize("name", RULES)
def test_a_step_is_that_of_the_formula_in_every_weight(name):
    rule, formula = RULES[name]
    model = network(rule)
    before = [w.astype("float64") for w in arrays(model.trainable_variables)]
    gradients, factor = formula(before)
    plain = gradient(before)
    logs = model.train_on_batch(TOKENS, LABELS, return_dict=True)
    loss, _, p = loss_and_gradient(before)
    assert logs["loss"] == pytest.approx(loss, 1e-5)  # at the weights, not under the attack
    assert logs["accuracy"] == pytest.approx((p.argmax(-1) == LABELS).mean())
    after = arrays(model.trainable_variables)
    for b, a, g, g0 in zip(before, after, gradients, plain, strict=True):
        np.testing.assert_allclose(b - a, RATE * factor * g, 2e-3, 2e-6)
        assert np.abs(factor * g - g0).max() > 1e-4  # unlike plain descent


def test_virtual_adversarial_training_adds_the_divergence_of_the_worst_direction():
    from fastkeras.training.gradients.adversarial import _start

    rule = training.VirtualAdversarial(epsilon=0.5, xi=0.1, weight=2.0)
    model = network(rule)
    w = [x.astype("float64") for x in arrays(model.trainable_variables)]
    _, first, p = loss_and_gradient(w)

    def divergence(weights):
        q = loss_and_gradient(weights)[2]
        return (p * np.log(p / q)).sum(-1).mean()

    start = arrays([_start(ops.zeros((6, 4)), ops.zeros(()))])[0]
    attack = differences(divergence, on_table(w, 0.1 * start / length([start])))[0]
    far = on_table(w, 0.5 * attack / length([attack]))
    expected = plus(first, differences(divergence, far), 2.0)
    model.train_on_batch(TOKENS, LABELS)
    for b, a, g in zip(w, arrays(model.trainable_variables), expected, strict=True):
        np.testing.assert_allclose(b - a, RATE * g, 5e-3, 2e-5)


def test_rates_by_layer_are_those_of_the_trial_step():
    given = {"learning_rate_multipliers": [("words", 0.1)]}
    model = network(training.Heun(), optimizers.SGD(RATE, **given))
    before = [w.astype("float64") for w in arrays(model.trainable_variables)]
    multipliers = [0.1, 1, 1, 1, 1]
    first = gradient(before)
    trial = [w - RATE * m * g for w, m, g in zip(before, multipliers, first, strict=True)]
    expected = [(a + b) / 2 for a, b in zip(first, gradient(trial), strict=True)]
    model.train_on_batch(TOKENS, LABELS)
    after = arrays(model.trainable_variables)
    for b, a, m, g in zip(before, after, multipliers, expected, strict=True):
        np.testing.assert_allclose(b - a, RATE * m * g, 2e-3, 2e-6)


def test_all_evaluations_of_a_step_share_the_dropout_and_the_next_step_has_another():
    seen = []

    def twice(objective, values):
        first, second = objective.gradients(values), objective.gradients(values)
        seen.append(max(ops.max(ops.abs(a - b)) for a, b in zip(first, second, strict=True)))
        return first

    model = network(twice, keras.optimizers.SGD(0.0), dropout=0.5, run_eagerly=True)
    losses = [model.train_on_batch(TOKENS, LABELS, return_dict=True)["loss"]]
    model.reset_metrics()
    losses += [model.train_on_batch(TOKENS, LABELS, return_dict=True)["loss"]]
    assert float(ops.stop_gradient(seen[0])) == 0
    assert losses[0] != losses[1]


def test_statistics_and_metrics_count_once():
    def model_with(rule):
        keras.utils.set_random_seed(1)
        x = keras.Input((3,))
        h = MetricLayer("inside", ops.abs)(keras.layers.BatchNormalization()(x))
        model = keras.Model(x, keras.layers.Dense(1)(h))
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        return training.train_with(model, rule) if rule else model

    x, y = RNG.standard_normal((8, 3)).astype("float32"), np.ones((8, 1), "float32")
    plain, sam = model_with(None), model_with(training.SAM())
    logs = [model.train_on_batch(x, y, return_dict=True) for model in (plain, sam)]
    assert set(logs[0]) == {"loss", "mae", "inside"}
    for name, value in logs[0].items():
        assert float(logs[1][name]) == pytest.approx(float(value), 1e-4), name
    for a, b in zip(plain.non_trainable_variables, sam.non_trainable_variables, strict=True):
        np.testing.assert_allclose(*arrays([a, b]), 1e-5, 1e-7)


def test_it_trains_with_fit_and_goes_back():
    model = network(None, keras.optimizers.Adam(0.03))
    training.adversarial_training(model, "words/embeddings", 0.1)
    history = model.fit(TOKENS, LABELS, epochs=40, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    training.train_with(model, None)
    model.compile(keras.optimizers.SGD(RATE), "sparse_categorical_crossentropy")
    before = [w.astype("float64") for w in arrays(model.trainable_variables)]
    model.train_on_batch(TOKENS, LABELS)
    for b, a, g in zip(before, arrays(model.trainable_variables), gradient(before), strict=True):
        np.testing.assert_allclose(b - a, RATE * g, 2e-3, 2e-6)


def play(rule, optimizer):
    """Train the game min over x, max over y of x·y; return the distance from its solution 0.

    The maximiser's gradient is reversed.
    """
    from fastkeras.layers import GradientReversal, LossLayer

    class Product(keras.layers.Layer):
        def build(self, shape):
            self.x = self.add_weight(shape=(1,), initializer="ones")
            self.y = self.add_weight(shape=(1,), initializer="ones")
            self.reverse = GradientReversal()

        def call(self, inputs):
            return 0 * inputs + self.x * self.reverse(self.y)

    one = keras.Input((1,))
    model = keras.Model(one, LossLayer()(Product()(one)))
    model.compile(optimizer)
    training.train_with(model, rule)
    model.fit(np.ones((40, 1)), batch_size=1, verbose=0)
    return length(arrays(model.trainable_variables))


def test_extragradient_converges_in_a_game_where_descent_does_not():
    plain, extra = (
        play(rule, keras.optimizers.SGD(0.3)) for rule in (None, training.Extragradient())
    )
    assert extra < 0.5 < np.sqrt(2) < plain


def dense(objective, values):
    """Plain training, but with dense gradients of embeddings, as in all rules."""
    return objective.gradients(values)


OPTIMIZERS = {
    "SGD": lambda of: of.SGD(RATE, momentum=0.9, nesterov=True),
    "Adam": lambda of: of.Adam(0.03),
    "AdamW": lambda of: of.AdamW(0.03, weight_decay=0.1, clipnorm=0.1),
    "RMSprop": lambda of: of.RMSprop(keras.optimizers.schedules.ExponentialDecay(0.03, 1, 0.5)),
    "Nadam": lambda of: of.Nadam(0.03, global_clipnorm=0.1),
    "Lion": lambda of: of.Lion(0.03),
    "Adafactor": lambda of: of.Adafactor(0.03),
    "accumulated": lambda of: of.Adam(0.03, gradient_accumulation_steps=2),
}
FUSED = {
    "transformed": lambda: optimizers.Adam(
        0.03,
        learning_rate_multipliers=[("words", 0.1)],
        gradient_transforms=optimizers.transforms.clip_by_norm(0.1),
        lookahead_period=2,
    ),
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", [*OPTIMIZERS, *FUSED])
def test_a_trial_step_is_that_of_the_optimizer_and_changes_nothing(name, fused):
    if name in FUSED and not fused:
        pytest.skip("an argument of the fused optimizers")
    steps, seen = 2 if name == "accumulated" else 1, []

    def make():
        return (
            FUSED[name]()
            if name in FUSED
            else OPTIMIZERS[name](optimizers if fused else keras.optimizers)
        )

    def look(objective, values):
        gradients = objective.gradients(values)
        seen.append(arrays(objective.step(values, gradients)))
        return gradients

    model, plain = (network(rule, make(), run_eagerly=True) for rule in (look, dense))
    for _ in range(4 * steps):
        model.train_on_batch(TOKENS, LABELS)
        plain.train_on_batch(TOKENS, LABELS)
    every = [arrays(model.trainable_variables), arrays(plain.trainable_variables)]
    for ours, theirs in zip(*every, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-6)
    before = arrays(model.trainable_variables)
    for _ in range(steps):  # with the same batch: its gradient is accumulated
        model.train_on_batch(TOKENS, LABELS)
    for trial, start, after in zip(
        seen[-1], before, arrays(model.trainable_variables), strict=True
    ):
        np.testing.assert_allclose(trial, after, 2e-4, 2e-6)
        assert np.abs(after - start).max() > 1e-5


@pytest.mark.parametrize("fused", [False, True])
def test_extragradient_takes_the_gradient_after_a_step_of_adam(fused):
    module = optimizers if fused else keras.optimizers
    rules = training.Extragradient(), dense
    model, trial = (network(rule, module.Adam(0.03)) for rule in rules)
    model.train_on_batch(TOKENS, LABELS)
    trial.train_on_batch(TOKENS, LABELS)
    there = gradient([w.astype("float64") for w in arrays(trial.trainable_variables)])
    start = arrays(network(None, module.Adam(0.03)).trainable_variables)
    for b, a, g in zip(start, arrays(model.trainable_variables), there, strict=True):
        step = 0.03 * g / (np.abs(g) + 1e-7 / np.sqrt(0.001))
        np.testing.assert_allclose(b - a, step, 1e-3, 1e-5)
    first = gradient([w.astype("float64") for w in start])
    turned = [np.sign(a) != np.sign(b) for a, b in zip(first, there, strict=True)]
    assert any(each.any() for each in turned)  # a step of rate · gradient would turn none


def test_extragradient_with_adam_converges_in_a_game():
    distances = {
        rule: play(rule, keras.optimizers.Adam(0.1, beta_1=0.0))
        for rule in (None, training.Extragradient())
    }
    assert distances[training.Extragradient()] < 0.7 * distances[None]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="not compiled"):
        training.train_with(keras.Sequential([keras.layers.Dense(1)]), training.SAM())
    with pytest.raises(ValueError, match=r"rho=-1 must be above 0"):
        training.SAM(-1)
    with pytest.raises(ValueError, match="'nothing' is no trainable weight of the model: words/"):
        network(training.FGM("nothing")).train_on_batch(TOKENS, LABELS)


def test_several_devices_make_the_step_of_one(tmp_path):
    backend = keras.config.backend()
    if backend == "torch":
        pytest.skip("Keras trains on one device with torch")
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_devices.py"), tmp_path / "weights.npz"],
        env=os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    weights = np.load(tmp_path / "weights.npz")
    expected = [name for name in weights if name.startswith("expected ")]
    assert len(expected) >= 4
    for name in expected:
        ours = weights[name.removeprefix("expected ")]
        # float16 has steps of 2⁻¹¹, and each device rounds the gradient of its half of the batch
        allowed = (2e-3, 2e-3) if "float16" in name else (1e-5, 1e-6)
        np.testing.assert_allclose(ours, weights[name], *allowed, err_msg=name)
