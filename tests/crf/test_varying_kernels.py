"""The C++ kernels for transitions that vary with the step, compared with the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import FUNCTIONS, call, check
from engine_parameters import engines_of
from fastkeras import crf
from strategies import FORBIDDEN, chains

KERNELS = ("native", "tensorflow_native", "torch_native")
ENGINES = [engine for engine in engines_of("crf") if engine.values[0] in KERNELS]


@st.composite
def varying_chains(draw):
    """Draw a chain of any size and scale; its transitions vary with step and sequence."""
    chain = draw(chains(max_steps=9))
    batch, steps, num_tags = chain["emissions"].shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed of the transitions"))
    scale = np.abs(chain["transitions"][np.isfinite(chain["transitions"])]).max(initial=1)
    transitions = min(scale, 1000) / 2 * rng.standard_normal((batch, steps - 1, num_tags, num_tags))
    value = draw(st.sampled_from(FORBIDDEN), label="forbidden")
    if value is not None:
        transitions[rng.random(transitions.shape) < draw(st.sampled_from((0.1, 0.5)))] = value
    return {**chain, "transitions": transitions.astype(chain["emissions"].dtype)}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ENGINES)
@given(chain=varying_chains())
def test_an_engine_is_as_accurate_as_the_reference(name, function, chain):
    check(function, chain, name)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_rows_of_more_than_a_vector_and_more_than_a_chunk(name, function, rng):
    for batch, steps, num_tags, dtype in ((3, 70, 9, "float32"), (2, 5, 130, "float64")):
        chain = {
            "emissions": 3 * rng.standard_normal((batch, steps, num_tags)),
            "transitions": 3 * rng.standard_normal((batch, steps - 1, num_tags, num_tags)),
        }
        chain = {score: values.astype(dtype) for score, values in chain.items()}
        chain["tags"] = rng.integers(0, num_tags, (batch, steps))
        chain |= {"lengths": rng.integers(steps // 2, steps + 1, batch), "mask": None}
        check(function, chain, name)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("forbidden", (-np.inf, -1e4))
def test_the_only_path_may_be_far_below_the_best_scores(name, forbidden):
    emissions = np.array([[[0, -120], [-120, 0], [0, -120]]], "float32")
    transitions = np.full((1, 2, 2, 2), forbidden, "float32")
    transitions[0, :, 0, 0] = transitions[0, :, 1, 1] = 0
    both = np.log1p(np.exp(-120.0)) - 120
    (log_z,) = call("log_partition", {"emissions": emissions, "transitions": transitions}, name)
    np.testing.assert_allclose(log_z, both, rtol=1e-6)
    _, gradients = crf.log_likelihood_and_gradients(
        emissions, np.zeros((1, 3), int), transitions, engine=name
    )
    np.testing.assert_allclose(gradients.transitions, np.zeros((1, 2, 2, 2)), atol=1e-6)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_a_score_that_is_no_number_spoils_its_sequence_alone(name, value, rng):
    chain = {
        "emissions": rng.standard_normal((3, 5, 3)),
        "tags": rng.integers(0, 3, (3, 5)),
        "transitions": rng.standard_normal((3, 4, 3, 3)),
        "lengths": np.array([5, 2, 5]),
    }
    chain["transitions"][0, 1, 2, 0] = chain["transitions"][1, 3, 0, 0] = value
    for function in FUNCTIONS:
        found, expected = (call(function, chain, engine) for engine in (name, "reference"))
        if function == "viterbi":  # the tags of the first mean nothing
            found[0], expected[0] = found[0][1:], expected[0][1:]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_a_door_refuses_what_does_not_fit():
    core = pytest.importorskip("fastkeras._core")
    for shape in ((2, 3, 2, 2), (1, 2, 2, 2), (2, 2, 2, 3), (2, 2, 2, 2, 1), (2, 2, 2)):
        chain = np.zeros((2, 3, 2)), np.zeros(shape), np.zeros(2, "int32"), None, *np.zeros((2, 2))
        for function in (core.crf_marginals, core.crf_viterbi):
            with pytest.raises(ValueError, match=r"^transitions must have shape"):
                function(*chain)
