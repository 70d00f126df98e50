"""Scores that are NaN or infinite affect the results of sequences that use them, and no others.

The rule is written out here a second time, from the scores alone, so that a NaN in the result does
not depend on the order of additions.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkeras
from accuracy import assert_as_accurate_as_reference
from calls import call, call_reference, check, largest_score
from engine_parameters import engines_of
from fastkeras import crf
from strategies import chains, is_valid

ENGINES = engines_of("crf")
SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")
NOT_NUMBERS = (np.nan, np.inf, -np.inf)
INSTRUCTION_SETS = ("portable", "avx2", "avx512")
every_engine = pytest.mark.parametrize("engine", ENGINES)


def nan_of(dtype):
    """A NaN with some of the lowest bits set, like R's NaN for missing values."""
    bits = {"float32": ("u4", 0x7FC00123), "float64": ("u8", 0x7FF80000000007A2)}[dtype]
    return np.array(bits[1], bits[0]).view(dtype)[()]


@st.composite
def spoiled_chains(draw):
    """Chains some of whose scores are NaN or infinite, valid or not."""
    chain = draw(chains(max_steps=9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed of what is spoiled"))
    dtype = chain["emissions"].dtype.name
    for name in SCORES:
        share = draw(st.sampled_from((0, 0, 0.02, 0.3)), label=f"spoiled {name}")
        if share and chain[name] is not None:
            chain[name][rng.random(chain[name].shape) < share] = draw(
                st.sampled_from((*NOT_NUMBERS, nan_of(dtype)))
            )
    valid = is_valid(chain["lengths"], chain["mask"], *chain["emissions"].shape[:2])
    if draw(st.booleans(), label="NaN at all steps that are not valid"):
        chain["emissions"][~valid] = np.nan
    return chain, valid


def is_sound(chain, valid):
    """For each sequence, whether none of the scores that it uses is NaN or +inf."""

    def below_infinity(name):
        return chain[name] is None or (chain[name] < np.inf).all()

    ends = below_infinity("start_transitions") and below_infinity("end_transitions")
    steps = valid.sum(axis=1)
    emissions = ((chain["emissions"] < np.inf).all(axis=2) | ~valid).all(axis=1)
    pairs = (steps < 2) | below_infinity("transitions")
    return (steps == 0) | (emissions & pairs & ends)


def taken(chain, rows):
    """The chain with some of its sequences only."""
    of_batch = ("emissions", "tags", "lengths", "mask")
    return {
        name: value[rows] if name in of_batch and value is not None else value
        for name, value in chain.items()
    }


def expect_nan(result, where):
    """Assert that the result is NaN exactly where it should be."""
    np.testing.assert_array_equal(np.isnan(result), np.broadcast_to(where, result.shape))


def check_rule(chain, valid, engine):
    sound = is_sound(chain, valid)
    pairs = ~sound & (valid.sum(axis=1) > 1)
    steps = (~sound[:, None] & valid)[..., None]
    log_z = call("log_partition", chain, engine)[0]
    expect_nan(log_z, ~sound)
    likelihood = call("log_likelihood", chain, engine)[0]
    expect_nan(likelihood, ~sound)
    gradients = call("log_likelihood_and_gradients", chain, engine)
    np.testing.assert_array_equal(gradients[0], likelihood)
    for result, where in zip(
        gradients[1:], (steps, pairs.any(), (~sound).any(), (~sound).any()), strict=True
    ):
        expect_nan(result, where)
    unary, counts = call("marginals", chain, engine)
    expect_nan(unary, steps)
    expect_nan(counts, pairs[:, None, None])
    for part in (unary, gradients[1]):
        np.testing.assert_array_equal(part[~valid], 0)
    if sound.any():
        some = taken(chain, sound)
        for function, parts in {
            "log_partition": [log_z],
            "log_likelihood": [likelihood],
            "log_likelihood_and_gradients": gradients[:2],
            "marginals": [unary, counts],
            "viterbi": call("viterbi", chain, engine),
        }.items():
            for part, alone in zip(parts, call(function, some, engine), strict=False):
                np.testing.assert_array_equal(part[sound], alone)


@every_engine
@given(spoiled=spoiled_chains())
def test_what_uses_it_is_nan_and_nothing_else(engine, spoiled):
    check_rule(*spoiled, engine)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@given(spoiled=spoiled_chains())
def test_every_instruction_set_keeps_the_rule(name, spoiled):
    state = fastkeras.engines("crf")["native"]
    if state != "ready":
        pytest.skip(state)
    from fastkeras import _core

    before = _core.instruction_set()
    try:
        _core.set_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        check_rule(*spoiled, "native")
        check_decoding(*spoiled, "native")
    finally:
        _core.set_instruction_set(before)


def check_decoding(chain, valid, engine):
    num_tags = chain["emissions"].shape[2]
    sound = is_sound(chain, valid)
    expected = call("viterbi", chain, "reference")[1]
    assert not (expected[~sound] < np.inf).any()
    tags, score = call("viterbi", chain, engine)
    np.testing.assert_array_equal(score[~sound], expected[~sound])
    of_paths = {name: value for name, value in chain.items() if name != "tags"}
    best, scores = (np.asarray(part) for part in crf.k_best(**of_paths, k=3, engine=engine))
    np.testing.assert_array_equal(scores[~sound, 0], expected[~sound])
    expect_nan(scores[:, 1:], ~sound[:, None])
    drawn = np.asarray(crf.sample(**of_paths, num_samples=2, seed=0, engine=engine))
    assert not drawn[:, ~sound].any()
    for found in (tags, *np.moveaxis(best, 1, 0), *drawn):
        assert found.dtype == np.int32
        assert (found >= 0).all() and (found < num_tags).all() and not found[~valid].any()


@every_engine
@given(spoiled=spoiled_chains())
def test_decoding_tells_it_and_stays_in_range(engine, spoiled):
    check_decoding(*spoiled, engine)


@every_engine
@given(spoiled=spoiled_chains())
def test_the_score_of_a_path_tells_what_is_on_the_path(engine, spoiled):
    chain, valid = spoiled
    found, expected = (call("sequence_score", chain, e)[0] for e in (engine, "reference"))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    check("sequence_score", taken(chain, finite & is_sound(chain, valid)), engine)


@every_engine
@given(spoiled=spoiled_chains(), data=st.data())
def test_a_weight_of_zero_is_no_contribution(engine, spoiled, data):
    chain, valid = spoiled
    sound = is_sound(chain, valid)
    weights = np.where(sound, 0.5, 0).astype(chain["emissions"].dtype)
    found = call("log_likelihood_and_gradients", chain, engine, weights=weights)
    exact, rounded = (
        call_reference("log_likelihood_and_gradients", chain, dtype, weights)
        for dtype in ("longdouble", chain["emissions"].dtype)
    )
    scale = largest_score(taken(chain, sound)) if sound.any() else 0
    for result in zip(found[1:], exact[1:], rounded[1:], strict=True):
        assert_as_accurate_as_reference(*result, scale)


@every_engine
@pytest.mark.parametrize("num_tags", (1, 3))
def test_transitions_that_are_nan_reach_no_sequence_that_does_not_use_them(engine, num_tags, rng):
    chain = {
        "emissions": rng.standard_normal((2, 3, num_tags)).astype("float32"),
        "tags": np.zeros((2, 3), int),
        "transitions": np.full((num_tags, num_tags), np.nan, "float32"),
        "lengths": np.array([3, 1]),  # the first uses them, but has no weight
    }
    weights = np.array([0, 0.5], "float32")
    _, *found = call("log_likelihood_and_gradients", chain, engine, weights=weights)
    alone = {name: chain[name][1:] for name in ("emissions", "tags", "lengths")}
    alone["transitions"] = np.zeros_like(chain["transitions"])
    _, *expected = call("log_likelihood_and_gradients", alone, "reference", weights=weights[1:])
    expected[0] = np.concatenate([np.zeros_like(expected[0]), expected[0]])
    for result, of_one in zip(found, expected, strict=True):
        np.testing.assert_allclose(result, of_one, rtol=1e-6, atol=1e-7)


@every_engine
def test_a_weight_that_is_nan_spoils_its_own_sequence(engine, rng):
    emissions = rng.standard_normal((3, 6, 5))
    transitions, tags = rng.standard_normal((5, 5)), rng.integers(0, 5, (3, 6))
    _, gradients = crf.log_likelihood_and_gradients(
        emissions, tags, transitions, weights=np.array([1.0, np.nan, 2.0]), engine=engine
    )
    expect_nan(np.asarray(gradients.emissions), np.array([False, True, False])[:, None, None])
    for shared in gradients[1:]:
        assert np.isnan(shared).all()


@every_engine
def test_one_step_uses_no_transitions(engine):
    chain = {
        "emissions": np.zeros((2, 3, 4)),
        "tags": np.zeros((2, 3), int),
        "transitions": np.full((4, 4), np.nan),
        "lengths": np.array([1, 1]),
        "mask": None,
        "start_transitions": None,
        "end_transitions": None,
    }
    check("log_likelihood_and_gradients", chain, engine)
    check("marginals", chain, engine)
    check("viterbi", chain, engine)


@every_engine
def test_a_path_that_is_forbidden_does_not_hide_it(engine):
    emissions = np.array([[[0.0, -np.inf, 1.0], [np.nan, 0.0, 0.0]]])
    value = crf.log_likelihood(emissions, np.array([[1, 1]]), np.zeros((3, 3)), engine=engine)
    assert np.isnan(value).all()


@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("function", ("log_partition", "log_likelihood", "sequence_score"))
def test_gradients_of_tensors(function, jit_compile):
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    if fastkeras.engines("crf")["tensorflow_native"] != "ready":
        pytest.skip("needs the engine tensorflow_native")
    rng = np.random.default_rng(2)
    emissions = rng.standard_normal((3, 40, 5)).astype("float32")
    transitions = tf.constant(rng.standard_normal((5, 5)), "float32")
    tags = tf.constant(rng.integers(0, 5, (3, 40)), "int32")
    emissions[1, 7, int(tags[1, 7])] = np.nan
    emissions[2, 7] = -np.inf

    @tf.function(jit_compile=jit_compile)
    def gradients(weights):
        x = tf.constant(emissions)
        with tf.GradientTape() as tape:
            tape.watch((x, transitions))
            arguments = (x, transitions) if function == "log_partition" else (x, tags, transitions)
            value = getattr(crf, function)(*arguments, engine="tensorflow_native")
        return value, *tape.gradient(value, (x, transitions), output_gradients=weights)

    value, d_x, d_a = gradients(tf.constant([2.0, 1.0, 1.0]))
    assert np.isfinite(value[0]) and np.isnan(value[1]) and np.isneginf(value[2])
    assert np.isfinite(d_x[0]).all() and np.isnan(d_x[1, 7, tags[1, 7]]) and not np.any(d_x[2])
    assert np.isnan(d_a).any()
    value, d_x, d_a = gradients(tf.constant([2.0, 0.0, 0.0]))
    assert np.isnan(value[1]) and np.isfinite(d_x).all() and np.isfinite(d_a).all()
    assert not np.any(d_x[1:])


@every_engine
@pytest.mark.parametrize("wrong", (np.nan, np.inf))
def test_what_is_made_of_likelihoods_tells_it(engine, wrong):
    x = np.array([[[0.0, 1.0], [wrong, 0.0]], [[0.0, 1.0], [2.0, 0.0]]])
    transitions, tags, q = np.zeros((2, 2)), np.array([[0, 1], [0, 1]]), np.zeros((2, 2, 2))
    every_tag = np.ones((2, 2, 2), bool)
    with np.errstate(invalid="ignore"):
        for value in (
            crf.entropy(x, transitions, engine=engine),
            crf.cross_entropy(x, transitions, q, transitions, engine=engine),
            crf.cross_entropy(q, transitions, x, transitions, engine=engine),
            crf.kl_divergence(q, transitions, x, transitions, engine=engine),
            crf.log_count(x, transitions, engine=engine),
            crf.log_likelihood_of_sets(x, every_tag, transitions, engine=engine),
            crf.smoothed_log_likelihood(x, tags, transitions, label_smoothing=0.1, engine=engine),
            crf.marginal_log_likelihood(x, tags, transitions, engine=engine),
            crf.softmax_margin_loss(x, tags, transitions, engine=engine),
            crf.max_margin_loss(x, tags, transitions, engine=engine),
            crf.expected_cost(x, tags, transitions, num_paths=2, engine=engine),
            crf.posterior_decode(x, transitions, engine=engine)[1][:, 0],
            crf.memm.log_likelihood(x, tags, transitions),
        ):
            np.testing.assert_array_equal(np.isnan(value), [True, False])


@every_engine
@pytest.mark.parametrize("wrong", NOT_NUMBERS)
def test_what_is_made_of_likelihoods_reads_no_other_steps(engine, wrong):
    clean = np.array([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 1.0], [2.0, 0.0]]])
    spoiled = clean.copy()
    spoiled[0, 1, 0] = wrong
    zeros, tags, every_tag = np.zeros((2, 2)), np.zeros((2, 2), int), np.ones((2, 2, 2), bool)

    def results(x):
        more = {"lengths": np.array([1, 2]), "engine": engine}
        return (
            crf.entropy(x, zeros, **more),
            crf.cross_entropy(x, zeros, clean, zeros, **more),
            crf.cross_entropy(clean, zeros, x, zeros, **more),
            crf.kl_divergence(x, zeros, clean, zeros, **more),
            crf.log_count(x, zeros, **more),
            crf.log_likelihood_of_sets(x, every_tag, zeros, **more),
            crf.smoothed_log_likelihood(x, tags, zeros, label_smoothing=0.1, **more),
            crf.posterior_decode(x, zeros, **more)[1][:, 0],
            crf.marginal_log_likelihood(x, tags, zeros, **more),
            crf.softmax_margin_loss(x, tags, zeros, **more),
            crf.max_margin_loss(x, tags, zeros, **more),
            crf.expected_cost(x, tags, zeros, num_paths=2, **more),
        )

    for result, same in zip(results(spoiled), results(clean), strict=True):
        np.testing.assert_array_equal(result, same)


