"""Transitions that vary with the step, compared with the enumeration of all sequences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import FUNCTIONS, call
from engine_parameters import engines_of
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from strategies import chains, is_valid

WITHOUT = ("numba", "cupy", "jax_cuda", "torch_cuda")
ENGINES = [engine for engine in engines_of("crf") if engine.values[0] not in WITHOUT]


@st.composite
def varying_chains(draw, **options):
    """Draw a chain whose transitions vary with the step, or with step and sequence."""
    chain = draw(
        chains(dtype="float64", num_tags=(1, 3), scales=(0.1, 1.0, 30.0), max_steps=4, **options)
    )
    batch, steps, num_tags = chain["emissions"].shape
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed of the transitions"))
    shape = (steps - 1, num_tags, num_tags)
    if draw(st.booleans(), label="of each sequence"):
        shape = (batch, *shape)
    transitions = draw(st.sampled_from((0.1, 1.0, 30.0))) * rng.standard_normal(shape)
    if not options and draw(st.booleans(), label="forbids"):
        transitions[rng.random(shape) < 0.3] = draw(st.sampled_from((-np.inf, -1e4)))
    return {**chain, "transitions": transitions}


@pytest.mark.parametrize("name", ENGINES)
@given(chain=varying_chains())
def test_every_function_is_that_of_the_enumeration(name, chain):
    arguments = {n: a for n, a in chain.items() if n != "tags"}
    (log_z,) = call("log_partition", chain, name)
    unary, pairs = call("marginals", chain, name)
    tags, best = call("viterbi", chain, name)
    (score,) = call("sequence_score", chain, name)
    likelihood, *gradients = call("log_likelihood_and_gradients", chain, name)
    np.testing.assert_array_equal(likelihood, call("log_likelihood", chain, name)[0])
    own_score = np.asarray(crf.sequence_score(tags=tags, **arguments, engine=name))

    batch, steps, num_tags = chain["emissions"].shape
    expected_unary, expected_pairs = np.zeros_like(unary), np.zeros_like(pairs)
    assert pairs.shape == (batch, steps - 1, num_tags, num_tags)
    d_transitions = np.zeros_like(pairs)
    for b, (valid, paths, scores) in enumerate(enumerate_paths(chain)):
        exact, p = probabilities(scores)
        np.testing.assert_allclose(log_z[b], float(exact), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(best[b], float(scores.max()), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(own_score[b], best[b], rtol=1e-12, atol=1e-12)
        gold = np.flatnonzero((paths == chain["tags"][b, valid]).all(axis=1))[0]
        np.testing.assert_allclose(score[b], float(scores[gold]), rtol=1e-12, atol=1e-12)
        if np.isneginf(scores[gold]):
            assert likelihood[b] == -np.inf
        else:
            np.testing.assert_allclose(likelihood[b], float(scores[gold] - exact), atol=1e-11)
        for path, probability in zip(paths, p, strict=True):
            expected_unary[b, valid, path] += probability
            expected_pairs[b, valid[1:] - 1, path[:-1], path[1:]] += probability
        if likelihood[b] > -np.inf:
            path = paths[gold]
            d_transitions[b, valid[1:] - 1, path[:-1], path[1:]] += 1
            d_transitions[b] -= expected_pairs[b]
    np.testing.assert_allclose(unary, expected_unary, rtol=0, atol=1e-11)
    np.testing.assert_allclose(pairs, expected_pairs, rtol=0, atol=1e-11)
    if chain["transitions"].ndim == 3:
        d_transitions = d_transitions.sum(axis=0)
    np.testing.assert_allclose(gradients[1], d_transitions, rtol=0, atol=1e-10)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_transitions_that_do_not_vary_are_the_others(name, function, rng):
    chain = {
        "emissions": rng.standard_normal((3, 6, 3)),
        "tags": rng.integers(0, 3, (3, 6)),
        "transitions": rng.standard_normal((3, 3)),
        "lengths": np.array([6, 1, 4]),
        "mask": rng.random((3, 6)) < 0.8,
        "start_transitions": rng.standard_normal(3),
        "end_transitions": None,
    }
    expected = call(function, chain, name)
    repeated = np.broadcast_to(chain["transitions"], (3, 5, 3, 3))
    for transitions in (repeated, repeated[0]):
        results = call(function, {**chain, "transitions": transitions}, name)
        if function == "marginals":
            results[1] = results[1].sum(axis=1)
        if function == "log_likelihood_and_gradients":
            results[2] = results[2].sum(axis=tuple(range(results[2].ndim - 2)))
        for result, exact in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ENGINES)
def test_nothing_is_read_that_belongs_to_no_valid_step(name, function, rng):
    valid = is_valid(None, np.array([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]]), 2, 6)
    chain = {
        "emissions": rng.standard_normal((2, 6, 2)),
        "tags": np.where(valid, 1, -100),
        "transitions": rng.standard_normal((2, 5, 2, 2)),
        "mask": valid,
    }
    expected = call(function, chain, name)
    read = valid & (valid.cumsum(axis=1) > 1)
    chain["transitions"][~read[:, 1:]] = np.nan
    for result, exact in zip(call(function, chain, name), expected, strict=True):
        np.testing.assert_array_equal(result, exact)


@pytest.mark.parametrize("name", ENGINES)
def test_one_step_and_none_have_no_transitions(name, rng):
    emissions = rng.standard_normal((2, 1, 3))
    for transitions in (np.zeros((2, 0, 3, 3)), np.zeros((0, 3, 3))):
        log_z = np.asarray(crf.log_partition(emissions, transitions, engine=name))
        np.testing.assert_allclose(log_z, np.logaddexp.reduce(emissions[:, 0], axis=-1), rtol=1e-12)
        log_z = crf.log_partition(emissions[:, :0], transitions, engine=name)
        np.testing.assert_array_equal(log_z, [0, 0])


@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("hard", (False, True))
def test_the_tape_gives_the_gradient_of_the_reference(hard, jit_compile, rng):
    tf = pytest.importorskip("tensorflow", reason="the tape is TensorFlow's")
    emissions, transitions = rng.standard_normal((2, 6, 3)), rng.standard_normal((2, 5, 3, 3))
    if hard:
        transitions[0, 2, 1:], transitions[1, 0, 2, 2] = -np.inf, -1e4
    tags, lengths = np.zeros((2, 6), int), np.array([6, 4])

    @tf.function(jit_compile=jit_compile)
    def gradients(*scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = crf.log_likelihood(scores[0], tags, scores[1], lengths)
        return tape.gradient(value, scores)

    results = gradients(tf.constant(emissions), tf.constant(transitions))
    _, exact = crf.log_likelihood_and_gradients(emissions, tags, transitions, lengths)
    np.testing.assert_allclose(results[0], exact.emissions, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(results[1], exact.transitions, rtol=1e-11, atol=1e-12)


def test_an_engine_that_cannot_is_passed_by_or_refused_by_name(monkeypatch):
    emissions, transitions = np.zeros((1, 3, 2)), np.zeros((2, 2, 2))
    message = "engine='numba' does not take transitions that vary with the step; these do: .*native"
    with pytest.raises(ValueError, match=message):
        crf.viterbi(emissions, transitions, engine="numba")
    monkeypatch.setenv("FASTKERAS_ENGINE", "numba")
    np.testing.assert_array_equal(crf.viterbi(emissions, transitions)[0], np.zeros((1, 3)))
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    tensors = tf.constant(emissions), tf.constant(transitions)
    np.testing.assert_allclose(crf.log_partition(*tensors), 3 * np.log(2), rtol=1e-12)


def test_a_wrong_shape_says_what_is_allowed():
    emissions = np.zeros((2, 4, 3))
    for shape, allowed in (
        ((4, 3, 3), r"\(steps - 1, num_tags, num_tags\) = \(3, 3, 3\), got \(4, 3, 3\)"),
        ((1, 3, 3, 3), r"\(batch, steps - 1, num_tags, num_tags\) = \(2, 3, 3, 3\), got"),
        ((2, 2, 3, 3, 3), r"\(num_tags, num_tags\) = \(3, 3\), got"),
    ):
        with pytest.raises(ValueError, match=f"^transitions must have shape {allowed}"):
            crf.log_partition(emissions, np.zeros(shape))
    with pytest.raises(ValueError, match=r"^transitions must have shape \(num_tags, num_tags\)"):
        crf.memm.viterbi(emissions, np.zeros((3, 3, 3)))


CALLS = {
    "entropy": lambda x, a, y, **more: crf.entropy(x, a, **more),
    "cross_entropy": lambda x, a, y, **more: crf.cross_entropy(x, a, 2 * x, a / 2, **more),
    "kl_divergence": lambda x, a, y, **more: crf.kl_divergence(x, a, 2 * x, a / 2, **more),
    "log_count": lambda x, a, y, **more: crf.log_count(x, a, **more),
    "k_best": lambda x, a, y, **more: crf.k_best(x, a, 4, **more),
    "sample": lambda x, a, y, **more: crf.sample(x, a, num_samples=3, seed=1, **more),
    "posterior_decode": lambda x, a, y, **more: crf.posterior_decode(x, a, **more),
    "sets": lambda x, a, y, **more: crf.log_likelihood_of_sets(x, x > -1, a, **more),
    "smoothed": lambda x, a, y, **more: crf.smoothed_log_likelihood(
        x, y, a, label_smoothing=0.1, **more
    ),
    "span_confidence": lambda x, a, y, **more: crf.span_confidence(
        x, y, [(0, 1, 3), (2, 0, 2)], a, **more
    ),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("function", CALLS)
def test_transitions_that_are_the_same_at_all_steps_are_plain_ones(function, name, rng):
    x, tags = rng.normal(size=(3, 5, 3)), rng.integers(0, 3, (3, 5))
    transitions = rng.normal(size=(3, 3))
    transitions[0, 2] = -np.inf
    mask = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 0, 1, 1]], bool)
    every_step = np.broadcast_to(transitions, (3, 4, 3, 3))
    plain = CALLS[function](x, transitions, tags, mask=mask, engine="reference")
    varying = CALLS[function](x, every_step, tags, mask=mask, engine=name)
    plain, varying = (r if isinstance(r, tuple) else (r,) for r in (plain, varying))
    for one, other in zip(plain, varying, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ENGINES)
@given(chain=varying_chains())
def test_the_best_and_the_entropy_are_those_of_the_enumeration(name, chain):
    arguments = {n: a for n, a in chain.items() if n != "tags"}
    tags, found = (np.asarray(part) for part in crf.k_best(**arguments, k=3, engine=name))
    entropy = np.asarray(crf.entropy(**arguments, engine=name))
    for b, (valid, paths, scores) in enumerate(enumerate_paths(chain)):
        best = np.sort(scores)[::-1][:3].astype(float)
        best = np.append(best, [-np.inf] * (3 - len(best)))
        np.testing.assert_allclose(found[b], best, rtol=1e-11, atol=1e-11)
        for path, score in zip(tags[b][:, valid], found[b], strict=True):
            if score > -np.inf:
                own = scores[(paths == path).all(axis=1)][0]
                np.testing.assert_allclose(float(own), score, rtol=1e-11, atol=1e-11)
        _, p = probabilities(scores)
        expected = -float((p[p > 0] * np.log(p[p > 0])).sum())
        np.testing.assert_allclose(entropy[b], expected, rtol=1e-8, atol=1e-8)
