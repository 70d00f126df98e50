"""Maximum-entropy Markov models, compared with their definition over all sequences."""

import numpy as np
import pytest
from hypothesis import given

from enumeration import enumerate_paths
from fastkeras import crf
from fastkeras.crf import memm
from strategies import chains

SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")


def log_softmax(scores):
    """The log-softmax; −inf if all scores are −inf."""
    peak = scores.max()
    return scores if np.isneginf(peak) else scores - peak - np.log(np.exp(scores - peak).sum())


def log_likelihoods(chain, bidirectional):
    """Yield for each sequence all paths and their values, directly from the definition."""
    arguments = {name: value for name, value in chain.items() if name != "tags"}
    transitions = chain["transitions"]
    for b, (steps, paths, _) in enumerate(enumerate_paths(arguments)):
        x = chain["emissions"][b, steps].copy()
        if len(steps) and chain["start_transitions"] is not None:
            x[0] += chain["start_transitions"]
        if len(steps) and chain["end_transitions"] is not None:
            x[-1] += chain["end_transitions"]
        values = np.zeros(len(paths))
        for row, path in enumerate(paths):
            right, left = 0.0, 0.0
            for t, tag in enumerate(path):
                before = 0 if t == 0 else transitions[path[t - 1]]
                after = 0 if t == len(path) - 1 else transitions[:, path[t + 1]]
                right += log_softmax(x[t] + before)[tag]
                left += log_softmax(x[t] + after)[tag]
            values[row] = (right + left) / 2 if bidirectional else right
        yield b, steps, paths, values


small_chains = chains(dtype="float64", num_tags=(1, 3), max_steps=4, scales=(0.1, 1.0, 30.0))


@pytest.mark.parametrize("bidirectional", (True, False))
@given(chain=small_chains)
def test_every_function_is_that_of_the_definition(bidirectional, chain):
    arguments = {name: value for name, value in chain.items() if name != "tags"}
    likelihood = memm.log_likelihood(**chain, bidirectional=bidirectional)
    tags, best = memm.viterbi(**arguments, bidirectional=bidirectional, engine="reference")
    x = memm.locally_normalized(**arguments, bidirectional=bidirectional)
    assert likelihood.dtype == x.dtype == np.float64 and x.shape == chain["emissions"].shape
    for b, steps, paths, values in log_likelihoods(chain, bidirectional):
        gold = np.flatnonzero((paths == chain["tags"][b, steps]).all(axis=1))[0]
        near = {"rtol": 1e-11, "atol": 1e-11}
        np.testing.assert_allclose(likelihood[b], values[gold], **near)
        if np.isneginf(values.max()):  # no sequence has a probability above 0
            assert best[b] == -np.inf
            continue
        np.testing.assert_allclose(best[b], values.max(), **near)
        found = np.flatnonzero((paths == tags[b, steps]).all(axis=1))[0]
        np.testing.assert_allclose(values[found], values.max(), **near)
        for path, value in zip(paths, values, strict=True):
            tags_of_path = np.zeros_like(tags[b])
            tags_of_path[steps] = path
            one = {**arguments, "emissions": x[b : b + 1]}
            for name in ("lengths", "mask"):
                one[name] = None if one[name] is None else one[name][b : b + 1]
            score = crf.sequence_score(**one, tags=tags_of_path[None], engine="reference")
            np.testing.assert_allclose(score[0], value, **near)


@given(chain=chains(dtype="float64", num_tags=(1, 2, 5), max_steps=6, forbidden=(None, -1e4)))
def test_from_left_to_right_it_is_a_distribution_and_of_both_a_mean(chain):
    del chain["tags"]
    log_z = []
    for bidirectional in (False, True):
        x = memm.locally_normalized(**chain, bidirectional=bidirectional)
        log_z.append(crf.log_partition(**{**chain, "emissions": x}, engine="reference"))
    np.testing.assert_allclose(log_z[0], 0, atol=1e-8)
    assert (log_z[1] < 1e-8).all()  # by the Cauchy-Schwarz inequality