@pytest.mark.parametrize("wrong", (np.nan, np.inf))
def test_a_stream_tells_it_as_a_whole_sequence_does(wrong):
    x = np.zeros((4, 2))
    x[1, 1] = wrong
    stream = crf.ViterbiStream(np.zeros((2, 2)))
    tags, (rest, score) = stream.feed(x), stream.finish()
    assert ((np.concatenate([tags, rest]) >= 0) & (np.concatenate([tags, rest]) < 2)).all()
    np.testing.assert_array_equal(score, crf.viterbi(x[None], np.zeros((2, 2)))[1][0])


@every_engine
def test_labels_that_are_impossible_do_not_hide_it(engine):
    x = np.array([[[0.0, -np.inf], [np.nan, 0.0]], [[0.0, -np.inf], [1.0, 0.0]]])
    tags, zeros = np.array([[1, 1], [1, 1]]), np.zeros((2, 2))
    for value, sign in (
        (crf.marginal_log_likelihood(x, tags, zeros, engine=engine), -1),
        (crf.softmax_margin_loss(x, tags, zeros, engine=engine), 1),
        (crf.max_margin_loss(x, tags, zeros, engine=engine), 1),
        (crf.log_likelihood_of_sets(x, tags[..., None] == [0, 1], zeros, engine=engine), -1),
        (crf.smoothed_log_likelihood(x, tags, zeros, label_smoothing=0.1, engine=engine), -1),
        (crf.memm.log_likelihood(x, tags, zeros), -1),
    ):
        np.testing.assert_array_equal(value, [np.nan, sign * np.inf])


@pytest.mark.parametrize("engine", ("native", "reference", "keras", "tensorflow_native"))
@pytest.mark.parametrize("wrong", (np.nan, np.inf))
def test_likelihoods_with_weights_tell_it(engine, wrong):
    state = fastkeras.engines("crf")[engine]
    if state != "ready":
        pytest.skip(state)
    x = np.array([[[0.0, 1.0], [wrong, 0.0]], [[0.0, 1.0], [2.0, 0.0]]])
    tags, weights = np.array([[0, 1], [0, 1]]), np.array([1.0, 3.0])
    more = {"weights": weights, "engine": engine}
    for value in (
        crf.weighted_log_likelihood(x, tags, np.zeros((2, 2)), **more),
        crf.smoothed_log_likelihood(x, tags, np.zeros((2, 2)), label_smoothing=0.1, **more),
    ):
        np.testing.assert_array_equal(np.isnan(value), [True, False])
