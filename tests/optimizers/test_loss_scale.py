"""Keras' optimizer of scaled losses around each of ours."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import optimizers
from fastkeras.optimizers.fused.classes import newer, stock
from optimizer_calls import applied

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
else:
    tf = None

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = [ours.__name__ for ours in (*stock.OPTIMIZERS, *newer.NEWER)]
NAMES += ["Muon", "AdamMini", "SOAP", "APOLLO"]
SHAPES = (4, 6), (3,), ()


def trained(optimizer, scales, bad=(), in_graph=False):
    """The variables after gradients times these scales; those numbered in `bad` are infinite."""
    variables = [keras.Variable(np.ones(s), name=f"v{i}") for i, s in enumerate(SHAPES)]
    optimizer.build(variables)
    rng, steps = np.random.default_rng(0), []
    for number, scale in enumerate(scales):
        if number in bad:
            steps.append([np.full(shape, np.inf, "float32") for shape in SHAPES])
        else:
            drawn = [rng.standard_normal(shape) for shape in SHAPES]
            steps.append([np.asarray(scale * g, "float32") for g in drawn])
    if not in_graph:
        return applied(optimizer, variables, steps)
    step = tf.function(lambda *gradients: optimizer.apply(list(gradients), variables))
    for of_step in steps:
        step(*map(tf.constant, of_step))
    return [variable.numpy() for variable in variables]


@pytest.mark.parametrize("in_graph", [False, True] if tf else [False])
@pytest.mark.parametrize("name", NAMES)
def test_steps_of_a_scaled_loss_have_the_same_bits_and_infinite_ones_are_left_out(name, in_graph):
    settings = {"rank": 2} if name == "APOLLO" else {}
    made = [getattr(optimizers, name)(0.01, **settings) for _ in range(2)]
    scaled = keras.optimizers.LossScaleOptimizer(made[1], initial_scale=16.0)
    found = trained(scaled, (16, 0, 8, 0, 4), (1, 3), in_graph)  # which halves the scale
    for value, expected in zip(found, trained(made[0], (1, 1, 1), (), in_graph), strict=True):
        np.testing.assert_array_equal(value, expected)
    # Keras lists four scalars in place of states that vectors do not have, but not here
    unlisted = 4 if name == "Adafactor" else 0
    assert len(made[1].variables) + unlisted == len(made[0].variables)
    assert int(ops.convert_to_numpy(ops.convert_to_tensor(made[1].iterations))) == 3
    assert float(ops.convert_to_numpy(ops.convert_to_tensor(scaled.dynamic_scale))) == 4.0


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_the_average_is_that_of_the_optimizer_within(name):
    scaled = keras.optimizers.LossScaleOptimizer(getattr(optimizers, name)(0.1), initial_scale=1)
    trained(scaled, (1, 1))
    variable = scaled.inner_optimizer._trainable_variables[0]
    before = variable.numpy()
    with scaled.inner_optimizer.averages():
        assert np.abs(variable.numpy() - before).max() > 1e-3
    np.testing.assert_array_equal(variable.numpy(), before)
