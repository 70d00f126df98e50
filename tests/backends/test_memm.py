"""Maximum-entropy Markov models on JAX or torch, against the same on NumPy arrays.

Run by `make test-backends`, like its neighbours.
"""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import crf
from fastkeras.crf import memm
from fastkeras.layers import MEMM

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_chain(rng, far):
    chain = {
        "emissions": rng.normal(size=(3, 6, 4)).astype("float32"),
        "transitions": rng.normal(size=(4, 4)).astype("float32"),
        "mask": np.array([[0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool),
    }
    if far:
        chain["transitions"][1, :2] = -np.inf, -1e4
    return chain


@pytest.mark.parametrize("far", (False, True))
@pytest.mark.parametrize("bidirectional", (False, True))
def test_tensors_give_what_arrays_give(bidirectional, far, rng):
    chain, tags = random_chain(rng, far), np.full((3, 6), 2)
    tensors = {name: ops.convert_to_tensor(value) for name, value in chain.items()}
    results = (
        memm.log_likelihood(
            tags=ops.convert_to_tensor(tags), **tensors, bidirectional=bidirectional
        ),
        *memm.viterbi(**tensors, bidirectional=bidirectional),
    )
    expected = (
        memm.log_likelihood(tags=tags, **chain, bidirectional=bidirectional),
        *memm.viterbi(**chain, bidirectional=bidirectional),
    )
    for result, exact in zip(results, expected, strict=True):
        assert ops.is_tensor(result)
        np.testing.assert_allclose(ops.convert_to_numpy(result), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", (None, 2))
def test_the_layer_learns_and_decodes(rank, rng, tmp_path):
    keras.utils.set_random_seed(0)
    words = rng.integers(1, 10, (32, 6)).astype("int32")
    words[np.arange(6) >= rng.integers(2, 7, 32)[:, None]] = 0
    tags = np.where(np.roll(words, 1, axis=1) > 5, 0, words % 3)
    layer = MEMM(3, use_kernel=True, transition_rank=rank)
    model = keras.Sequential([keras.layers.Embedding(10, 8, mask_zero=True), layer])
    model.compile(keras.optimizers.Adam(0.05), layer.loss, metrics=[layer.accuracy])
    history = model.fit(words, tags, epochs=8, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]

    scores = ("transitions", "start_transitions", "end_transitions")
    chain = {name: np.asarray(ops.convert_to_numpy(getattr(layer, name))) for name in scores}
    chain |= {"emissions": model.predict(words, verbose=0), "mask": words > 0}
    likelihood = memm.log_likelihood(tags=tags, **chain)
    loss = model.evaluate(words, tags, batch_size=32, verbose=0)[0]
    np.testing.assert_allclose(loss, -likelihood.mean(), rtol=1e-4)
    found = layer.decode(model).predict(words, verbose=0)
    best = memm.viterbi(**chain)[1]
    x = memm.locally_normalized(**chain)
    score = crf.sequence_score(tags=found, **{**chain, "emissions": x})
    np.testing.assert_allclose(score, best, rtol=1e-4, atol=1e-4)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.evaluate(words, tags, batch_size=32, verbose=0)[0], loss, 1e-4
    )
