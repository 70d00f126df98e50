"""Functions derived from the CRF's engines, on JAX or torch, against the same on NumPy arrays.

Run by `make test-backends`, like its neighbours.
"""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import crf

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCORES = ("emissions", "transitions", "start_transitions", "end_transitions")


def chain(rng, hard):
    """Return a batch with a masked first step, a hole, an empty sequence, perhaps constraints."""
    arrays = {
        "emissions": rng.normal(size=(4, 6, 3)),
        "transitions": rng.normal(size=(3, 3)),
        "start_transitions": rng.normal(size=3),
        "end_transitions": rng.normal(size=3),
    }
    mask = np.ones((4, 6), bool)
    mask[0, [0, 2, 5]] = mask[1] = False
    if hard:
        rules = crf.constraints.allowed("BIO", ["O", "B", "I"])
        arrays |= rules.apply(*(arrays[name] for name in SCORES[1:]))
    return {**{n: a.astype("float32") for n, a in arrays.items()}, "mask": mask}


def both(function, arguments, **options):
    """Return the results of the function on NumPy arrays and on tensors."""
    on_numpy = keras.tree.flatten(function(**arguments, **options, engine="reference"))
    tensors = {name: ops.convert_to_tensor(value) for name, value in arguments.items()}
    on_tensors = keras.tree.flatten(function(**tensors, **options))
    assert all(ops.is_tensor(tensor) for tensor in on_tensors)
    arrays = [np.asarray(ops.convert_to_numpy(tensor)) for tensor in on_tensors]
    return zip(arrays, on_numpy, strict=True)


@pytest.mark.parametrize("hard", (False, True))
def test_tensors_give_what_arrays_give(hard, rng):
    given, other = chain(rng, hard), chain(rng, hard)
    allowed = rng.random((4, 6, 3)) < 0.8
    allowed[..., 0] = True
    pairs = {**given, **{f"other_{name}": other[name] for name in SCORES}}
    labelled = {**given, "tags": np.where(given["mask"], 0, -100), "weights": np.arange(1.0, 4.0)}
    results = [
        *both(crf.log_likelihood_of_sets, {**given, "allowed": allowed}),
        *both(crf.entropy, given),
        *both(crf.log_count, given),
        *both(crf.cross_entropy, pairs),
        *both(crf.kl_divergence, pairs),
        *both(crf.k_best, given, k=5),
        *both(crf.weighted_log_likelihood, labelled),
        *both(crf.smoothed_log_likelihood, labelled, label_smoothing=0.1),
    ]
    for result, expected in results:
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hard", (False, True))
def test_samples_have_the_marginals(hard, rng):
    given = chain(rng, hard)
    tensors = {name: ops.convert_to_tensor(value) for name, value in given.items()}
    first, again = (
        np.asarray(ops.convert_to_numpy(crf.sample(**tensors, num_samples=4000, seed=3)))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    frequency = (first[..., None] == np.arange(3)).mean(axis=0) * given["mask"][..., None]
    np.testing.assert_allclose(frequency, crf.marginals(**given)[0], rtol=0, atol=0.04)


def test_constraints_of_tensors(rng):
    emissions = ops.convert_to_tensor(rng.normal(size=(2, 3, 3)).astype("float32"))
    bitmap = crf.constraints.bitmap_of_tags(ops.convert_to_tensor([[0, -100, 2]] * 2), 3)
    restricted = ops.convert_to_numpy(crf.constraints.restrict(emissions, bitmap))
    assert restricted.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(restricted).sum(axis=-1), [[1, 3, 1]] * 2)


def test_semi_markov_chains(rng):
    shapes = {"emissions": (3, 7, 3), "transitions": (3, 3), "durations": (4, 3)}
    given = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
    given["lengths"] = np.array([7, 3, 0], "int32")
    given["transitions"][1, 1] = -np.inf
    for function in ("log_partition", "marginals", "viterbi"):
        function = getattr(crf.semi_markov, function)
        tensors = {name: ops.convert_to_tensor(value) for name, value in given.items()}
        results = keras.tree.flatten(function(**tensors))
        for result, expected in zip(results, keras.tree.flatten(function(**given)), strict=True):
            result = np.asarray(ops.convert_to_numpy(result))
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_a_seed_generator_draws_in_the_dtype_of_the_emissions(rng):
    scores = rng.normal(size=(1, 4, 3)), rng.normal(size=(3, 3))  # float64, but on JAX
    tensors = [ops.convert_to_tensor(array) for array in scores]
    drawn = crf.sample(*tensors, num_samples=2000, seed=keras.random.SeedGenerator(0))
    frequencies = (np.asarray(drawn)[..., None] == np.arange(3)).mean(axis=0)
    np.testing.assert_allclose(frequencies, crf.marginals(*scores)[0], rtol=0, atol=0.06)
