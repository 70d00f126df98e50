"""The MEMM layer in Keras, on TensorFlow."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from fastkeras import crf as functions  # noqa: E402
from fastkeras.layers import MEMM  # noqa: E402

# NumPy 2 warns when Keras on TensorFlow saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS, NUM_TAGS, IGNORED = 10, 3, -100
BIO = functions.constraints.allowed("BIO", ["O", "B", "I"])
KINDS = {
    "both directions": {},
    "left to right": {"bidirectional": False},
    "low rank": {"transition_rank": 2, "learning_rate_multiplier": 10.0},
    "constraints": {"constraints": BIO, "transition_rank": 2},
}


@pytest.fixture
def data(rng):
    """Words with 0 as padding, and tags that depend on a word and the word before."""
    keras.utils.set_random_seed(0)  # for the initial weights of the models
    words = rng.integers(1, WORDS, (16, 7))
    words[np.arange(7) >= rng.integers(2, 8, 16)[:, None]] = 0
    words[0] = [0, 3, 0, 5, 7, 0, 0]  # a masked first step, and a hole
    tags = np.where(np.roll(words, 1, axis=1) > 5, 0, words % 2)
    tags[words == 0] = IGNORED
    return words, tags


def tagger(kind):
    memm = MEMM(NUM_TAGS, use_kernel=True, **KINDS[kind])
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(WORDS, 8, mask_zero=True)(inputs)
    return memm, keras.Model(inputs, memm(embedded))


def chain_of(memm, model, words):
    scores = ("transitions", "start_transitions", "end_transitions")
    return {
        "emissions": model.predict(words, verbose=0).astype("float64"),
        **{name: np.asarray(getattr(memm, name), "float64") for name in scores},
        "mask": words > 0,
        "bidirectional": memm.bidirectional,
    }


@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("kind", KINDS)
def test_fit_evaluate_and_decode(data, kind, jit_compile):
    words, tags = data
    memm, model = tagger(kind)
    optimizer = keras.optimizers.Adam(0.03)
    model.compile(optimizer, memm.loss, metrics=[memm.accuracy], jit_compile=jit_compile)
    history = model.fit(words, tags, epochs=8, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    results = model.evaluate(words, tags, verbose=0, return_dict=True)
    chain = chain_of(memm, model, words)
    likelihood = functions.memm.log_likelihood(tags=tags, **chain)
    assert (likelihood <= 0).all()
    np.testing.assert_allclose(results["loss"], -likelihood.mean(), rtol=1e-5)
    decoded, _ = functions.memm.viterbi(**chain)
    found, probability = memm.decode(model, confidence=True).predict(words, verbose=0)
    np.testing.assert_array_equal(found, decoded)
    np.testing.assert_allclose(
        results["accuracy"], ((found == tags) & (words > 0)).sum() / (words > 0).sum(), rtol=1e-6
    )
    assert (probability[words > 0] > 0).all() and (probability[words == 0] == 0).all()
    if kind == "constraints":
        assert not ((found[:, :-1] == 0) & (found[:, 1:] == 2) & (words[:, 1:] > 0)).any()


def test_saved_loaded_and_exported(data, tmp_path):
    words, tags = data
    memm, model = tagger("low rank")
    model.compile("adam", memm.loss, metrics=[memm.accuracy])
    model.fit(words, tags, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.layers[-1]
    assert type(again) is MEMM and again.get_config() == memm.get_config()
    expected = model.evaluate(words, tags, verbose=0)
    np.testing.assert_allclose(loaded.evaluate(words, tags, verbose=0), expected, rtol=1e-6)
    found = memm.decode(model).predict(words, verbose=0)
    again.decode(loaded).export(tmp_path / "served", verbose=False)
    assert b"Fastkeras" not in (tmp_path / "served" / "saved_model.pb").read_bytes()
    module = tf.saved_model.load(tmp_path / "served")  # kept, since it owns the weights
    assert (module.serve(words.astype("int32")).numpy() == found).mean() > 0.9  # ties may differ


def test_very_many_tags_of_low_rank_train_without_a_matrix_of_them(rng, monkeypatch):
    monkeypatch.delattr(functions.LowRank, "product")
    num_tags = 20_000  # a matrix of pairs would take 1.6 GB
    memm = MEMM(num_tags, transition_rank=4)
    emissions = rng.standard_normal((2, 6, num_tags)).astype("float32")
    tags = rng.integers(0, num_tags, (2, 6))
    with tf.GradientTape() as tape:
        loss = memm.loss(tags, memm(emissions))
    gradients = tape.gradient(loss, memm.trainable_variables)
    assert np.isfinite(loss) and sum(w.shape.num_elements() for w in memm.weights) == 10 * num_tags
    for gradient in gradients:
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0
