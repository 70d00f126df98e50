"""Marginals, margins and expected costs against all tag sequences, one by one, by every engine."""

import numpy as np
import pytest

from enumeration import enumerate_paths, probabilities
from fastkeras import crf

BATCH, STEPS, NUM_TAGS = 4, 4, 3


def chain_drawn(rng, hard):
    """A masked first step, a hole, an empty sequence; with `hard` some forbidden transitions."""
    mask = np.ones((BATCH, STEPS), bool)
    mask[0, [0, 2]] = mask[1] = mask[2, 3:] = False
    transitions = rng.standard_normal((NUM_TAGS, NUM_TAGS))
    if hard:
        transitions[0, 1] = transitions[2, 2] = -np.inf
    return {
        "emissions": 2 * rng.standard_normal((BATCH, STEPS, NUM_TAGS)),
        "tags": np.where(mask, rng.integers(0, NUM_TAGS, mask.shape), -100),
        "transitions": transitions,
        "lengths": None,
        "mask": mask,
        "start_transitions": rng.standard_normal(NUM_TAGS),
        "end_transitions": None,
    }


def enumerated(chain):
    """For each sequence: its tags, all paths, their scores, and the score of the tags."""
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        tags = chain["tags"][b, steps]
        yield tags, paths, scores, scores[(paths == tags).all(axis=1)][0]


def log_sum(scores):
    return probabilities(scores)[0]


def check(found, expected):
    expected = np.array(expected, float)
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(np.asarray(found)[finite], expected[finite], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("hard", (False, True))
def test_marginal_log_likelihood(engine, hard, rng):
    chain = chain_drawn(rng, hard)
    expected = []
    for tags, paths, scores, _ in enumerated(chain):
        p = probabilities(scores)[1]
        with np.errstate(divide="ignore"):
            of_steps = [np.log(p[paths[:, t] == tags[t]].sum()) for t in range(len(tags))]
        expected.append(sum(of_steps))
    check(crf.marginal_log_likelihood(**chain, engine=engine), expected)


COSTS = (1.5, np.array([[0.0, 2.0, 1.0], [0.5, 0.0, 3.0], [1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("costs", COSTS, ids=("number", "matrix"))
@pytest.mark.parametrize("hard", (False, True))
def test_margins(engine, hard, costs, rng):
    chain = chain_drawn(rng, hard)
    matrix = costs if isinstance(costs, np.ndarray) else costs * (1 - np.eye(NUM_TAGS))
    soft, hinge = [], []
    for tags, paths, scores, right in enumerated(chain):
        augmented = scores + matrix[tags, paths].sum(axis=1)
        soft.append(log_sum(augmented) - right)
        hinge.append(augmented.max() - right)
    check(crf.softmax_margin_loss(**chain, costs=costs, engine=engine), soft)
    check(crf.max_margin_loss(**chain, costs=costs, engine=engine), hinge)


@pytest.mark.parametrize("num_paths", (2, 100))
@pytest.mark.parametrize("hard", (False, True))
def test_expected_cost(engine, hard, num_paths, rng):
    chain = chain_drawn(rng, hard)

    def whole(tags, paths, valid):
        """A cost that is no sum over steps."""
        return 1.0 * np.any((np.asarray(tags) != np.asarray(paths)) & np.asarray(valid), axis=-1)

    shares, wholes = [], []
    for tags, paths, scores, _ in enumerated(chain):
        best = np.argsort(-scores)[:num_paths]
        p = probabilities(scores[best])[1]
        wrong = paths[best] != tags
        shares.append((p * wrong.mean(axis=1)).sum() if len(tags) else 0)
        wholes.append((p * wrong.any(axis=1)).sum())
    # costs are in float32 where tensors compute them
    found = crf.expected_cost(**chain, num_paths=num_paths, engine=engine)
    np.testing.assert_allclose(np.asarray(found), np.array(shares, float), rtol=1e-6, atol=1e-12)
    check(crf.expected_cost(**chain, num_paths=num_paths, cost=whole, engine=engine), wholes)


def test_long_sequences_keep_the_margin():
    emissions = np.zeros((1, 20_000, 2), "float32")
    emissions[..., 0] = 7.3
    tags = np.zeros((1, 20_000), int)
    none = crf.max_margin_loss(emissions, tags, np.zeros((2, 2), "float32"), costs=1.0)
    np.testing.assert_array_equal(none, 0)
    tags[0, 9] = 1
    one = crf.max_margin_loss(emissions, tags, np.zeros((2, 2), "float32"), costs=0)
    np.testing.assert_allclose(one, 7.3, atol=0.02)  # 146,000 has 2 digits after the point


def test_no_marginal_likelihood_is_above_0(engine, rng):
    steps = 100 if engine == "reference" else 2000
    tags = rng.integers(0, 5, (6, steps))
    emissions = (30 * np.eye(5)[tags] + rng.random((6, steps, 5))).astype("float32")
    transitions = rng.standard_normal((5, 5)).astype("float32")
    found = crf.marginal_log_likelihood(emissions, tags, transitions, engine=engine)
    assert found.dtype == np.float32
    assert ((found <= 0) & (found > -0.1)).all()  # p is 1 but for rounding


OBJECTIVES = {
    "marginal": crf.marginal_log_likelihood,
    "softmax_margin": crf.softmax_margin_loss,
    "max_margin": crf.max_margin_loss,
    "risk": crf.expected_cost,
}


@pytest.mark.parametrize("name", ("tensorflow_native", "keras"))
@pytest.mark.parametrize("mode", OBJECTIVES)
def test_tags_of_tensors_that_are_out_of_range(mode, name, rng):
    tf = pytest.importorskip("tensorflow", reason="the tensors are TensorFlow's")
    chain = {key: value for key, value in chain_drawn(rng, False).items() if value is not None}
    tensors = {key: tf.constant(value) for key, value in chain.items()}
    clean = OBJECTIVES[mode](**tensors, engine=name)  # at masked steps they may be anything
    assert np.isfinite(clean).all()
    for wrong in (NUM_TAGS, -1):
        tags = chain["tags"].copy()
        tags[3, 1] = wrong
        tensors["tags"] = tf.constant(tags)
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match=r"must be in 0\.\.2"
        ):
            OBJECTIVES[mode](**tensors, engine=name)
    if name == "keras":  # whose graphs cannot raise
        in_a_graph = tf.function(OBJECTIVES[mode])(**tensors, engine=name)
        np.testing.assert_array_equal(np.isnan(in_a_graph), [False, False, False, True])
        np.testing.assert_allclose(in_a_graph[:3], clean[:3], rtol=1e-6)


def test_wrong_arguments(rng):
    chain = chain_drawn(rng, False)
    for function in (crf.softmax_margin_loss, crf.max_margin_loss):
        with pytest.raises(ValueError, match="costs=-1 must be a finite number of at least 0"):
            function(**chain, costs=-1)
        with pytest.raises(ValueError, match=r"\(num_tags, num_tags\) = \(3, 3\), got \(2,\)"):
            function(**chain, costs=np.ones(2))
    for wrong in (1, True, 2.0):
        with pytest.raises(ValueError, match=f"num_paths={wrong} must be an integer"):
            crf.expected_cost(**chain, num_paths=wrong)
    with pytest.raises(ValueError, match=r"tags must be in 0\.\.2"):
        crf.max_margin_loss(**{**chain, "tags": np.full((BATCH, STEPS), 3)})
