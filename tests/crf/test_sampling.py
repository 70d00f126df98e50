"""Samples and the k best sequences: by enumeration, frequencies, in every engine; bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkeras
from calls import call, call_reference, largest_score
from enumeration import enumerate_paths, probabilities
from fastkeras import crf
from fastkeras.crf._engines import reference
from fastkeras.crf.arguments import chain_of
from strategies import chains, is_valid

SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")
NUM_SAMPLES = 4000


def without_tags(chain):
    return {name: value for name, value in chain.items() if name != "tags"}


def integer_scores(chain):
    """Round to few whole numbers, so that many sequences have exactly the same score."""
    rounded = {}
    for name in SCORES:
        if chain[name] is not None:
            finite = np.isfinite(chain[name])
            rounded[name] = np.where(
                finite, np.round(np.where(finite, chain[name], 0)) % 3, -np.inf
            )
            rounded[name] = rounded[name].astype(chain[name].dtype)
    return {**chain, **rounded}


@given(
    chain=chains(
        num_tags=(1, 2, 3), max_steps=4, scales=(1.0, 30.0), forbidden=(None, -np.inf)
    ).map(integer_scores),
    k=st.sampled_from((1, 2, 3, 7, 100)),
)
def test_the_k_best_are_those_of_the_enumeration_ties_included(engine, chain, k):
    tags, scores = map(np.asarray, crf.k_best(k=k, **without_tags(chain), engine=engine))
    batch, steps = chain["tags"].shape
    assert tags.shape == (batch, k, steps) and tags.dtype == np.int32
    assert scores.dtype == chain["emissions"].dtype
    for b, (valid, paths, all_scores) in enumerate(enumerate_paths(chain)):
        possible = np.isfinite(all_scores)
        paths, all_scores = paths[possible], all_scores[possible]
        keys = (*paths.T, -all_scores)  # the last key is the most significant
        order = np.lexsort(keys)[:k]
        expected_tags = np.zeros((k, steps), int)
        expected_tags[: len(order), valid] = paths[order]
        expected_scores = np.full(k, -np.inf)
        expected_scores[: len(order)] = all_scores[order]
        np.testing.assert_array_equal(scores[b], expected_scores)
        np.testing.assert_array_equal(tags[b], expected_tags)


@given(chain=chains())
def test_the_k_best_have_the_scores_they_claim_and_the_first_is_the_best(engine, chain):
    k = 4
    tags, scores = map(np.asarray, crf.k_best(k=k, **without_tags(chain), engine=engine))
    assert not np.isnan(scores).any()
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    best = call("viterbi", chain, engine)[1]
    ulp = np.spacing(max(1, largest_score(chain)) * chain["tags"].shape[1], dtype=scores.dtype)
    np.testing.assert_allclose(scores[:, 0], best, rtol=0, atol=8 * ulp)
    for rank in range(k):
        found = np.isfinite(scores[:, rank])
        own = call_reference("sequence_score", {**chain, "tags": tags[:, rank]}, "longdouble")[0]
        empty = ~is_valid(chain["lengths"], chain["mask"], *chain["tags"].shape).any(axis=1)
        assert np.isfinite(own[found]).all() and (tags[~found, rank] == 0).all()
        tolerance = 8 * ulp + 1e-6 * np.abs(own[found])
        assert (np.abs(own[found] - scores[found, rank]) <= tolerance).all()
        assert not (empty & found).any() or rank == 0
    for b in range(len(tags)):
        rows = tags[b, np.isfinite(scores[b])]
        assert len(np.unique(rows, axis=0)) == len(rows)


@pytest.mark.parametrize("hard", (False, True))
def test_samples_have_the_frequencies_of_the_distribution(engine, hard, rng):
    chain = {
        "emissions": rng.standard_normal((3, 4, 3)),
        "transitions": rng.standard_normal((3, 3)),
        "start_transitions": rng.standard_normal(3),
        "end_transitions": rng.standard_normal(3),
        "mask": np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], bool),
        "lengths": None,
    }
    if hard:
        chain["transitions"][0, 1:] = -np.inf
        chain["end_transitions"][2] = -np.inf
    tags = np.asarray(crf.sample(**chain, num_samples=NUM_SAMPLES, seed=1, engine=engine))
    assert tags.shape == (NUM_SAMPLES, 3, 4) and tags.dtype == np.int32
    assert (tags[:, ~chain["mask"]] == 0).all()
    for b, (steps, paths, scores) in enumerate(enumerate_paths(chain)):
        _, p = probabilities(scores)
        hits = (tags[:, b, steps][:, None] == paths).all(axis=2).sum(axis=0)
        assert hits.sum() == NUM_SAMPLES
        assert (hits[p == 0] == 0).all()
        deviation = np.sqrt(NUM_SAMPLES * p * (1 - p))
        assert (np.abs(hits - NUM_SAMPLES * p) <= 5 * deviation + 2).all()  # + 2 for rare ones


@given(
    chain=chains(dtype="float64"),
    num_samples=st.sampled_from((3, 17)),
    seed=st.integers(0, 2**32 - 1),
)
def test_engines_draw_the_tags_of_the_reference(engine, chain, num_samples, seed):
    arguments = {**without_tags(chain), "num_samples": num_samples, "seed": seed}
    tags = np.asarray(crf.sample(**arguments, engine=engine))
    uniforms = np.random.default_rng(seed).random((num_samples, *chain["emissions"].shape[:2]))
    checked = chain_of(**without_tags(chain))
    np.testing.assert_array_equal(tags, reference.sample(checked, uniforms))
    np.testing.assert_array_equal(tags, crf.sample(**arguments, engine=engine))
    (log_z,) = call("log_partition", chain, "reference")
    possible = np.isfinite(log_z)
    for drawn in tags:
        score = call("sequence_score", {**chain, "tags": drawn}, "reference")[0]
        assert np.isfinite(score[possible]).all()
        assert (drawn[~possible] == 0).all()


@pytest.mark.parametrize("name", ("portable", "avx2"))
@pytest.mark.parametrize("num_tags", (3, 9, 40))
def test_every_instruction_set_finds_the_same_paths(name, num_tags, rng):
    if fastkeras.engines("crf")["native"] != "ready":
        pytest.skip(fastkeras.engines("crf")["native"])
    from fastkeras import _core

    x = rng.standard_normal((5, 70, num_tags))
    chain = {"emissions": x, "transitions": rng.standard_normal((num_tags, num_tags))}
    chain |= {"lengths": np.array([70, 33, 1, 0, 64]), "engine": "native"}

    def paths():
        samples = [crf.sample(**chain, num_samples=n, seed=0) for n in (2, 20)]
        return [crf.k_best(**chain, k=6)[0], *samples]

    widest, before = paths(), _core.instruction_set()
    try:
        _core.set_instruction_set(name)
        for found, expected in zip(paths(), widest, strict=True):
            np.testing.assert_array_equal(found, expected)
    except ValueError as error:
        pytest.skip(str(error))
    finally:
        _core.set_instruction_set(before)


@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_a_path_behind_by_more_than_underflow_is_drawn(engine, dtype):
    x = np.array([[[0, -2000], [-2000, 0]]], dtype)
    transitions = np.array([[0, -np.inf], [-np.inf, 0]], dtype)
    tags = np.asarray(crf.sample(x, transitions, num_samples=200, seed=0, engine=engine))
    assert (tags[..., 0] == tags[..., 1]).all()
    assert 50 < tags[..., 0].sum() < 150


@pytest.mark.parametrize("shape", ((0, 3, 4), (2, 0, 4)))
def test_of_nothing_there_is_one_path(engine, shape):
    chain = {"emissions": np.zeros(shape), "transitions": np.zeros((4, 4)), "engine": engine}
    assert np.asarray(crf.sample(**chain, num_samples=5)).shape == (5, *shape[:2])
    tags, scores = map(np.asarray, crf.k_best(**chain, k=2))
    assert tags.shape == (shape[0], 2, shape[1])
    np.testing.assert_array_equal(scores, np.tile([0, -np.inf], (shape[0], 1)))


@pytest.mark.parametrize("jit_compile", (False, True))
def test_in_graphs_of_unknown_shape(jit_compile, rng):
    tf = pytest.importorskip("tensorflow")
    import keras

    x, transitions = rng.standard_normal((2, 5, 3)), rng.standard_normal((3, 3))
    seed = keras.random.SeedGenerator(0)

    @tf.function(
        jit_compile=jit_compile, input_signature=[tf.TensorSpec((None, None, 3), "float64")]
    )
    def both(x):
        return crf.k_best(x, transitions, 3), crf.sample(x, transitions, num_samples=50, seed=seed)

    (tags, scores), samples = both(x)
    for result, expected in zip((tags, scores), crf.k_best(x, transitions, 3), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert samples.shape == (50, 2, 5)
    assert (samples.numpy() != both(x)[1].numpy()).any()  # the generator has advanced


def test_bad_numbers_raise(engine):
    chain = {"emissions": np.zeros((2, 3, 4)), "transitions": np.zeros((4, 4)), "engine": engine}
    with pytest.raises(ValueError, match=r"^num_samples=0 must be an integer of at least 1"):
        crf.sample(**chain, num_samples=0)
    for k in (0, 2.0, True, None):
        with pytest.raises(ValueError, match=f"^k={k!r} must be an integer of at least 1"):
            crf.k_best(**chain, k=k)
