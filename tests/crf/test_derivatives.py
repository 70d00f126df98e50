"""Derivatives of every function by every score, with every kind of transitions, by tensor engines.

What the tensor engines derive is compared with how much the reference changes, in float64, along a
random direction of one argument: a derivative that is wrong in any place shows in the product of
the two.
"""

from functools import cache

import keras
import numpy as np
import pytest
from keras import ops

import fastkeras
from fastkeras import crf
from fastkeras.training.gradients.differentiate import value_and_gradients
from test_kinds import (
    EMISSIONS,
    ENDS,
    EXPECTED,
    MASK,
    NUM_TAGS,
    OPTIONS,
    SHAPES,
    TAGS,
    TAKE_TAGS,
    as_array,
    rounds,
    transitions_of,
)

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = (*SHAPES, "low rank")
WITHOUT_DERIVATIVES = {
    "log_likelihood_and_gradients",
    "entropy_and_gradients",
    "marginals",
    "posterior_decode",
    "span_confidence",
    "viterbi",
    "k_best",
    "log_count",
}
OF_MARGINALS = ("marginal_log_likelihood", "cross_entropy", "kl_divergence")
OF_TWO_CHAINS = OF_MARGINALS[1:]
FUNCTIONS = tuple(name for name in EXPECTED if name not in WITHOUT_DERIVATIVES)
WEIGHTS = np.array([1.0, -0.5, 2.0])  # of the sequences
STEP = 1e-3


def scores_of(function, kind):
    """Return the scores that a function is differentiated by, a dict of arrays."""
    scores = {"emissions": EMISSIONS, **parts("transitions", transitions_of(kind)[0]), **ENDS}
    if function in OF_TWO_CHAINS:
        rng = np.random.default_rng(3)
        shape = (*SHAPES.get(kind, ()), NUM_TAGS, NUM_TAGS)
        other = rng.standard_normal(shape)
        if kind == "low rank":
            other = crf.LowRank(*rng.standard_normal((2, NUM_TAGS, 2)))
        scores |= {"other_emissions": EMISSIONS[::-1, ::-1], **parts("other_transitions", other)}
        scores["other_start_transitions"] = ENDS["end_transitions"]
    if function == "weighted_log_likelihood":
        scores["weights"] = OPTIONS[function]["weights"]
    return scores


def parts(name, transitions):
    """Return the transitions under their name, or their factors under two."""
    if isinstance(transitions, crf.LowRank):
        return {f"left of {name}": transitions.left, f"right of {name}": transitions.right}
    return {name: transitions}


def total(function, scores, engine):
    """Return the sum of the results, each with a weight of its sequence."""
    given = {**OPTIONS.get(function, {}), **scores}
    for name in [name for name in given if name.startswith("left of ")]:
        whole = name.removeprefix("left of ")
        given[whole] = crf.LowRank(given.pop(name), given.pop(f"right of {whole}"))
    if TAKE_TAGS.search(function):
        given["tags"] = TAGS
    values = getattr(crf, function)(**given, mask=MASK, engine=engine)
    if isinstance(values, np.ndarray):
        return WEIGHTS @ values
    return ops.sum(values * ops.convert_to_tensor(WEIGHTS.astype(dtype_of(engine))))


@cache
def slopes(function, kind):
    """Return for each score a direction, and the derivative of the total along it."""
    found, rng = {}, np.random.default_rng(11)
    scores = scores_of(function, kind)
    for name, score in scores.items():
        direction = np.where(np.isfinite(score), rng.standard_normal(score.shape), 0)

        def after(steps, name=name, direction=direction):
            moved = {**scores, name: scores[name] + steps * STEP * direction}
            return total(function, moved, "reference")

        far, near = after(2) - after(-2), after(1) - after(-1)
        found[name] = direction, (8 * near - far) / (12 * STEP)
    return found


def dtype_of(engine):
    return "float32" if rounds(engine) else "float64"


def cases():
    """Yield functions, kinds and engines, where these have a derivative."""
    native = f"{keras.backend.backend()}_native"
    state = fastkeras.engines("crf")[native]
    for engine in (native, "keras"):
        missing = engine == native and state != "ready"
        marks = [pytest.mark.skip(reason=state)] if missing else []
        for kind in KINDS:
            for function in FUNCTIONS:
                if engine == "keras" or function != "marginal_log_likelihood":
                    yield pytest.param(function, kind, engine, marks=marks)


@pytest.mark.parametrize(("function", "kind", "engine"), list(cases()))
def test_the_derivatives_are_the_slopes_of_the_reference(function, kind, engine):
    scores, expected = scores_of(function, kind), slopes(function, kind)
    names = list(scores)
    if function in OF_TWO_CHAINS and engine != "keras":  # which alone derives marginals
        names = [name for name in names if "other" in name]
    values = [ops.convert_to_tensor(scores[name].astype(dtype_of(engine))) for name in names]

    def summed(values):
        given = {name: score.astype(dtype_of(engine)) for name, score in scores.items()}
        given |= dict(zip(names, values, strict=True))
        return total(
            function, {n: ops.convert_to_tensor(s) for n, s in given.items()}, engine
        ), None

    _, gradients = value_and_gradients(summed, values)
    allowed = {"rtol": 2e-4, "atol": 2e-5} if rounds(engine) else {"rtol": 1e-8, "atol": 1e-9}
    for name, gradient in zip(names, map(as_array, gradients), strict=True):
        direction, slope = expected[name]
        assert np.isfinite(gradient).all(), name
        np.testing.assert_allclose((gradient * direction).sum(), slope, **allowed, err_msg=name)
        if "emissions" in name:
            np.testing.assert_array_equal(gradient[~MASK], 0)


def test_no_function_is_left_out():
    assert set(EXPECTED) == {*FUNCTIONS, *WITHOUT_DERIVATIVES}
