"""A hundred steps: their distance from float64, compared with that of Keras' optimizers."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkeras import optimizers

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

STEPS = 100
CASES = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Nadam", {}),
    ("Lion", {}),
    ("Lamb", {}),
    ("Adafactor", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adagrad", {}),
]
CLIPPING = ({}, {"clipnorm": 3.0}, {"clipvalue": 0.5}, {"global_clipnorm": 3.0})


def trained(optimizer, start, gradients, dtype):
    variable = keras.Variable(start, dtype=dtype)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([gradient.astype(dtype)], [variable])
    return variable.numpy().astype("float64")


@pytest.mark.parametrize("name, arguments", CASES, ids=str)
@settings(max_examples=4)
@given(
    seed=st.integers(0, 2**32 - 1),
    multiplier=st.sampled_from((0.5, 1.0, 2.0)),  # exact in float32, times the rate too
    clipping=st.sampled_from(CLIPPING),
)
def test_the_error_of_many_steps_is_that_of_rounding(name, arguments, seed, multiplier, clipping):
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((64, 8)).astype("float32")
    gradients = [rng.standard_normal((64, 8)).astype("float32") for _ in range(STEPS)]
    arguments = arguments | clipping
    rate = {"learning_rate": 0.01, "learning_rate_multipliers": [multiplier]}
    ours = getattr(optimizers, name)(**rate, **arguments)
    wide = getattr(optimizers, name)(**rate, **arguments)
    theirs = getattr(keras.optimizers, name)(0.01 * multiplier, **arguments)
    exact = trained(wide, start, gradients, "float64")
    ulp = np.spacing(np.float32(np.abs(exact).max()))
    errors = [
        np.abs(trained(optimizer, start, gradients, "float32") - exact) / ulp
        for optimizer in (ours, theirs)
    ]
    if name == "Lion":  # rounding changes the sign of a step in one of a thousand numbers
        as_it_was = np.maximum(*errors) * ulp < 0.01 * multiplier
        assert as_it_was.mean() > 0.99
        errors = [error[as_it_was] for error in errors]
    of_ours, of_theirs = (np.sqrt(np.mean(error**2)) for error in errors)
    # Lion's steps all have one size, so their rounding errors add up instead of cancelling.
    assert of_ours <= (6 if name == "Lion" else 2)
    # Where Keras computes the same, both errors are those of rounding the variable at each step.
    assert of_ours <= 1.1 * of_theirs
