"""Labels and weights of `CRFLoss`: for steps, missing ones, and those that it must not misread."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from fastkeras import crf as functions  # noqa: E402
from fastkeras.layers import CRF, SemiMarkovCRF  # noqa: E402
from fastkeras.losses import CRFLoss  # noqa: E402
from fastkeras.metrics import CRFAccuracy, CRFExactMatch  # noqa: E402

RNG = np.random.default_rng(0)
BATCH, STEPS, NUM_TAGS = 4, 6, 3


@pytest.fixture
def layer():
    crf = CRF(transitions_initializer="orthogonal")
    crf.build((None, None, NUM_TAGS))
    return crf


def data():
    emissions = RNG.normal(size=(BATCH, STEPS, NUM_TAGS)).astype("float32")
    return emissions, RNG.integers(0, NUM_TAGS, (BATCH, STEPS))


def chain_of(crf):
    names = ("transitions", "start_transitions", "end_transitions")
    return {name: np.asarray(getattr(crf, name)) for name in names}


def tagger(**options):
    crf = CRF()
    model = keras.Sequential([keras.Input((None, NUM_TAGS)), crf])
    model.compile("sgd", loss=crf.loss, **options)
    return model


def test_weights_of_steps(layer):
    x, tags = data()
    weights = RNG.uniform(0, 2, (BATCH, STEPS)).astype("float32")
    expected = functions.weighted_log_likelihood(x, tags, weights=weights, **chain_of(layer))
    np.testing.assert_allclose(layer.loss(tags, layer(x), weights), -expected.mean(), rtol=1e-5)
    model = tagger(weighted_metrics=[CRFAccuracy()])
    history = model.fit(x, tags, sample_weight=weights, verbose=0, batch_size=BATCH).history
    assert np.isfinite(history["loss"][0])
    assert 0 <= history["accuracy"][0] <= 1


def test_weights_of_steps_and_of_tags_multiply(layer):
    x, tags = data()
    of_steps, of_tags = np.full((BATCH, STEPS), 2.0, "float32"), [1.0, 0.0, 3.0]
    loss = CRFLoss(layer, tag_weights=of_tags)
    once, twice = loss(tags, layer(x)), loss(tags, layer(x), of_steps)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_a_metric_of_whole_sequences_refuses_weights_of_steps(layer):
    x, tags = data()
    with pytest.raises(ValueError, match="CRFExactMatch counts whole sequences"):
        CRFExactMatch(layer).update_state(tags, layer(x), np.ones((BATCH, STEPS)))


def test_a_sequence_of_weight_0_does_not_count_whatever_its_loss(layer):
    tf = pytest.importorskip("tensorflow")
    x, tags = data()
    x[0, 1, tags[0, 1]], x[1, 2] = -np.inf, np.nan
    weights = np.array([0, 0, 1, 1], "float32")
    for engine in (None, "keras"):
        layer.engine = engine
        variable = tf.Variable(x)
        with tf.GradientTape() as tape:
            loss = layer.loss(tags, layer(variable), weights)
        gradients = tape.gradient(loss, [variable, *layer.trainable_variables])
        expected = functions.log_likelihood(x[2:], tags[2:], **chain_of(layer))
        np.testing.assert_allclose(loss, -expected.sum() / BATCH, rtol=1e-5)
        assert np.isfinite(gradients[1].numpy()).all()
        np.testing.assert_array_equal(gradients[0][:2], 0)
        accuracy = layer.accuracy
        accuracy.update_state(tags, layer(x), weights)
        assert np.isfinite(float(accuracy.result()))


def test_a_corrupted_batch_does_not_improve_the_loss(layer):
    x, tags = data()
    x[1, 2, 0] = np.nan
    for engine in (None, "keras"):
        layer.engine = engine
        assert np.isnan(float(layer.loss(tags, layer(x))))


def test_an_ignored_label_is_no_step(layer):
    x, tags = data()
    tags[:, 2] = tags[1, 0] = -100
    mask = tags != -100
    expected = functions.log_likelihood(x, np.where(mask, tags, 0), mask=mask, **chain_of(layer))
    loss = CRFLoss(layer, ignore_class=-100)
    np.testing.assert_allclose(loss(tags, layer(x)), -expected.mean(), rtol=1e-5)
    found, _ = functions.viterbi(x, mask=mask, **chain_of(layer))
    accuracy = CRFAccuracy(layer, ignore_class=-100)
    accuracy.update_state(tags, layer(x))
    np.testing.assert_allclose(accuracy.result(), (found == tags)[mask].mean(), rtol=1e-6)
    again = CRFLoss.from_config(loss.get_config())
    np.testing.assert_allclose(again(tags, layer(x)), loss(tags, layer(x)))


def test_a_class_to_ignore_may_be_0(layer):
    x, tags = data()
    mask = tags != 0
    loss = CRFLoss.from_config(CRFLoss(layer, ignore_class=0).get_config())
    expected = functions.log_likelihood(x, np.where(mask, tags, 0), mask=mask, **chain_of(layer))
    np.testing.assert_allclose(loss(tags, layer(x)), -expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("row", ((0.2, 0.5, 0.3), (0, 1, 1), (0, 0, 0)))
def test_labels_that_are_not_one_hot_are_refused(layer, row):
    x, tags = data()
    soft = np.eye(NUM_TAGS, dtype="float32")[tags]
    soft[2, 3] = row
    with pytest.raises(ValueError, match="y_true has soft labels"):
        layer.loss(soft, layer(x))
    masked = np.ones((BATCH, STEPS), bool)
    masked[2, 3] = False
    assert np.isfinite(float(layer.loss(soft, layer(x, mask=masked))))


def test_labels_that_are_not_whole_are_refused(layer):
    x, tags = data()
    for wrong in (0.5, np.nan, 1e30):
        labels = tags.astype("float32")
        np.testing.assert_allclose(layer.loss(labels, layer(x)), layer.loss(tags, layer(x)))
        labels[1, 2] = wrong
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="must be in"):
            layer.loss(labels, layer(x))
        masked = np.ones((BATCH, STEPS), bool)
        masked[1, 2] = False
        assert np.isfinite(float(layer.loss(labels, layer(x, mask=masked))))


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    (
        *(("float32", wrong) for wrong in (0.5, np.nan, np.inf, -np.inf, -1e30)),
        *(("float16", wrong) for wrong in (np.nan, -np.inf)),
    ),
)
def test_labels_that_are_no_integers_are_nan_in_a_graph(dtype, wrong):
    labels = np.array([[0, -1, 1], [0, wrong, 1]], dtype)
    segments = SemiMarkovCRF(2, 3)  # where a number below 0 is inside of a segment
    of_segments = segments(np.zeros((2, 3, 4), "float32"))
    linear = CRF(2, engine="keras")
    skips = CRFLoss(linear, ignore_class=-1, reduction="none")
    for loss, emissions in (
        (CRFLoss(segments, reduction="none"), of_segments),
        (skips, linear(np.zeros((2, 3, 2), "float32"))),
    ):
        with pytest.raises(ValueError, match="not whole, or beyond int32"):
            loss(labels, emissions)
        losses = tf.function(lambda labels, loss=loss, x=emissions: loss(labels, x))(labels)
        np.testing.assert_array_equal(np.isnan(losses), [False, True])


@pytest.mark.parametrize("dtype", ("uint8", "int8", "int32", "int64", "float32"))
def test_ragged_labels_that_are_too_short_are_no_labels(dtype):
    lengths = [[0, 0, 1], [1, 0]]
    labels = tf.ragged.constant(lengths, dtype)
    layer = SemiMarkovCRF(2, 3)
    emissions = layer(np.zeros((2, 3, 4), "float32"))
    with pytest.raises(ValueError, match=r"labels of segments must be|y_true must be integer"):
        layer.loss(labels, emissions)
    emissions = layer(np.zeros((2, 3, 4), "float32"), mask=np.array([[1, 1, 1], [1, 1, 0]], bool))
    assert np.isfinite(layer.loss(labels, emissions))


def test_weights_of_tags_are_as_many_as_the_tags(layer):
    x, tags = data()
    for more in ((), (np.ones((BATCH, STEPS), "float32"),)):
        with pytest.raises(ValueError, match=r"one weight for each of the 3 tags .* got 2"):
            CRFLoss(layer, tag_weights=[1.0, 2.0])(tags, layer(x), *more)


def test_labels_beyond_int32_do_not_wrap_into_range(layer):
    x, tags = data()
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="tags must be in"):
        layer.loss(tags.astype("int64") + 2**32, layer(x))


def test_class_weight_is_refused():
    x, tags = data()
    with pytest.raises(ValueError, match="class_weight is read by Keras as weights of positions"):
        tagger().fit(x, tags, class_weight={0: 1.0, 1: 2.0, 2: 3.0, 3: 1, 4: 1, 5: 1}, verbose=0)


def test_accuracy_by_name_is_warned_of():
    x, tags = data()
    model = tagger(metrics=["accuracy"])
    with pytest.warns(UserWarning, match=r"use metrics=\[crf.accuracy\]"):
        model.fit(x, tags, verbose=0)


def test_ragged_and_sparse_tensors_are_refused_by_name():
    tf = pytest.importorskip("tensorflow")
    ragged = tf.RaggedTensor.from_row_lengths(tf.zeros((3, NUM_TAGS)), [1, 2])
    with pytest.raises(ValueError, match=r"emissions must be a dense .* got a RaggedTensor"):
        functions.viterbi(ragged, tf.zeros((NUM_TAGS, NUM_TAGS)))
    labels = tf.sparse.from_dense(np.ones((2, 2), int))
    crf = CRF()
    with pytest.raises(ValueError, match=r"y_true must be a dense .* got a SparseTensor"):
        crf.loss(labels, crf(np.zeros((2, 2, NUM_TAGS), "float32")))
