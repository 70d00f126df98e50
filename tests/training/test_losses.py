"""Losses and metrics of any tensors: gradients by hand, fit, saving."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import layers, losses, metrics
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow makes arrays of variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 4)).astype("float32")
LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 2])


@keras.saving.register_keras_serializable("tests")
def squared_error(y, x):
    return ops.square(y - x)


@keras.saving.register_keras_serializable("tests")
def mean_square(h):
    return ops.mean(h * h, -1)


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def gradients(model, *data, rate=1.0):
    """The gradients of a step, found from how plain gradient descent changes the weights."""
    model.compile(keras.optimizers.SGD(rate), **getattr(model, "losses_of_test", {}))
    before = arrays(model.trainable_variables)
    model.train_on_batch(*data)
    after = arrays(model.trainable_variables)
    return [(b - a) / rate for a, b in zip(after, before, strict=True)]


def linear(units, seed=1):
    return keras.layers.Dense(units, kernel_initializer=keras.initializers.GlorotUniform(seed))


def by_hand_of_reconstruction(x, kernel, bias):
    error = 2 * (x @ kernel + bias - x) / x.size
    return [x.T @ error, error.sum(0)]


@pytest.mark.parametrize("form", ["layer", "subclass", "function", "inputs alone"])
def test_a_model_without_targets_has_the_gradient_of_its_loss(form):
    class Reconstruction(layers.LossLayer):
        def compute_loss(self, y, x):
            return squared_error(y, x)

    x, dense = keras.Input((4,)), linear(4)
    y = dense(x)
    if form == "layer":
        model = keras.Model(x, layers.LossLayer(squared_error)([y, x]))
    elif form == "subclass":
        model = keras.Model(x, Reconstruction()([y, x]))
    elif form == "function":
        model = losses.add_loss(keras.Model(x, y), ops.square(y - x))
    else:
        model = losses.add_loss(x, ops.square(y - x))
    expected = by_hand_of_reconstruction(X, *arrays(dense.variables))
    for ours, hand in zip(gradients(model, X), expected, strict=True):
        np.testing.assert_allclose(ours, hand, 1e-4, 1e-6)
    if form != "inputs alone":
        np.testing.assert_allclose(model.predict(X, verbose=0), arrays([dense(X)])[0], 1e-5, 1e-6)
    model.fit(X, None, verbose=0)


def test_a_loss_with_targets_and_losses_without_add_up():
    x = keras.Input((4,))
    hidden = linear(3)(x)
    out = linear(1, 2)(hidden)
    model = keras.Model(x, out)
    extended = losses.add_loss(model, ops.square(hidden) * 0.5, 2.0 * ops.abs(out))
    extended.compile("sgd", "mse")
    target = np.ones((8, 1), "float32")
    got = extended.evaluate(X, target, verbose=0)
    y, h = arrays([model(X)])[0], arrays([keras.Model(x, hidden)(X)])[0]
    assert got == pytest.approx(
        ((y - 1) ** 2).mean() + 0.5 * (h**2).mean() + 2 * abs(y).mean(), 1e-5
    )


def test_the_weight_of_a_loss_is_a_variable_that_can_move():
    x = keras.Input((4,))
    layer = layers.LossLayer(squared_error, weight=3.0)
    model = keras.Model(x, layer([linear(4)(x), x]))
    model.compile("sgd")
    three = model.evaluate(X, verbose=0)
    layer.weight.assign(1.0)
    assert model.evaluate(X, verbose=0) == pytest.approx(three / 3)


def test_inputs_by_name_and_a_wrong_output():
    x = keras.Input((4,))
    layer = layers.LossLayer(squared_error, output="x")
    assert layer({"y": linear(4)(x), "x": x}).shape == (None, 4)
    with pytest.raises(ValueError, match=r"output=5 must be one of 0 to 1"):
        layers.LossLayer(squared_error, output=5)([x, x])
    with pytest.raises(ValueError, match="at least one symbolic tensor"):
        losses.add_loss(x)


def test_half_precision_losses_are_averaged_in_float32():
    layer = layers.LossLayer(dtype="float16")
    layer(ops.full((70000,), 1.0, dtype="float16"))
    assert float(layer.losses[0]) == 1.0


def test_the_center_loss_pulls_features_and_centres_together():
    x = keras.Input((4,))
    dense, centers = linear(2), layers.CenterDistances(3, "ones", name="distances")
    model = keras.Model(x, centers(dense(x)))
    model.losses_of_test = {"loss": losses.CenterLoss()}
    kernel, bias = arrays(dense.variables)
    residual = (X @ kernel + bias - 1) / 8
    at_centers = np.zeros((3, 2))
    np.subtract.at(at_centers, LABELS, residual)
    expected = [X.T @ residual, residual.sum(0), at_centers]
    for ours, hand in zip(gradients(model, X, LABELS), expected, strict=True):
        np.testing.assert_allclose(ours, hand, 1e-4, 1e-6)
    label = keras.Input((1,), dtype="int32")
    dense, layer = linear(2), layers.CenterLossLayer(3, 0.5, "ones")
    model = keras.Model([x, label], layer([dense(x), label]))
    for ours, hand in zip(gradients(model, [X, LABELS[:, None]]), expected, strict=True):
        np.testing.assert_allclose(ours, hand / 2, 1e-4, 1e-6)


@pytest.mark.parametrize("wrong", [-1, 3, 2**31, 2**32 + 1, -(2**32) + 1, 1.5, np.nan])
@pytest.mark.parametrize("name", ["CenterLoss", "SmoothedCrossentropy", "CenterLossLayer"])
def test_labels_that_are_no_class_are_refused(name, wrong):
    """Not read as another class: −1 as the last one, 1.5 and 2³² + 1 as the first."""
    labels = np.array([0, wrong])
    scores = X[:2, :3]
    if name == "CenterLossLayer" and abs(wrong) >= 2**31 and keras.backend.backend() == "jax":
        pytest.skip("JAX itself makes int32 of int64")
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got (-?\d|nan)"):
        if name == "CenterLossLayer":
            layers.CenterLossLayer(3)([scores, labels])
        else:
            getattr(losses, name)()(labels, scores)


@pytest.mark.parametrize("name", ["CenterLoss", "SmoothedCrossentropy", "SequenceCrossentropy"])
def test_what_has_weight_zero_is_not_looked_at(name):
    """Neither a label that only fills up, nor a score that is no number."""
    loss, labels = getattr(losses, name)(reduction="sum"), np.array([1, -100, 2])
    weights = np.array([1.0, 0.0, 2.0], "float32")
    scores, right = X[:3, :3].copy(), X[:3, :3].copy()
    scores[1] = [np.nan, np.inf, -np.inf]
    if name == "SequenceCrossentropy":
        labels, weights, scores, right = labels[None], weights[None], scores[None], right[None]

    def total(values):
        return loss(labels, values[0], weights), None

    (value, _), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(scores)])
    expected = loss(np.where(labels < 0, 0, labels), right, weights)
    assert float(ops.convert_to_numpy(value)) == float(ops.convert_to_numpy(expected))
    gradient = ops.convert_to_numpy(gradient).reshape(3, 3)
    assert np.isfinite(gradient).all() and (gradient[1] == 0).all() and gradient[::2].any(1).all()


def test_masked_steps_may_have_labels_that_are_no_class():
    words = np.array([[1, 2, 0], [3, 0, 0]])
    layers = [keras.layers.Embedding(4, 3, mask_zero=True), linear(3)]
    model = keras.Sequential(layers)
    labels = np.array([[0, 2, -100], [1, -100, -100]])
    found = []
    for given in (labels, np.where(labels < 0, 1, labels)):
        model.compile("sgd", losses.SmoothedCrossentropy(0.1))
        found.append(model.evaluate(words, given, verbose=0))
    assert found[0] == found[1] and np.isfinite(found[0])


def test_in_a_compiled_step_a_label_that_is_no_class_is_no_other_class():
    model = keras.Sequential([keras.Input((4,)), linear(3)])
    model.compile("sgd", losses.SmoothedCrossentropy(0.1))
    for wrong in (-1, 3):
        try:
            loss = model.test_on_batch(X[:2], np.array([0, wrong]))
        except Exception as error:
            assert "3 is not in [0, 3)" in str(error) or "labels must be in 0..2" in str(error)
        else:
            assert np.isnan(loss)


def test_the_triplet_loss_is_its_formula_and_finite_at_zero():
    anchor, positive, negative = RNG.standard_normal((3, 8, 5)).astype("float32")
    products = (anchor * positive).sum(-1), (anchor * negative).sum(-1)
    lengths = [np.sqrt((x * x).sum(-1)) for x in (anchor, positive, negative)]
    cosines = products[0] / lengths[0] / lengths[1], products[1] / lengths[0] / lengths[2]
    squares = [((anchor - x) ** 2).sum(-1) for x in (positive, negative)]
    for distance, (near, far) in {
        "dot": (-products[0], -products[1]),
        "cosine": (-cosines[0], -cosines[1]),
        "squared_euclidean": squares,
    }.items():
        layer = layers.TripletLossLayer(0.1, distance)
        layer([anchor, positive, negative])
        expected = np.maximum(0.1 + near - far, 0).mean()
        assert float(layer.losses[0]) == pytest.approx(expected, 1e-5)
    x = keras.Input((5,))
    dense = keras.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Model(x, layers.TripletLossLayer(0.1)([dense(x), dense(x), dense(x)]))
    assert all(np.isfinite(g).all() for g in gradients(model, anchor))


@pytest.mark.parametrize("distance", ["dot", "cosine", "squared_euclidean"])
def test_all_three_sides_of_a_triplet_reach_the_weights(distance):
    """Each side has its own encoder, so that none can replace another."""

    def unit(x):
        return x / np.sqrt((x * x).sum(-1, keepdims=True))

    distances = {
        "dot": lambda a, b: -(a * b).sum(-1),
        "cosine": lambda a, b: 1 - (unit(a) * unit(b)).sum(-1),
        "squared_euclidean": lambda a, b: ((a - b) ** 2).sum(-1),
    }
    data = list(RNG.standard_normal((3, 8, 4)).astype("float32"))

    def loss(kernels):
        a, p, n = (x @ kernel for x, kernel in zip(data, kernels, strict=True))
        return np.maximum(0.3 + distances[distance](a, p) - distances[distance](a, n), 0).mean()

    inputs = [keras.Input((4,)) for _ in range(3)]
    encoders = [keras.layers.Dense(3, use_bias=False) for _ in range(3)]
    outputs = [encoder(x) for encoder, x in zip(encoders, inputs, strict=True)]
    model = keras.Model(inputs, layers.TripletLossLayer(0.3, distance)(outputs))
    kernels = [array.astype("float64") for array in arrays(model.trainable_variables)]
    for i, ours in enumerate(gradients(model, data)):
        for entry in np.ndindex(ours.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [kernel.copy() for kernel in kernels]
                moved[i][entry] += step
                sides.append(loss(moved))
            assert ours[entry] == pytest.approx((sides[0] - sides[1]) / 2e-5, 2e-3, 1e-5)
        assert np.abs(ours).max() > 1e-3


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("from_logits", [True, False])
def test_the_smoothed_crossentropy_has_the_gradient_of_that_of_keras(sparse, from_logits):
    one_hot = np.eye(3, dtype="float32")[LABELS]
    steps = []
    for loss, labels in (
        (losses.SmoothedCrossentropy(0.2, from_logits, sparse), LABELS if sparse else one_hot),
        (keras.losses.CategoricalCrossentropy(from_logits, label_smoothing=0.2), one_hot),
    ):
        x = keras.Input((4,))
        outputs = linear(3)(x)
        model = keras.Model(x, outputs if from_logits else keras.layers.Softmax()(outputs))
        model.losses_of_test = {"loss": loss}
        steps.append(gradients(model, X, labels))
    for ours, theirs in zip(*steps, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-3, 1e-5)
        assert np.abs(ours).max() > 1e-3


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("from_logits", [True, False])
def test_smoothed_crossentropy_is_that_of_keras_with_smoothed_labels(sparse, from_logits):
    scores = RNG.standard_normal((8, 3)).astype("float32")
    if not from_logits:
        scores = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    one_hot = np.eye(3, dtype="float32")[LABELS]
    theirs = keras.losses.CategoricalCrossentropy(from_logits, label_smoothing=0.2)
    ours = losses.SmoothedCrossentropy(0.2, from_logits, sparse)
    labels = LABELS if sparse else one_hot
    assert float(ours(labels, scores)) == pytest.approx(float(theirs(one_hot, scores)), 1e-5)
    again = losses.SmoothedCrossentropy.from_config(ours.get_config())
    assert float(again(labels, scores)) == float(ours(labels, scores))
    ours.smoothing.assign(0.0)
    plain = keras.losses.CategoricalCrossentropy(from_logits)
    assert float(ours(labels, scores)) == pytest.approx(float(plain(one_hot, scores)), 1e-5)


def test_labels_beyond_256_keep_their_value_in_half_precision():
    scores = np.zeros((1, 300), "float32")
    scores[0, 257] = 8
    loss = losses.SmoothedCrossentropy(0.0)
    half = loss(np.array([257]), ops.cast(scores, "bfloat16"))
    assert float(half) < 1


def test_watched_tensors_have_the_mean_of_the_epoch_and_no_gradient():
    def network(watched):
        x, dense = keras.Input((4,)), linear(3)
        hidden = dense(x)
        if watched:
            hidden = metrics.watch(hidden, "hidden", mean_square)
        model = keras.Model(x, linear(1, 2)(hidden))
        if watched:
            model = metrics.add_metric(model, ops.max(dense(x)), "largest")
        model.losses_of_test = {"loss": "mse"}
        return model, dense

    target = np.ones((8, 1), "float32")
    (model, dense), (plain, _) = network(True), network(False)
    for a, b in zip(
        gradients(model, X, target, rate=0.1), gradients(plain, X, target, rate=0.1), strict=True
    ):
        np.testing.assert_allclose(a, b, 1e-5, 1e-7)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    data = (X, target)
    history = model.fit(*data, batch_size=4, epochs=2, validation_data=data, verbose=0).history
    hidden = arrays([dense(X)])[0]
    largest = (hidden[:4].max() + hidden[4:].max()) / 2
    evaluated = model.evaluate(*data, batch_size=4, verbose=0, return_dict=True)
    assert evaluated["hidden"] == pytest.approx((hidden**2).mean(), 1e-5)
    np.testing.assert_allclose(history["hidden"], (hidden**2).mean(), 1e-5)
    np.testing.assert_allclose(history["val_hidden"], (hidden**2).mean(), 1e-5)
    for mean in (history["val_largest"][0], evaluated["largest"]):
        assert mean == pytest.approx(largest, 1e-5)


def test_models_with_losses_and_metrics_are_saved_and_loaded(tmp_path):
    x, label = keras.Input((4,)), keras.Input((1,), dtype="int32")
    hidden = metrics.watch(linear(4)(x), "hidden", mean_square)
    features = layers.LossLayer(squared_error, 0.3)([hidden, x])
    features = layers.CenterLossLayer(3, 0.2, "ones")([features, label])
    features = layers.TripletLossLayer(0.2, "dot")([features, x, x])
    out = {"d": layers.CenterDistances(3)(features), "s": linear(3)(features)}
    model = keras.Model([x, label], out)
    model.compile("adam", {"d": losses.CenterLoss(), "s": losses.SmoothedCrossentropy(0.3)})
    data = [X, LABELS[:, None]], {"d": LABELS, "s": LABELS}
    model.fit(*data, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    before, after = (m.evaluate(*data, verbose=0, return_dict=True) for m in (model, again))
    assert before == pytest.approx(after) and "hidden" in before