def random_chain(rng, dtype="float64"):
    chain = {
        "emissions": rng.standard_normal((3, 6, 4)),
        "tags": rng.integers(0, 4, (3, 6)),
        "transitions": rng.standard_normal((4, 4)),
        "mask": np.array([[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool),
        "start_transitions": rng.standard_normal(4),
        "end_transitions": rng.standard_normal(4),
    }
    return {n: a.astype(dtype) if a.dtype == np.float64 else a for n, a in chain.items()}


@pytest.mark.parametrize("bidirectional", (True, False))
@pytest.mark.parametrize("low_rank", (True, False))
def test_the_tape_gives_the_differences_of_the_values(low_rank, bidirectional, rng):
    tf = pytest.importorskip("tensorflow", reason="the tape is TensorFlow's")
    chain, weights = random_chain(rng), np.array([1.0, -2.0, 3.0])
    scores = {name: chain.pop(name) for name in SCORES}
    if low_rank:
        del scores["transitions"]
        scores["left"], scores["right"] = rng.standard_normal((2, 4, 2))

    def value(scores):
        scores = dict(scores)
        if low_rank:
            scores["transitions"] = crf.LowRank(scores.pop("left"), scores.pop("right"))
        return memm.log_likelihood(**scores, **chain, bidirectional=bidirectional)

    tensors = {name: tf.constant(score) for name, score in scores.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        total = tf.reduce_sum(value(tensors) * weights)
    np.testing.assert_allclose(total, (value(scores) * weights).sum(), rtol=1e-12)
    gradients = tape.gradient(total, tensors)
    step = 1e-3
    for name, score in scores.items():
        gradient = tf.convert_to_tensor(gradients[name]).numpy()
        direction = rng.standard_normal(score.shape)
        values = [
            (value({**scores, name: score + k * step * direction}) * weights).sum()
            for k in (-2, -1, 1, 2)
        ]
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        np.testing.assert_allclose((gradient * direction).sum(), numeric, rtol=1e-8, atol=1e-9)


def test_factors_of_low_rank_are_their_product(rng):
    chain, (left, right) = random_chain(rng), rng.standard_normal((2, 4, 2))
    factors, product = (
        {**chain, "transitions": a} for a in (crf.LowRank(left, right), left @ right.T)
    )
    results = memm.log_likelihood(**factors), memm.log_likelihood(**product)
    np.testing.assert_allclose(*results, rtol=1e-12)
    del factors["tags"], product["tags"]
    results = memm.viterbi(**factors)[1], memm.viterbi(**product)[1]
    np.testing.assert_allclose(*results, rtol=1e-12)


@pytest.mark.parametrize("far", (False, True))
@pytest.mark.parametrize("jit_compile", (False, True))
def test_graphs_and_xla_agree_with_arrays(far, jit_compile, rng):
    tf = pytest.importorskip("tensorflow", reason="graphs are TensorFlow's")
    chain = random_chain(rng)
    if far:  # too far apart for the domain of products
        chain["transitions"][1, :2] = -np.inf, -1e4
        chain["tags"][:] = 3
    names = list(chain)

    @tf.function(jit_compile=jit_compile)
    def both(*tensors):
        given = dict(zip(names, tensors, strict=True))
        tags = given.pop("tags")
        return (
            memm.log_likelihood(tags=tags, **given),
            memm.locally_normalized(**given),
            *memm.viterbi(**given),
        )

    likelihood, x, tags, score = both(*(tf.constant(a) for a in chain.values()))
    np.testing.assert_allclose(likelihood, memm.log_likelihood(**chain), rtol=1e-11, atol=1e-12)
    del chain["tags"]
    mask = chain["mask"]
    normalized = memm.locally_normalized(**chain)
    np.testing.assert_allclose(x.numpy()[mask], normalized[mask], rtol=1e-11, atol=1e-12)
    expected_tags, expected = memm.viterbi(**chain)
    np.testing.assert_array_equal(tags, expected_tags)
    np.testing.assert_allclose(score, expected, rtol=1e-11, atol=1e-12)


def test_what_is_impossible_has_no_gradient(rng):
    tf = pytest.importorskip("tensorflow", reason="the tape is TensorFlow's")
    chain = random_chain(rng)
    chain["tags"][:], chain["transitions"][2, 2] = 2, -np.inf
    tensors = {name: tf.constant(chain[name]) for name in SCORES}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = memm.log_likelihood(**{**chain, **tensors})
    np.testing.assert_array_equal(value, [-np.inf, -np.inf, 0])
    for gradient in tape.gradient(value, tensors).values():
        np.testing.assert_array_equal(tf.convert_to_tensor(gradient), 0)


def test_bad_arguments_raise(rng):
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    chain = random_chain(rng)
    chain["tags"][1, 2] = 4
    message = r"^tags must be in 0\.\.3 at valid steps, got 4 at \[1, 2\]"
    with pytest.raises(ValueError, match=message):
        memm.log_likelihood(**chain)
    tensors = {name: tf.constant(value) for name, value in chain.items()}
    with pytest.raises(ValueError, match=message):
        memm.log_likelihood(**tensors)
    graph = tf.function(
        lambda: memm.log_likelihood(**{n: t + 0 if n == "tags" else t for n, t in tensors.items()})
    )
    np.testing.assert_array_equal(np.isnan(graph()), [False, True, False])
    with pytest.raises(
        ValueError, match=r"^tags must be integers of shape \(batch, steps\), got None"
    ):
        memm.log_likelihood(**{**chain, "tags": None})
    with pytest.raises(ValueError, match=r"^transitions must have shape \(num_tags, num_tags\)"):
        memm.viterbi(np.zeros((1, 2, 3)), np.zeros((2, 2)))


@pytest.mark.parametrize("shape", ((0, 3, 2), (2, 0, 2)))
def test_an_empty_batch_or_no_steps_works(shape):
    value = memm.log_likelihood(np.zeros(shape), np.zeros(shape[:2], int), np.zeros((2, 2)))
    np.testing.assert_array_equal(value, np.zeros(shape[0]))
    assert memm.viterbi(np.zeros(shape), np.full((2, 2), -np.inf))[0].shape == shape[:2]
