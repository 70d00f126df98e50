"""Sampled sequences, compared with enumerated probabilities of the model."""

import numpy as np
import pytest

from fastkeras.seq2seq import sample
from small_models import END, RecurrentModel, enumerated, hypothesis_of, log_p_of


def samples_of(model, **options):
    return sample(model.step, model.states, model.context, start=model.start, end=END, **options)


def test_samples_are_as_frequent_as_they_are_probable(rng):
    model, number = RecurrentModel(rng, 4, batch=2, scale=0.7), 20_000
    found = samples_of(model, num_samples=number, max_length=12, seed=1)
    for b in range(2):
        drawn = [
            tuple(tokens[:n]) for tokens, n in zip(found.tokens[b], found.lengths[b], strict=True)
        ]
        for _, log_p, tokens, _ in enumerated(model, b, {"max_length": 2}):
            p = np.exp(log_p)
            share = drawn.count(tuple(tokens)) / number
            assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / number) + 1e-9


def test_each_log_likelihood_is_that_of_the_model(rng):
    model = RecurrentModel(rng, 30, batch=5)
    how = {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "min_length": 2}
    found = samples_of(model, num_samples=4, max_length=9, suppressed=(3,), seed=0, **how)
    for b in range(5):
        for i in range(4):
            tokens = found.tokens[b, i, : found.lengths[b, i]]
            assert 2 <= len(tokens) <= 9 and 3 not in tokens
            _, log_p, _, of_tokens = hypothesis_of(model, b, list(tokens), {})
            np.testing.assert_allclose(found.log_likelihoods[b, i], log_p, rtol=1e-12)
            each = found.token_log_likelihoods[b, i]
            np.testing.assert_allclose(each[: len(of_tokens)], of_tokens, rtol=1e-12)
            assert not each[len(of_tokens) :].any()
    again = samples_of(model, num_samples=4, max_length=9, suppressed=(3,), seed=0, **how)
    other = samples_of(model, num_samples=4, max_length=9, suppressed=(3,), seed=1, **how)
    np.testing.assert_array_equal(found.tokens, again.tokens)
    assert found.tokens.shape != other.tokens.shape or (found.tokens != other.tokens).any()


P = np.array([0.05, 0.4, 0.1, 0.3, 0.15])


@pytest.mark.parametrize(
    ("options", "expected"),
    (
        ({}, P),
        ({"temperature": 2.0}, np.sqrt(P)),
        ({"top_k": 2}, [0, 0.4, 0, 0.3, 0]),
        ({"top_p": 0.7}, [0, 0.4, 0, 0.3, 0]),
        ({"top_p": 0.71}, [0, 0.4, 0, 0.3, 0.15]),
        ({"min_p": 0.3}, [0, 0.4, 0, 0.3, 0.15]),
        ({"top_k": 3, "top_p": 0.8}, [0, 0.4, 0, 0.3, 0]),  # shares of 0.85
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"suppressed": (1,)}, [0.05, 0, 0.1, 0.3, 0.15]),
        ({"min_length": 1}, [0, 0.4, 0.1, 0.3, 0.15]),
        ({"prefix": [[2]]}, [0, 0, 1, 0, 0]),
    ),
)
def test_what_may_be_drawn(options, expected):
    def step(tokens, states, context, ancestry):
        logits = np.broadcast_to(np.log(P), (*tokens.shape, 5))
        return logits, states, context

    number, expected = 20_000, np.array(expected) / np.sum(expected)
    if "top_p" in options and "top_k" not in options:
        options = {**options, "top_p": options["top_p"] - 1e-9}  # the sums are rounded
    found = sample(step, start=[1], end=END, num_samples=number, max_length=1, seed=0, **options)
    first = np.where(found.lengths[0] > 0, found.tokens[0, :, 0] if found.tokens.size else 0, END)
    shares = np.bincount(first, minlength=5) / number
    assert (shares[expected == 0] == 0).all()
    assert (abs(shares - expected) <= 5 * np.sqrt(expected / number)).all()


def test_without_temperature_each_token_is_the_most_probable(rng):
    model = RecurrentModel(rng, 20, batch=6)
    found = samples_of(model, temperature=0, max_length=8)
    for b in range(6):
        tokens = []
        while len(tokens) < 8:
            best = np.argmax([log_p_of(model, b, [*tokens, token], {})[-1] for token in range(20)])
            if best == END:
                break
            tokens.append(best)
        assert found.tokens[b, 0, : found.lengths[b, 0]].tolist() == tokens


def test_the_batch_gets_smaller_and_changes_nothing(rng):
    model, sizes = RecurrentModel(rng, 6, batch=12), []
    model.context[::2, END] += 4
    step = model.step
    model.step = lambda tokens, *more: (sizes.append(len(tokens)), step(tokens, *more))[1]
    found = samples_of(model, num_samples=2, max_length=20, seed=3)
    assert min(sizes) < 12
    model.step = lambda tokens, *more: step(tokens, *more)
    some = samples_of(model.of(slice(0, 5)), num_samples=2, max_length=20, seed=3)
    longest = some.tokens.shape[2]
    np.testing.assert_array_equal(some.lengths, found.lengths[:5])
    np.testing.assert_array_equal(some.tokens, found.tokens[:5, :, :longest])


def test_where_nothing_is_possible_and_where_nothing_is_a_number(rng):
    model = RecurrentModel(rng, 4, batch=2)
    assert samples_of(model.of([])).tokens.shape == (0, 1, 0)
    model.context[1] = -np.inf
    found = samples_of(model, max_length=3, seed=0)
    assert np.isneginf(found.scores[1, 0]) and found.lengths[1, 0] == 0
    assert np.isfinite(found.scores[0, 0])
    model.context[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"^step returned logits of NaN .* sentence 1 in step 0"):
        samples_of(model)


@pytest.mark.parametrize(
    ("options", "message"),
    (
        ({"temperature": -1}, r"^temperature=-1 must be a finite number of at least 0"),
        ({"top_k": -1}, r"^top_k=-1 must be an integer"),
        ({"top_p": 0}, r"^top_p=0 must be a finite number above 0 and at most 1"),
        ({"min_p": 1.5}, r"^min_p=1\.5 must be a finite number from 0 to 1"),
        ({"num_samples": 0}, r"^num_samples=0 must be an integer"),
    ),
)
def test_bad_arguments_raise(options, message, rng):
    with pytest.raises(ValueError, match=message):
        samples_of(RecurrentModel(rng, 4, batch=2), **options)
