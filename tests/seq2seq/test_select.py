"""`select` in every engine, compared with the reference, and the reference with the enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accuracy import WIDER, assert_as_accurate_as_reference
from engine_parameters import engines_of
from fastkeras.seq2seq import select
from fastkeras.seq2seq._engines import reference
from fastkeras.seq2seq.arguments import step_of
from steps import enumerated, steps

ENGINES = engines_of("seq2seq")


def call(step, engine):
    return [np.asarray(result) for result in select(**step, engine=engine)]


def call_reference(step, dtype, num_candidates):
    given = {"history": None, "allowed": None, "repetition_penalty": 1.0, "no_repeat_ngram": 0}
    given |= {name: value for name, value in step.items() if name != "num_candidates"}
    checked = step_of(**given)
    checked = checked._replace(
        logits=checked.logits.astype(dtype), scores=checked.scores.astype(dtype)
    )
    return reference.select(checked, num_candidates)


def own_scores(step, tokens, parents, dtype):
    """The exact scores of the returned continuations."""
    size = step["logits"].shape[1] * step["logits"].shape[2]
    scores, all_tokens, all_parents = call_reference(step, dtype, size)
    table = np.full(step["logits"].shape, -np.inf, dtype)
    b = np.arange(len(scores))[:, None]
    possible = scores > -np.inf
    table[
        np.broadcast_to(b, scores.shape)[possible], all_parents[possible], all_tokens[possible]
    ] = scores[possible]
    return table[b, parents, tokens]


@given(step=steps(dtype="float64"))
def test_the_reference_enumerates(step):
    scores, tokens, parents = call(step, "reference")
    for b, found in enumerate(enumerated(step)):
        k = min(step["num_candidates"], len(found))
        expected = [candidate[0] for candidate in found[:k]]
        np.testing.assert_allclose(scores[b, :k], expected, rtol=1e-13, atol=1e-13)
        assert np.isneginf(scores[b, k:]).all()
        assert not tokens[b, k:].any() and not parents[b, k:].any()
        exact = {candidate[1:]: candidate[0] for candidate in found}
        own = [exact[pair] for pair in zip(parents[b, :k], tokens[b, :k], strict=True)]
        np.testing.assert_allclose(scores[b, :k], own, rtol=1e-13, atol=1e-13)
        assert len(set(zip(parents[b, :k], tokens[b, :k], strict=True))) == k


@pytest.mark.parametrize("name", ENGINES)
@given(step=steps())
def test_as_accurate_as_the_reference(name, step):
    dtype, k = step["logits"].dtype.name, step["num_candidates"]
    scores, tokens, parents = call(step, name)
    assert scores.dtype == dtype and tokens.dtype == parents.dtype == np.int32
    exact, _, _ = call_reference(step, WIDER[dtype], k)
    rounded, _, _ = call_reference(step, dtype, k)
    finite = np.isfinite(step["logits"])
    scale = np.abs(step["logits"][finite]).max(initial=0)
    scale += np.abs(step["scores"][np.isfinite(step["scores"])]).max(initial=0)
    assert_as_accurate_as_reference(scores, exact, rounded, scale)
    possible = scores > -np.inf
    own = np.where(possible, own_scores(step, tokens, parents, WIDER[dtype]), -np.inf)
    assert_as_accurate_as_reference(scores, own, own.astype(dtype), 2 * scale)
    assert not tokens[~possible].any() and not parents[~possible].any()
    for b in range(len(scores)):
        pairs = set(zip(parents[b, possible[b]], tokens[b, possible[b]], strict=True))
        assert len(pairs) == possible[b].sum()
        assert (scores[b, :-1] >= scores[b, 1:]).all()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("vocabulary", (1, 5, 64, 200))
def test_of_equal_scores_the_lower_parent_and_then_the_lower_token_comes_first(name, vocabulary):
    step = {"logits": np.zeros((2, 3, vocabulary)), "scores": np.zeros((2, 3))}
    scores, tokens, parents = call({**step, "num_candidates": 12}, name)
    expected = np.arange(min(12, 3 * vocabulary))
    np.testing.assert_array_equal(parents[:, : len(expected)], [expected // vocabulary] * 2)
    np.testing.assert_array_equal(tokens[:, : len(expected)], [expected % vocabulary] * 2)
    assert np.isneginf(scores[:, len(expected) :]).all()


@pytest.mark.parametrize("name", ENGINES)
def test_the_best_come_in_order_wherever_they_stand(name, rng):
    logits = rng.permuted(np.arange(2 * 3 * 1000.0).reshape(6, 1000) / 100, axis=1)
    logits = logits.reshape(2, 3, 1000)
    logits[:, :, -1] = 100
    scores, tokens, _ = call({"logits": logits, "scores": np.zeros((2, 3))}, name)
    assert tokens.shape == (2, 6) and (tokens[:, :3] == 999).all()
    np.testing.assert_array_equal(scores, -np.sort(-scores, axis=1))


@pytest.mark.parametrize("name", ENGINES)
@given(step=steps(), data=st.data())
def test_nan_and_infinity_spoil_their_sentence_and_no_other(name, step, data):
    value = data.draw(st.sampled_from((np.nan, np.inf)), label="value")
    of = data.draw(st.sampled_from(("logits", "scores")), label="of")
    good = call(step, name)
    where = tuple(data.draw(st.integers(0, size - 1)) for size in step[of].shape)
    step[of][where] = value
    is_spoiled = of == "scores" or not np.isneginf(step["scores"][where[:2]])
    for result, before in zip(call(step, name), good, strict=True):
        expected = np.copy(before)
        if is_spoiled:
            expected[where[0]] = np.nan if before.dtype.kind == "f" else 0
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("batch", (0, 2))
def test_where_nothing_is_possible(name, batch):
    none = {"logits": np.full((batch, 2, 5), -np.inf), "scores": np.zeros((batch, 2))}
    for step in (
        none,
        {"logits": np.zeros((batch, 2, 5)), "scores": np.full((batch, 2), -np.inf)},
        {**none, "logits": np.zeros((batch, 2, 5)), "allowed": np.zeros(5, bool)},
        {**none, "history": np.zeros((batch, 2, 0), int), "no_repeat_ngram": 1},
    ):
        scores, tokens, parents = call(step, name)
        assert scores.shape == tokens.shape == parents.shape == (batch, 4)
        assert np.isneginf(scores).all() and not tokens.any() and not parents.any()


@pytest.mark.parametrize("name", ENGINES)
def test_halves_and_strides(name, rng):
    logits, scores = rng.standard_normal((3, 2, 20)), rng.standard_normal((3, 2))
    expected = call({"logits": logits.astype("f4"), "scores": scores.astype("f4")}, name)
    half = call({"logits": logits.astype("f2"), "scores": scores.astype("f2")}, name)
    assert half[0].dtype == np.float32
    np.testing.assert_allclose(half[0], expected[0], atol=4e-3)
    turned = np.asfortranarray(logits.astype("f4")), scores.astype("f4")[::-1][::-1]
    for result, same in zip(
        call(dict(zip(("logits", "scores"), turned, strict=True)), name), expected, strict=True
    ):
        np.testing.assert_array_equal(result, same)


ZEROS = {"logits": np.zeros((2, 3, 4)), "scores": np.zeros((2, 3))}
BAD = {
    r"^logits must have shape \(batch, beams, vocabulary\) .* got \(2, 3\)": {
        "logits": np.zeros((2, 3))
    },
    r"^logits must have shape .* got \(2, 3, 0\)": {"logits": np.zeros((2, 3, 0))},
    r"^logits must have shape .* got \(2, 0, 3\)": {"logits": np.zeros((2, 0, 3))},
    r"^logits must be one of float16, .* got complex128": {"logits": np.zeros((2, 3, 4), complex)},
    r"^scores must have shape \(batch, beams\) = \(2, 3\), got \(3, 2\)": {
        "scores": np.zeros((3, 2))
    },
    r"^num_candidates=0 must be an integer in 1\.\.": {"num_candidates": 0},
    r"^num_candidates=2\.0 must be an integer": {"num_candidates": 2.0},
    r"^num_candidates=True must be an integer": {"num_candidates": True},
    r"^allowed must be booleans, got int64": {"allowed": np.ones(4, int)},
    r"^allowed must have shape \(vocabulary,\), .* = \(2, 1, 4\), got \(3, 1, 4\)": {
        "allowed": np.ones((3, 4), bool)
    },
    r"^allowed must have shape .* = \(2, 3, 4\), got \(2, 2, 4\)": {
        "allowed": np.ones((2, 2, 4), bool)
    },
    r"^allowed must have shape .* = \(2, 1, 4\), got \(2, 1, 5\)": {
        "allowed": np.ones((2, 5), bool)
    },
    r"^repetition_penalty=0 must be a finite number above 0": {"repetition_penalty": 0},
    r"^repetition_penalty=nan must be": {"repetition_penalty": np.nan},
    r"^no_repeat_ngram=-1 must be an integer in 0\.\.": {"no_repeat_ngram": -1},
    r"^history must be given, int32 \(batch, beams, steps\)": {"no_repeat_ngram": 2},
    r"^history must be integers, got float64": {
        "no_repeat_ngram": 2,
        "history": np.zeros((2, 3, 1)),
    },
    r"^history must have shape .* got \(2, 3\)": {
        "no_repeat_ngram": 2,
        "history": np.zeros((2, 3), int),
    },
    r"^history must be tokens in 0\.\.3, or negative .* got 4": {
        "repetition_penalty": 1.1,
        "history": np.full((2, 3, 1), 4),
    },
    r"^engine='referenc' is none of seq2seq \(did you mean 'reference'\?\)": {"engine": "referenc"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_raise(message):
    with pytest.raises(ValueError, match=message):
        select(**{**ZEROS, **BAD[message]})


def test_an_integer_beyond_32_bits_is_no_token():
    row = np.full((2, 3, 2), [1, -(2**40)])
    row[..., 1] = -(2**33)  # its lower 32 bits are 0
    scores = call({**ZEROS, "history": row, "repetition_penalty": 2.0}, None)[0]
    np.testing.assert_allclose(scores, np.log(1 / 4))
