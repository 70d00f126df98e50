"""Every function of every engine, compared with the reference in the next wider type."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import FUNCTIONS, call, call_reference, check, largest_score
from strategies import chains

BIG_SHAPES = ((3, 70, 9), (5, 40, 33), (2, 17, 128))  # batch, steps, num_tags
LONG = {1.0: 131_072, 20.0: 24_576}  # steps for a scale of the scores; naive sums lose 450 ulps


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


@pytest.mark.parametrize("function", FUNCTIONS)
@given(
    chain=chains(dtype="float32", scales=(0.1, 1.0, 30.0)),
    dtype=st.sampled_from((np.float16, ml_dtypes.bfloat16)),
)
def test_half_precision_is_float32_rounded_at_both_ends(engine, function, chain, dtype):
    names = ("emissions", "transitions", "start_transitions", "end_transitions")
    scores = {name: chain[name] for name in names if chain[name] is not None}
    halves = {name: value.astype(dtype) for name, value in scores.items()}
    singles = {name: value.astype("float32") for name, value in halves.items()}
    from_halves = call(function, {**chain, **halves}, engine)
    from_singles = call(function, {**chain, **singles}, engine)
    for half, single in zip(from_halves, from_singles, strict=True):
        if single.dtype == np.int32:  # decoded tags
            np.testing.assert_array_equal(half, single)
        else:
            assert half.dtype == dtype
            with np.errstate(over="ignore"):
                np.testing.assert_array_equal(half, single.astype(dtype))


@pytest.mark.parametrize("scale", LONG)
def test_many_steps_in_float32_lose_no_digit(engine, scale):
    if engine == "reference":
        pytest.skip("the reference is not recentred: in float32 it is one of those that drift")
    chain, exact = long_chain(scale)
    values = {"rtol": 4 * np.finfo("float32").eps, "atol": 0}
    ulp = np.spacing(np.float32(largest_score(chain)))
    probabilities = {"rtol": 0, "atol": max(1e-6, ulp)}  # no more exact than their scores
    for function in ("log_partition", "viterbi"):
        np.testing.assert_allclose(call(function, chain, engine)[-1], exact[function][-1], **values)
    function = "log_likelihood_and_gradients"
    (likelihood, d_emissions, *_), (truth, d_truth, *_) = (
        call(function, chain, engine),
        exact[function],
    )
    np.testing.assert_allclose(likelihood, truth, **values)
    np.testing.assert_allclose(d_emissions, d_truth, **probabilities)
    (unary, counts), (truth, counts_truth) = call("marginals", chain, engine), exact["marginals"]
    np.testing.assert_allclose(unary, truth, **probabilities)
    roundings = np.sqrt(LONG[scale]) * np.finfo("float32").eps / 2  # of a sum, if independent
    np.testing.assert_allclose(counts, counts_truth, rtol=roundings)


@cache
def long_chain(scale):
    """Return a chain and its reference results in float64, computed once since that takes long."""
    chain = random_chain(np.random.default_rng(0), 1, LONG[scale], 4, scale)
    chain["lengths"] = None
    functions = ("log_partition", "viterbi", "log_likelihood_and_gradients", "marginals")
    return chain, {name: call_reference(name, chain, "float64") for name in functions}


def chain_of(x, transitions, tags=None):
    """Return the arguments for one sequence without boundaries."""
    x = np.asarray(x)[None]
    tags = np.zeros(x.shape[:2], int) if tags is None else np.asarray(tags)[None]
    arguments = dict.fromkeys(("lengths", "mask", "start_transitions", "end_transitions"))
    return {"emissions": x, "tags": tags, "transitions": np.asarray(transitions), **arguments}


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("blocked", (-1e4, -np.inf))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_path_behind_by_more_than_underflow_is_not_lost(engine, function, blocked, dtype):
    # Both paths end 120 nats behind the best tags of single steps, which no allowed path combines:
    # in scaled float32 nothing is left of them, although there are no other paths.
    for behind in (120, 2000):
        x = np.array([[0, -behind], [-behind, 0]], dtype)
        transitions = np.array([[0, blocked], [blocked, 0]], dtype)
        check(function, chain_of(x, transitions, [1, 1]), engine)
    log_z = call("log_partition", chain_of(x / np.asarray(20, dtype), transitions), engine)[0]
    np.testing.assert_allclose(log_z, np.log(2) - 100, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("scale", (60.0, 1000.0))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_hard_constraints_on_confident_scores(engine, function, scale, dtype, rng):
    for blocked in (-1e4, -np.inf):
        chain = random_chain(rng, 2, 20, 9, 1.0, dtype)
        chain["emissions"] = (chain["emissions"] * scale).astype(dtype)
        chain["transitions"][rng.random((9, 9)) < 0.6] = blocked
        check(function, chain, engine)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_component_that_leads_first_may_lose(engine, function, dtype):
    # Tags 0 and 1 lead by 150 and then by 900 nats, and lose at the end by 1,800: an engine that
    # drops tags 2 and 3 on the way is wrong. Changing sides for -1e4 never pays.
    x = np.zeros((12, 4), dtype)
    x[0, :2] = 150
    x[3, :2] = 750
    x[9, 2:] = 2700
    x += np.linspace(0, 1, x.size, dtype=dtype).reshape(x.shape)
    transitions = np.full((4, 4), -1e4, dtype)
    transitions[:2, :2] = [[0.5, -0.25], [0.125, 1]]
    transitions[2:, 2:] = [[-1, 0.5], [0.25, 0]]
    chain = chain_of(x, transitions, [2, 3] * 6)
    check(function, chain, engine)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_components_apart_while_a_third_leads_a_while(engine, function, dtype):
    # No transition connects 0, 1 and 2. Tag 2 leads by 1,500 nats in the middle, but its last step
    # is forbidden; 0 and 1 share the probability, one gains early, the other late.
    x = np.zeros((15, 3), dtype)
    x[1, 0] = 120
    x[5:9, :2] = -375
    x[13, 1] = 121
    x[14, 2] = -np.inf
    transitions = np.full((3, 3), -np.inf, dtype)
    np.fill_diagonal(transitions, [0.25, -0.5, 2])
    chain = chain_of(x, transitions, [1] * 15)
    check(function, chain, engine)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("function", ("log_partition", "marginals"))
def test_what_underflowed_does_not_grow_unseen(engine, function, dtype):
    # Tags 1 to 8 begin below the smallest number, and tag 0 just above it. What is kept of these
    # grows ninefold a step, so its size tells nothing of its digits; then tag 9, which leads, ends.
    underflow = -np.log(np.finfo(dtype).tiny)
    kept, steps = (values.ravel() for values in np.meshgrid(np.linspace(0.5, 14, 14), (2, 5, 7)))
    x = np.zeros((len(kept), 10, 10), dtype)
    x[:, 0, 1:9] = -underflow - 1
    x[:, 0, 0] = kept - underflow
    for one, ends in zip(x, steps.astype(int), strict=True):
        one[ends:, 9] = -np.inf
    transitions = np.zeros((10, 10), dtype)
    transitions[:9, 9] = transitions[9, :9] = -np.inf
    for scores in (x, x[30:31]):
        chain = chain_of(scores[0], transitions)
        check(
            function,
            {**chain, "emissions": scores, "tags": np.zeros(scores.shape[:2], int)},
            engine,
        )


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_only_path_falls_behind_anywhere_between_two_looks(engine, function, dtype, rng):
    # An engine that looks for lost digits every few steps must find them wherever they are lost, in
    # a batch as large as its vectors and with as many ways as it has tags. Tags 0 to 3 fall behind
    # tags 4 to 8 by so many nats within so many steps; some steps later the others end.
    underflow = -np.log(np.finfo(dtype).tiny)
    depths = underflow + np.array([-60, *np.linspace(-11, 2, 14), 10])
    cases = np.array(np.meshgrid(range(6), (1, 2, 3, 5), (0, 1, 2, 4), depths)).reshape(4, -1).T
    cases = rng.permutation(cases)[:64]
    x = rng.standard_normal((len(cases), 15, 9))
    for one, (start, within, later, depth) in zip(x, cases, strict=True):
        start, within, later = int(start), int(within), int(later)
        one[start : start + within, :4] -= depth / within
        one[start + within + later, 4:] = -np.inf
    transitions = 0.5 * rng.standard_normal((9, 9))
    transitions[:4, 4:] = transitions[4:, :4] = -np.inf
    ring = transitions.copy()  # one tag at a time, and another one at each step
    ring[:4, :4] = -np.inf
    ring[range(4), [1, 2, 3, 0]] = 0.5
    one_way = x.copy()
    one_way[:, 0, 1:4] = -np.inf
    tags = np.zeros((len(cases), 15), int)
    for scores, weights in ((x, transitions), (x[:1], transitions), (one_way, ring)):
        chain = chain_of(scores[0].astype(dtype), weights.astype(dtype))
        chain |= {"emissions": scores.astype(dtype), "tags": tags[: len(scores)]}
        check(function, chain, engine)
