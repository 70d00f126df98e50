"""Gradients that compute the recursions twice, compared with gradients that keep their rows."""

import numpy as np
import pytest

from calls import call_reference
from fastkeras import crf

tf = pytest.importorskip("tensorflow")

NUM_STEPS = (1, 2, 3, 4, 7, 10, 16)
KINDS = ("soft", "hard", "varying", "hard and varying")


def random_chain(rng, steps, kind):
    """Return (scores by name, tags, mask), with holes, a sequence without steps, possible tags."""
    shape = (3, steps - 1, 4, 4) if "varying" in kind else (4, 4)
    scores = {
        "emissions": rng.standard_normal((3, steps, 4)),
        "transitions": rng.standard_normal(shape),
        "start_transitions": rng.standard_normal(4),
        "end_transitions": rng.standard_normal(4),
    }
    if "hard" in kind:  # even at one step only, since all pieces have to use the same domain
        index = (0, 0) if "varying" in kind and steps > 1 else ()
        if shape[1] > 0:
            scores["transitions"][(*index, 0, slice(1, 3))] = -np.inf, -1e4
    mask = rng.random((3, steps)) < 0.8
    mask[0], mask[1] = True, False
    return scores, np.full((3, steps), 3), mask


def value_and_gradients(scores, tags, mask, checkpoint):
    scores = {name: tf.convert_to_tensor(score) for name, score in scores.items()}
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = crf.log_likelihood(
            tags=tags, mask=mask, **scores, checkpoint=checkpoint, engine="keras"
        )
        total = tf.reduce_sum(value * tf.constant([1.0, 3.0, -2.0], value.dtype))
    return value, *tape.gradient(total, scores).values()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", NUM_STEPS)
def test_the_gradients_are_the_same(steps, kind, rng):
    scores, tags, mask = random_chain(rng, steps, kind)
    results = value_and_gradients(scores, tags, mask, True)
    chain = {**scores, "tags": tags, "mask": mask}
    exact = crf.log_likelihood_and_gradients(
        **chain, weights=np.array([1.0, 3.0, -2.0]), engine="reference"
    )
    for result, truth in zip(results, tf.nest.flatten(exact), strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mode", ("graph", "xla", "unknown steps"))
@pytest.mark.parametrize("kind", KINDS)
def test_graphs(kind, mode, rng):
    scores, tags, mask = random_chain(rng, 11, kind)
    names = list(scores)

    def gradients(tags, mask, *tensors):
        return value_and_gradients(dict(zip(names, tensors, strict=True)), tags, mask, True)

    arrays = [tf.constant(a) for a in (tags, mask, *scores.values())]
    signature = None
    if mode == "unknown steps":
        unknown = {0: 2, 1: 2, 2: 2, 3: len(arrays[3].shape) - 2}  # number of leading dimensions
        signature = [
            tf.TensorSpec([None] * unknown.get(i, 0) + a.shape[unknown.get(i, 0) :], a.dtype)
            for i, a in enumerate(arrays)
        ]
    compiled = tf.function(gradients, jit_compile=mode == "xla", input_signature=signature)
    expected = value_and_gradients(scores, tags, mask, False)
    for result, truth in zip(compiled(*arrays), expected, strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-11, atol=1e-12)


def test_log_partition_and_its_gradient_are_the_marginals(rng):
    scores, _, mask = random_chain(rng, 9, "soft")
    tensors = {name: tf.constant(score) for name, score in scores.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        log_z = crf.log_partition(**tensors, mask=mask, checkpoint=True, engine="keras")
    gradients = tape.gradient(log_z, tensors)
    unary, counts = crf.marginals(**scores, mask=mask, engine="reference")
    np.testing.assert_allclose(log_z, crf.log_partition(**scores, mask=mask), rtol=1e-12)
    np.testing.assert_allclose(gradients["emissions"], unary, atol=1e-12)
    np.testing.assert_allclose(gradients["transitions"], counts.sum(axis=0), atol=1e-11)


def test_second_derivatives_are_there_on_tensorflow(rng):
    scores, tags, mask = random_chain(rng, 6, "soft")
    transitions = tf.constant(scores["transitions"])
    directions = tf.constant(rng.standard_normal((4, 4)))
    hessians = []
    for checkpoint in (False, True):
        with tf.GradientTape() as tape:
            tape.watch(transitions)
            chain = {**scores, "transitions": transitions}
            first = value_and_gradients(chain, tags, mask, checkpoint)[2]
            value = tf.reduce_sum(first * directions)
        hessians.append(tape.gradient(value, transitions).numpy())
    assert np.abs(hessians[0]).max() > 0.1
    np.testing.assert_allclose(*hessians, rtol=1e-10, atol=1e-12)


def test_float32_over_many_steps(rng):
    steps = 2000
    scores, tags, mask = random_chain(rng, steps, "soft")
    singles = {name: score.astype("float32") for name, score in scores.items()}
    value, d_emissions, *_ = value_and_gradients(singles, tags, mask, True)
    chain = {**singles, "tags": tags, "lengths": None, "mask": mask}
    weights = np.array([1.0, 3.0, -2.0])
    exact = call_reference("log_likelihood_and_gradients", chain, "float64", weights)
    np.testing.assert_allclose(value, exact[0], rtol=1e-6)
    np.testing.assert_allclose(d_emissions, exact[1], rtol=0, atol=3e-6)


@pytest.mark.parametrize("name", ("native", "numba", "reference", None))
def test_engines_that_keep_little_take_the_argument(name, rng):
    from fastkeras import engines

    if name is not None and engines("crf")[name] != "ready":
        pytest.skip(engines("crf")[name])
    scores, _, mask = random_chain(rng, 5, "soft")
    results = [
        crf.log_partition(**scores, mask=mask, checkpoint=checkpoint, engine=name)
        for checkpoint in (False, True)
    ]
    np.testing.assert_array_equal(*results)
