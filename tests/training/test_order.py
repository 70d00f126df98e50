"""Weights are read before they change, in TensorFlow's graphs as users run them."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.ops import gradient_after_loss
from fastkeras.optimizers import SGD

TRIALS = 24


@pytest.fixture
def graphs_as_they_are():
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow drops edges between reading and changing a variable")
    tf.config.optimizer.set_experimental_options({"dependency_optimization": True})
    yield
    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})


class Mean(keras.losses.Loss):
    """A linear loss: its gradient does not need the outputs."""

    def __init__(self, tied):
        super().__init__()
        self.tied = tied

    def call(self, _, outputs):
        loss = ops.mean(outputs, -1)
        return gradient_after_loss(loss) if self.tied else loss


@pytest.mark.usefixtures("graphs_as_they_are")
@pytest.mark.parametrize(
    ("optimizer", "tied"), [(keras.optimizers.SGD, True), (SGD, True), (SGD, False)]
)
def test_gradients_use_the_weights_from_before_the_step(optimizer, tied):
    x = np.random.default_rng(1).standard_normal((8, 4)).astype("float32")
    ones = np.full((8, 4), 1 / 32, "float32")
    for _ in range(TRIALS):
        layers = [keras.layers.Dense(4, use_bias=False) for _ in range(2)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        model.compile(optimizer(1.0), loss=Mean(tied))
        w, v = model.get_weights()
        model.train_on_batch(x, x)
        new_w, new_v = model.get_weights()
        np.testing.assert_allclose(w - new_w, x.T @ (ones @ v.T), atol=1e-5)
        np.testing.assert_allclose(v - new_v, (x @ w).T @ ones, atol=1e-5)
