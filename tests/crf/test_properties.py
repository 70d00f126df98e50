"""Properties of every chain, in every engine."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from calls import FUNCTIONS, call, largest_score
from strategies import chains, is_valid

PER_SEQUENCE = ("emissions", "tags", "lengths", "mask")
SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")
# These engines give the same bits every time:
SUMS_IN_ORDER = ("reference", "numba", "native", "tensorflow_native", "cupy")


def only(engine, able, reason):
    if engine not in able:
        pytest.skip(reason)


def valid_of(chain):
    return is_valid(chain["lengths"], chain["mask"], *chain["emissions"].shape[:2])


def assert_same(results, expected):
    assert len(results) == len(expected)
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, other)


def tolerance(chain, *more):
    """The rounding error of a sum of scores of this size over the steps."""
    _, steps, num_tags = chain["emissions"].shape
    size = max(1, largest_score(chain), *more) + np.log(num_tags)
    return 4 * (2 * steps + 1) * size * np.finfo(chain["emissions"].dtype).eps


@given(chain=chains())
def test_zero_scores_count_the_sequences(engine, chain):
    zeros = {k: v if v is None else np.zeros_like(v) for k, v in chain.items() if k in SCORES}
    (log_z,) = call("log_partition", {**chain, **zeros}, engine)
    expected = valid_of(chain).sum(axis=1) * np.log(chain["emissions"].shape[-1])
    np.testing.assert_allclose(log_z, expected, rtol=8 * np.finfo(log_z.dtype).eps)


@given(chain=chains(scales=(0.1, 1.0, 30.0)), shift=st.sampled_from((-64.0, 0.5, 16.0)))
def test_a_shift_of_one_steps_emissions_shifts_log_z(engine, chain, shift):
    shifted = chain["emissions"].copy()
    shifted[:, 0] += shift
    (log_z,) = call("log_partition", chain, engine)
    (log_z_shifted,) = call("log_partition", {**chain, "emissions": shifted}, engine)
    moved = shift * valid_of(chain)[:, 0]
    atol = tolerance(chain, abs(shift))
    np.testing.assert_allclose(log_z_shifted, log_z + moved, rtol=0, atol=atol)
    unary, counts = call("marginals", chain, engine)
    unary_shifted, counts_shifted = call("marginals", {**chain, "emissions": shifted}, engine)
    np.testing.assert_allclose(unary_shifted, unary, rtol=0, atol=atol)
    np.testing.assert_allclose(counts_shifted, counts, rtol=0, atol=atol * len(shifted[0]))


@given(chain=chains(), seed=st.integers(0, 999))
def test_renaming_the_tags_renames_the_results(engine, chain, seed):
    order = np.random.default_rng(seed).permutation(chain["emissions"].shape[-1])
    renamed = {k: v if v is None else v[..., order] for k, v in chain.items() if k in SCORES}
    renamed["transitions"] = renamed["transitions"][order]
    gold = np.where(valid_of(chain), np.argsort(order)[np.maximum(chain["tags"], 0)], -1)
    renamed = {**chain, **renamed, "tags": gold}
    atol = tolerance(chain)
    for function in ("log_partition", "viterbi"):
        actual, expected = (call(function, c, engine)[-1] for c in (renamed, chain))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)
    gold_atol = max(atol, tolerance(chain, largest_score(chain, chain["tags"])))
    for function in ("sequence_score", "log_likelihood"):
        actual, expected = (call(function, c, engine)[0] for c in (renamed, chain))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=gold_atol)
    (unary, counts), (unary_renamed, counts_renamed) = (
        call("marginals", c, engine) for c in (chain, renamed)
    )
    np.testing.assert_allclose(unary_renamed, unary[..., order], rtol=0, atol=atol)
    counts = counts[:, order][:, :, order]
    np.testing.assert_allclose(counts_renamed, counts, rtol=0, atol=atol * counts.shape[-1])


@given(chain=chains())
def test_log_z_lies_between_the_best_score_and_that_of_as_many_best(engine, chain):
    (log_z,) = call("log_partition", chain, engine)
    _, best = call("viterbi", chain, engine)
    np.testing.assert_array_equal(np.isneginf(best), np.isneginf(log_z))
    possible = ~np.isneginf(log_z)
    slack = tolerance(chain)
    log_count = valid_of(chain).sum(axis=1) * np.log(chain["emissions"].shape[-1])
    assert (best[possible] <= log_z[possible] + slack).all()
    assert (log_z[possible] <= (best + log_count)[possible] + slack).all()


@given(chain=chains())
def test_the_decoded_path_has_the_score_that_is_reported(engine, chain):
    tags, score = call("viterbi", chain, engine)
    (own,) = call("sequence_score", {**chain, "tags": tags}, engine)
    np.testing.assert_allclose(own, score, rtol=0, atol=tolerance(chain))


@given(chain=chains())
def test_the_likelihood_is_score_minus_log_z_and_never_above_0(engine, chain):
    (likelihood,) = call("log_likelihood", chain, engine)
    (score,) = call("sequence_score", chain, engine)
    (log_z,) = call("log_partition", chain, engine)
    assert (likelihood <= 0).all()
    np.testing.assert_array_equal(np.isneginf(likelihood), np.isneginf(score))
    possible = ~np.isneginf(score)
    atol = tolerance(chain, largest_score(chain, chain["tags"]))
    difference = score[possible] - log_z[possible]
    np.testing.assert_allclose(likelihood[possible], difference, rtol=0, atol=atol)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(
    chain=chains(),
    filling=st.sampled_from((np.nan, np.inf, -np.inf, 3e38)),
    tag=st.sampled_from((-100, -1, 2**31 - 1)),
)
def test_padding_is_never_read(engine, function, chain, filling, tag):
    valid = valid_of(chain)
    assume(not valid.all())
    filled = {
        **chain,
        "emissions": np.where(valid[..., None], chain["emissions"], np.asarray(filling, "f4")),
        "tags": np.where(valid, chain["tags"], tag),
    }
    filled["emissions"] = filled["emissions"].astype(chain["emissions"].dtype)
    assert_same(call(function, filled, engine), call(function, chain, engine))


@given(chain=chains(num_tags=(2, 5, 17)), tag=st.integers(0, 1))
def test_a_forbidden_tag_has_a_marginal_of_exactly_0(engine, chain, tag):
    emissions = chain["emissions"].copy()
    emissions[..., tag] = -np.inf
    unary, counts = call("marginals", {**chain, "emissions": emissions}, engine)
    np.testing.assert_array_equal(unary[..., tag], 0)
    np.testing.assert_array_equal(counts[:, tag], 0)
    np.testing.assert_array_equal(counts[:, :, tag], 0)


@given(chain=chains(forbidden=(None,)))
def test_if_all_tags_are_forbidden_nothing_is_possible(engine, chain):
    emissions = chain["emissions"].copy()
    emissions[:, -1] = -np.inf
    chain = {**chain, "emissions": emissions}
    expected = np.where(valid_of(chain)[:, -1], -np.inf, 0)
    hit = np.isneginf(expected)
    for function in ("log_partition", "sequence_score", "log_likelihood", "viterbi"):
        value = call(function, chain, engine)[-1]
        np.testing.assert_array_equal(np.isneginf(value), hit)
    for gradient in call("log_likelihood_and_gradients", chain, engine)[1:]:
        assert np.isfinite(gradient).all()
    for probabilities in call("marginals", chain, engine):
        np.testing.assert_array_equal(probabilities[hit], 0)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains())
def test_a_sequence_does_not_depend_on_its_batch(engine, function, chain):
    only(engine, SUMS_IN_ORDER, "matrix products over the batch may round by its size")
    whole = call(function, chain, engine)
    for b in range(len(chain["emissions"])):
        row = {k: v if v is None else v[b : b + 1] for k, v in chain.items() if k in PER_SEQUENCE}
        single = call(function, {**chain, **row}, engine)
        if function == "log_likelihood_and_gradients":
            whole, single = whole[:2], single[:2]  # the rest are sums over the batch
        assert_same(single, [result[b : b + 1] for result in whole])


@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains())
def test_read_only_and_strided_arrays_give_the_same(engine, function, chain):
    def strided(array):
        spread = np.zeros([2 * n for n in array.shape], array.dtype)
        view = spread[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        view.flags.writeable = False
        return view

    expected = call(function, chain, engine)
    views = {k: v if v is None else strided(v) for k, v in chain.items()}
    assert_same(call(function, views, engine), expected)
    frozen = {k: v if v is None else v.copy() for k, v in chain.items()}
    for array in frozen.values():
        if array is not None:
            array.flags.writeable = False
    assert_same(call(function, frozen, engine), expected)
    for name, array in frozen.items():
        np.testing.assert_array_equal(array, chain[name])


@given(
    seed=st.integers(0, 2**32 - 1),
    num_tags=st.sampled_from((2, 5, 16, 17, 40)),
    dtype=st.sampled_from(("float32", "float64")),
)
def test_of_equal_paths_the_lowest_tags_are_decoded(engine, seed, num_tags, dtype):
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, 2, (3, 6, num_tags)).astype(dtype)
    transitions = rng.integers(-1, 2, (num_tags, num_tags)).astype(dtype)
    mask = rng.random((3, 6)) < 0.8
    chain = {"emissions": x, "transitions": transitions, "mask": mask}
    tags, score = call("viterbi", chain, engine)
    expected_tags, expected_score = call("viterbi", chain, "reference")
    np.testing.assert_array_equal(tags, expected_tags)
    np.testing.assert_array_equal(score, expected_score)  # whole numbers are not rounded


@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains(), data=st.data())
def test_a_mask_of_a_suffix_equals_lengths(engine, function, chain, data):
    batch, steps, _ = chain["emissions"].shape
    lengths = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    mask = np.arange(steps) < np.array(lengths)[:, None]
    chain["tags"] = np.maximum(chain["tags"], 0)
    by_lengths = call(function, {**chain, "mask": None, "lengths": np.array(lengths)}, engine)
    by_mask = call(function, {**chain, "mask": mask, "lengths": None}, engine)
    assert_same(by_mask, by_lengths)


@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains())
def test_a_mask_with_holes_equals_the_compacted_sequences(engine, function, chain):
    valid = valid_of(chain)
    order = np.argsort(~valid, axis=1, kind="stable")  # valid steps first
    compact = {
        **chain,
        "emissions": np.take_along_axis(chain["emissions"], order[..., None], axis=1),
        "tags": np.take_along_axis(chain["tags"], order, axis=1),
        "lengths": valid.sum(axis=1),
        "mask": None,
    }
    results, expected = call(function, chain, engine), call(function, compact, engine)
    by_step = {"log_likelihood_and_gradients": 1, "marginals": 0, "viterbi": 0}.get(function)
    if by_step is not None:
        at = order if expected[by_step].ndim == 2 else order[..., None]
        spread = np.zeros_like(expected[by_step])
        np.put_along_axis(spread, at, expected[by_step], axis=1)
        expected[by_step] = spread
    if engine in SUMS_IN_ORDER:
        assert_same(results, expected)
        return
    atol = tolerance(chain, largest_score(chain, chain["tags"])) * valid.size
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, other, rtol=0, atol=atol)
