"""Every function of every engine against the reference in the next wider type."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from accuracy import FUNCTIONS, call, call_reference, check
from strategies import chains

BIG_SHAPES = ((3, 70, 9), (5, 40, 33), (2, 17, 128))  # batch, steps, num_tags
MANY_STEPS = 131_072


def random_chain(rng, batch, steps, num_tags, scale=1.0, dtype="float32"):
    def scores(*shape):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    return {
        "emissions": 2 * scores(batch, steps, num_tags),
        "tags": rng.integers(0, num_tags, (batch, steps)),
        "transitions": scores(num_tags, num_tags),
        "lengths": rng.integers(steps // 2, steps + 1, batch),
        "mask": None,
        "start_transitions": scores(num_tags),
        "end_transitions": scores(num_tags),
    }


@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains())
def test_an_engine_is_as_accurate_as_the_reference(engine, function, chain):
    check(function, chain, engine)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("shape", BIG_SHAPES, ids=str)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_big_shapes_are_as_accurate(engine, function, shape, dtype, rng):
    for scale in (0.1, 3.0, 300.0):
        chain = random_chain(rng, *shape, scale, dtype)
        check(function, chain, engine)
        holes = rng.random(shape[:2]) < 0.8
        holes[0, 0] = False
        check(function, {**chain, "mask": holes}, engine)


@pytest.mark.parametrize("dtype", (np.float16, ml_dtypes.bfloat16))
@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains(dtype="float32", scales=(0.1, 1.0, 30.0)))
def test_half_precision_is_float32_rounded_at_both_ends(engine, function, dtype, chain):
    names = ("emissions", "transitions", "start_transitions", "end_transitions")
    scores = {name: chain[name] for name in names if chain[name] is not None}
    halves = {name: value.astype(dtype) for name, value in scores.items()}
    singles = {name: value.astype("float32") for name, value in halves.items()}
    from_halves = call(function, {**chain, **halves}, engine)
    from_singles = call(function, {**chain, **singles}, engine)
    for half, single in zip(from_halves, from_singles, strict=True):
        if single.dtype == np.int32:  # the tags that were decoded
            np.testing.assert_array_equal(half, single)
        else:
            assert half.dtype == dtype
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(half, single.astype(dtype))


@pytest.mark.parametrize("scale", (1.0, 20.0))
def test_131072_steps_in_float32_lose_no_digit(engine, scale, rng):
    if engine == "reference":
        pytest.skip("the bound here is independent of the reference, which is not recentred")
    chain = random_chain(rng, 1, MANY_STEPS, 5, scale)
    chain["lengths"] = None
    for function in ("log_partition", "sequence_score", "viterbi"):
        result, exact = (a[-1] for a in (call(function, chain, engine), _exactly(function, chain)))
        np.testing.assert_allclose(result, exact, rtol=4 * np.finfo("float32").eps)
    likelihood, gradient, *_ = call("log_likelihood_and_gradients", chain, engine)
    exact, exact_gradient, *_ = _exactly("log_likelihood_and_gradients", chain)
    np.testing.assert_allclose(likelihood, exact, rtol=4 * np.finfo("float32").eps)
    np.testing.assert_allclose(gradient, exact_gradient, rtol=0, atol=1e-6)
    unary, counts = call("marginals", chain, engine)
    exact_unary, exact_counts = _exactly("marginals", chain)
    np.testing.assert_allclose(unary, exact_unary, rtol=0, atol=1e-6)
    np.testing.assert_allclose(counts, exact_counts, rtol=1e-6)


def _exactly(function, chain):
    return call_reference(function, chain, "float64")
