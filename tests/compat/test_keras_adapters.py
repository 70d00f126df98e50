"""The CRFs of bert4keras and of the article, against the enumeration of all sequences."""

import keras
import numpy as np
import pytest

from enumeration import enumerate_paths, probabilities
from fastkeras.compat import bert4keras, crf_keras

# NumPy 2 complains about how Keras copies variables
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, NUM_TAGS = 3, 4, 3
LENGTHS = np.array([4, 2, 1])
MASK = np.arange(STEPS) < LENGTHS[:, None]


@pytest.fixture
def scores(rng):
    """Logits, tags and transitions."""
    logits = rng.normal(size=(BATCH, STEPS, NUM_TAGS)).astype("float32")
    tags = rng.integers(NUM_TAGS, size=(BATCH, STEPS))
    return logits, tags, rng.normal(size=(NUM_TAGS, NUM_TAGS)).astype("float32")


def negative_log_likelihoods(logits, tags, transitions, lengths=LENGTHS):
    chain = {"emissions": logits, "transitions": transitions, "lengths": lengths, "mask": None}
    chain |= {"start_transitions": None, "end_transitions": None}
    for b, (steps, paths, of_paths) in enumerate(enumerate_paths(chain)):
        given = (paths == tags[b, steps]).all(axis=1)
        yield float(probabilities(of_paths)[0] - of_paths[given][0])


def accuracy(logits, tags, mask):
    return (logits.argmax(-1) == tags)[mask].mean()


@pytest.mark.parametrize("ignore_last_label", (False, True))
def test_loss_and_accuracy_of_the_article(ignore_last_label, scores):
    logits, tags, transitions = scores
    lengths, mask, classes = np.full(BATCH, STEPS), np.ones_like(MASK), NUM_TAGS
    if ignore_last_label:  # padding is a further class, whatever its logit
        lengths, mask, classes = LENGTHS, MASK, NUM_TAGS + 1
        tags = np.where(MASK, tags, NUM_TAGS)
    given = np.full((BATCH, STEPS, classes), 99, "float32")
    given[..., :NUM_TAGS] = logits
    layer = crf_keras.CRF(ignore_last_label=ignore_last_label)
    outputs = layer(given)
    np.testing.assert_array_equal(outputs, given)
    assert [(w.name, w.shape) for w in layer.weights] == [("crf_trans", (NUM_TAGS, NUM_TAGS))]
    layer.trans.assign(transitions)
    labels = np.eye(classes, dtype="float32")[tags]
    loss = layer.loss(labels, outputs)
    expected = list(negative_log_likelihoods(logits, tags, transitions, lengths))
    np.testing.assert_allclose(loss, np.reshape(expected, (BATCH, 1)), rtol=2e-6)
    np.testing.assert_allclose(
        layer.accuracy(labels, outputs), accuracy(logits, tags, mask), rtol=1e-6
    )


def test_losses_and_accuracies_of_bert4keras(scores):
    logits, tags, transitions = scores
    layer = bert4keras.ConditionalRandomField()
    outputs = layer(logits, mask=MASK)
    assert [(w.name, w.shape) for w in layer.weights] == [("trans", (NUM_TAGS, NUM_TAGS))]
    layer.set_weights([transitions])
    outputs = np.asarray(outputs)
    np.testing.assert_array_equal(outputs[MASK], logits[MASK])
    assert (outputs[~MASK] == -1e12).all()
    assert layer.compute_mask(logits, MASK) is None
    expected = list(negative_log_likelihoods(logits, tags, transitions))
    one_hot = np.eye(NUM_TAGS, dtype="float32")[tags]
    for loss in (
        layer.dense_loss(one_hot, outputs),
        layer.sparse_loss(tags, outputs),
        layer.sparse_loss(tags[..., None].astype("float32"), outputs),
        layer.sparse_loss(np.where(MASK, tags, -100), outputs),
    ):
        np.testing.assert_allclose(loss, expected, rtol=2e-6)
    for share in (layer.dense_accuracy(one_hot, outputs), layer.sparse_accuracy(tags, outputs)):
        np.testing.assert_allclose(share, accuracy(logits, tags, MASK), rtol=1e-6)


def test_the_multiplier_divides_what_is_stored(scores):
    logits, tags, transitions = scores
    plain, faster = (bert4keras.ConditionalRandomField(lr_multiplier=m) for m in (1, 100))
    outputs = plain(logits), faster(logits)
    stored = faster.get_weights()[0]
    assert 0 < np.abs(stored).max() <= np.sqrt(6 / (2 * NUM_TAGS)) / 100  # Glorot's bound
    np.testing.assert_allclose(faster.trans, 100 * stored, rtol=1e-6)
    plain.set_weights([transitions])
    faster.set_weights([transitions / 100])
    np.testing.assert_allclose(
        plain.sparse_loss(tags, outputs[0]), faster.sparse_loss(tags, outputs[1]), rtol=1e-5
    )


@pytest.mark.parametrize("kind", ("article", "bert4keras"))
def test_models_learn_and_are_saved(kind, rng, tmp_path):
    keras.utils.set_random_seed(1)
    words = np.where(MASK, rng.integers(1, 9, size=MASK.shape), 0)
    tags = np.where(MASK, words % NUM_TAGS, NUM_TAGS)
    x = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, 8, mask_zero=True)(x)
    if kind == "article":
        layer, classes = crf_keras.CRF(ignore_last_label=True), NUM_TAGS + 1
        loss, metric, labels = layer.loss, layer.accuracy, np.eye(classes)[tags]
    else:
        layer, classes = bert4keras.ConditionalRandomField(lr_multiplier=10), NUM_TAGS
        loss, metric, labels = layer.sparse_loss, layer.sparse_accuracy, tags
    model = keras.Model(x, layer(keras.layers.Dense(classes)(embedded)))
    model.compile(keras.optimizers.Adam(0.1), loss=loss, metrics=[metric])
    history = model.fit(words, labels, epochs=60, verbose=0).history
    assert history["loss"][-1] < 0.1 < history["loss"][0]
    evaluated = model.evaluate(words, labels, verbose=0, return_dict=True)
    logits = model.predict(words, verbose=0)[..., :NUM_TAGS]
    np.testing.assert_allclose(evaluated[metric.__name__], accuracy(logits, tags, MASK), rtol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    for own, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    assert loaded.layers[-1].get_config() == layer.get_config()
    np.testing.assert_array_equal(loaded.predict(words, verbose=0), model.predict(words, verbose=0))


@pytest.mark.parametrize("starts", (None, [0, 2]))
@pytest.mark.parametrize("ends", (None, [1]))
def test_the_decoder_takes_the_best_path_that_starts_and_ends_as_allowed(starts, ends, scores):
    logits, _, transitions = scores
    chain = {"emissions": logits, "transitions": transitions, "lengths": None, "mask": None}
    chain |= {"start_transitions": None, "end_transitions": None}
    decoder = bert4keras.ViterbiDecoder(transitions, starts, ends)
    for nodes, (_, paths, of_paths) in zip(logits, enumerate_paths(chain), strict=True):
        fits = np.isin(paths[:, 0], starts or range(NUM_TAGS))
        fits &= np.isin(paths[:, -1], ends or range(NUM_TAGS))
        before = nodes.copy()
        decoded = decoder.decode(nodes)
        np.testing.assert_array_equal(decoded, paths[np.where(fits, of_paths, -np.inf).argmax()])
        assert decoded.dtype == int
        np.testing.assert_array_equal(nodes, before)
