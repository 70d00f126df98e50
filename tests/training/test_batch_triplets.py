"""`BatchTripletLoss` against loops over all triplets, in float64."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.losses import BatchTripletLoss
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DISTANCES = {
    "euclidean": lambda a, b: np.sqrt(((a - b) ** 2).sum()),
    "squared_euclidean": lambda a, b: ((a - b) ** 2).sum(),
    "cosine": lambda a, b: 1 - a @ b / np.sqrt((a @ a) * (b @ b)),
}
LABELS = np.array([3, 300, 3, 257, 256, 300, 3, 9])


def exact(x, labels, mining, margin, distance):
    """The mean over the triplets."""
    each = range(len(x))
    d = np.array([[DISTANCES[distance](x[a], x[b]) for b in each] for a in each])
    triplets = []
    for a in each:
        positives = [p for p in each if p != a and labels[p] == labels[a]]
        negatives = [n for n in each if labels[n] != labels[a]]
        if not positives or not negatives:
            continue
        if mining == "hard":
            triplets.append((max(d[a, positives]), min(d[a, negatives])))
        elif mining == "all":
            triplets += [(d[a, p], d[a, n]) for p, n in itertools.product(positives, negatives)]
        else:
            for p in positives:
                farther = [d[a, n] for n in negatives if d[a, n] > d[a, p]]
                triplets.append((d[a, p], min(farther) if farther else max(d[a, negatives])))
    gaps = np.array([p - n for p, n in triplets])
    losses = np.logaddexp(0, gaps) if margin is None else np.maximum(0, margin + gaps)
    return losses.mean() if len(triplets) else 0.0


@pytest.mark.parametrize(
    ("distance", "margin"), (("euclidean", 0.7), ("squared_euclidean", None), ("cosine", 0.7))
)
@pytest.mark.parametrize("mining", ("hard", "semi_hard", "all"))
def test_value_and_gradient_are_those_of_all_triplets(mining, distance, margin, rng):
    x = rng.standard_normal((8, 3)).astype("float32")
    loss = BatchTripletLoss(mining, margin, distance)
    arguments = LABELS, mining, margin, distance

    def total(values):
        return loss(LABELS, values[0]), None

    (value, _), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(x)])
    wide, step = x.astype(float), 1e-4
    np.testing.assert_allclose(
        float(ops.convert_to_numpy(value)), exact(wide, *arguments), rtol=1e-5
    )
    expected = np.zeros_like(wide)
    for i in np.ndindex(x.shape):
        e = np.zeros_like(wide)
        e[i] = step
        near = exact(wide + e, *arguments) - exact(wide - e, *arguments)
        far = exact(wide + 2 * e, *arguments) - exact(wide - 2 * e, *arguments)
        expected[i] = (8 * near - far) / (12 * step)
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), expected, atol=2e-5)


@pytest.mark.parametrize("mining", ("hard", "semi_hard", "all"))
def test_no_triplets_and_equal_embeddings(mining):
    loss = BatchTripletLoss(mining)

    def found(labels):
        def total(values):
            return loss(labels, values[0]), None

        return value_and_gradients(total, [ops.ones((4, 2))])

    for labels in (np.arange(4), np.zeros(4, int)):  # no positives, no negatives
        (value, _), (gradient,) = found(labels)
        assert float(ops.convert_to_numpy(value)) == 0 and not ops.convert_to_numpy(gradient).any()
    (value, _), (gradient,) = found(np.array([0, 0, 1, 1]))
    assert float(ops.convert_to_numpy(value)) == 1.0  # the margin
    assert np.isfinite(ops.convert_to_numpy(gradient)).all()


@pytest.mark.parametrize("mining", ("hard", "semi_hard", "all"))
def test_a_batch_may_be_empty(mining):
    loss = BatchTripletLoss(mining, reduction="none")
    found = loss(np.zeros(0, int), np.zeros((0, 2), "float32"))
    assert ops.convert_to_numpy(found).shape == (0,)


def test_fit_draws_labels_apart_in_half_precision(rng):
    keras.utils.set_random_seed(0)
    labels = rng.integers(0, 3, 60)
    x = np.eye(3)[labels] + 0.15 * rng.standard_normal((60, 3))
    model = keras.Sequential([keras.layers.Dense(2, dtype="mixed_bfloat16")])
    model.compile(keras.optimizers.Adam(0.1), BatchTripletLoss("semi_hard", 0.5))
    losses = model.fit(x, labels[:, None], epochs=12, batch_size=30, verbose=0).history["loss"]
    assert losses[-1] < 0.6 * losses[0]


def test_arguments():
    for wrong in ({"mining": "easy"}, {"distance": "L1"}, {"margin": -1.0}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            BatchTripletLoss(**wrong)
    with pytest.raises(ValueError, match=r"got \(4, 2\) and \(4, 3\)"):
        BatchTripletLoss()(np.zeros((4, 2)), np.zeros((4, 3)))
    loss = BatchTripletLoss("all", None, "cosine")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert copy.get_config() == loss.get_config()
