"""The CRF layer, its loss and its metric in Keras, on TensorFlow."""

import json

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

from fastkeras import crf as functions  # noqa: E402
from fastkeras.crf._engines import reference  # noqa: E402
from fastkeras.crf.chain import Chain  # noqa: E402
from fastkeras.layers import CRF  # noqa: E402
from fastkeras.losses import CRFLoss  # noqa: E402
from fastkeras.metrics import CRFAccuracy  # noqa: E402

# NumPy 2 warns when Keras on TensorFlow saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS, NUM_TAGS, IGNORED = 10, 3, -100


@pytest.fixture
def data(rng):
    """Words with 0 as padding, and tags that depend on a word and the word before."""
    keras.utils.set_random_seed(0)  # for the initial weights of the models
    words = rng.integers(1, WORDS, (16, 7))
    words[np.arange(7) >= rng.integers(2, 8, 16)[:, None]] = 0
    words[0] = [0, 3, 0, 5, 7, 0, 0]  # a masked first step, and a hole
    tags = np.where(np.roll(words, 1, axis=1) > 5, 0, words % NUM_TAGS)
    tags[words == 0] = IGNORED
    return words, tags


def tagger(kind="functional", dtype=None, **arguments):
    """Return the layer and a model that ends with it."""
    crf = CRF(NUM_TAGS, use_kernel=True, dtype=dtype, **arguments)
    embedding = keras.layers.Embedding(WORDS, 8, mask_zero=True, dtype=dtype)
    if kind == "functional":
        words = keras.Input((None,), dtype="int32")
        return crf, keras.Model(words, crf(embedding(words)))
    if kind == "sequential":
        return crf, keras.Sequential([embedding, crf])
    return crf, Tagger(embedding, crf)


@keras.saving.register_keras_serializable(package="fastkeras tests")
class Tagger(keras.Model):
    """A subclassed model."""

    def __init__(self, embedding, tagger, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding
        self.tagger = tagger  # comes after "loss" in alphabetical order, in which Keras saves

    def call(self, words):
        return self.tagger(self.embedding(words))

    def get_config(self):
        layers = {"embedding": self.embedding, "tagger": self.tagger}
        serialize = keras.saving.serialize_keras_object
        return {**super().get_config(), **{n: serialize(layer) for n, layer in layers.items()}}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        embedding, crf = (deserialize(config.pop(name)) for name in ("embedding", "tagger"))
        return cls(embedding, crf, **config)


KINDS = ("functional", "sequential", "subclassed")


def compile_model(crf, model, **arguments):
    optimizer = keras.optimizers.Adam(0.05)
    model.compile(optimizer, loss=crf.loss, metrics=[crf.accuracy], **arguments)


def expected(crf, model, words, tags):
    """Return what the reference says of a model: log-likelihoods, decoded tags, accuracy."""
    mask = words > 0
    emissions = np.asarray(model(words)).astype("float64")
    scores = (crf.transitions, None, mask, crf.start_transitions, crf.end_transitions)
    chain = Chain(emissions, *scores).with_scores(lambda a: np.asarray(a).astype("float64"))
    likelihood = reference.log_likelihood(chain, np.where(mask, tags, 0))
    decoded, _ = reference.viterbi(chain)
    return likelihood, decoded, (decoded == tags)[mask].mean()


def scores_of(crf):
    names = ("transitions", "start_transitions", "end_transitions")
    return {name: np.asarray(getattr(crf, name)) for name in names}


@pytest.mark.parametrize("jit_compile", (False, True, "auto"))
@pytest.mark.parametrize("kind", KINDS)
def test_fit_learns_and_evaluate_agrees_with_the_reference(data, kind, jit_compile):
    words, tags = data
    crf, model = tagger(kind)
    compile_model(crf, model, jit_compile=jit_compile)
    history = model.fit(words, tags, epochs=10, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    results = model.evaluate(words, tags, verbose=0, return_dict=True)
    likelihood, decoded, accuracy = expected(crf, model, words, tags)
    np.testing.assert_allclose(results["loss"], -likelihood.mean(), rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], accuracy, rtol=1e-6)
    found = crf.decode(model).predict(words, verbose=0)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, decoded)


def test_run_eagerly_and_a_tape_of_ones_own(data):
    words, tags = data
    crf, model = tagger()
    compile_model(crf, model, run_eagerly=True)
    before = model.evaluate(words, tags, verbose=0)[0]
    model.train_on_batch(words, tags)
    with tf.GradientTape() as tape:
        loss = crf.loss(tags, model(words))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert float(loss) < before
    assert all(float(tf.norm(tf.convert_to_tensor(g))) > 0 for g in gradients)


def test_labels_of_every_form_give_the_same_loss(data):
    words, tags = data
    crf, model = tagger()
    emissions = model(words)
    one_hot = np.eye(NUM_TAGS)[np.where(words > 0, tags, 0)]
    likelihood, _, _ = expected(crf, model, words, tags)
    for labels in (tags, tags[..., None], one_hot, tags.astype("float32")):
        np.testing.assert_allclose(crf.loss(labels, emissions), -likelihood.mean(), rtol=1e-5)


def test_sample_weight_weighs_sequences(data):
    words, tags = data
    crf, model = tagger()
    compile_model(crf, model, weighted_metrics=[crf.accuracy])
    weights = np.linspace(0, 2, len(words)).astype("float32")
    results = model.evaluate(words, tags, sample_weight=weights, verbose=0, return_dict=True)
    likelihood, decoded, accuracy = expected(crf, model, words, tags)
    np.testing.assert_allclose(results["loss"], -(likelihood * weights).mean(), rtol=1e-5)
    np.testing.assert_allclose(results["accuracy"], accuracy, rtol=1e-6)
    steps = (words > 0) * weights[:, None]
    weighted = ((decoded == tags) * steps).sum() / steps.sum()
    np.testing.assert_allclose(results["weighted_accuracy"], weighted, rtol=1e-5)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(batch,\)"):
        crf.loss(tags, model(words), np.ones((len(words), words.shape[1] + 1)))


def test_the_loss_is_never_negative_and_0_without_valid_steps():
    crf = CRF()
    emissions = crf(np.array([[[60.0, 0], [60, 0]], [[0, 60], [0, 60]]], "float32"))
    assert float(crf.loss([[0, 0], [1, 1]], emissions)) >= 0
    masked = crf(np.ones((2, 2, 2), "float32"), mask=np.zeros((2, 2), bool))
    assert float(crf.loss(np.full((2, 2), IGNORED), masked)) == 0
    accuracy = crf.accuracy
    accuracy.update_state(np.full((2, 2), IGNORED), masked)
    assert float(accuracy.result()) == 0


def test_a_label_out_of_range_is_an_error(data):
    words, tags = data
    crf, model = tagger()
    tags = np.where(words > 0, NUM_TAGS, IGNORED)
    with pytest.raises(
        (ValueError, tf.errors.InvalidArgumentError), match=r"tags must be in 0\.\.2"
    ):
        crf.loss(tags, model(words))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_predicts_the_same_and_trains_on(data, kind, tmp_path):
    words, tags = data
    crf, model = tagger(kind, learning_rate_multiplier=10.0)
    compile_model(crf, model)
    model.fit(words, tags, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(words, verbose=0), model.predict(words, verbose=0))
    results = [m.evaluate(words, tags, verbose=0) for m in (model, loaded)]
    np.testing.assert_allclose(*results, rtol=1e-6)
    histories = [m.fit(words, tags, shuffle=False, verbose=0).history for m in (model, loaded)]
    np.testing.assert_allclose(histories[0]["loss"], histories[1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(histories[0]["accuracy"], histories[1]["accuracy"], rtol=1e-6)
    assert loaded.evaluate(words, tags, verbose=0)[0] < results[1][0]


def test_weights_alone_are_saved_without_state_of_the_metric(data, tmp_path):
    words, tags = data
    crf, model = tagger()
    compile_model(crf, model)
    model.fit(words, tags, verbose=0)
    model.save_weights(tmp_path / "model.weights.h5")
    _, other = tagger()
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(model(words), other(words))
    np.testing.assert_array_equal(crf.transitions, other.layers[-1].transitions)
    assert "accuracy" not in dir(crf) and crf.accuracy.variables


def test_the_loss_of_one_model_finds_the_layer_of_its_clone(data):
    words, tags = data
    crf, model = tagger()
    clone = keras.models.clone_model(model)
    clone.set_weights([w + 1 for w in model.get_weights()])
    other = clone.layers[-1]
    assert other is not crf
    compile_model(crf, clone)
    likelihood, _, accuracy = expected(other, clone, words, tags)
    results = clone.evaluate(words, tags, verbose=0)
    np.testing.assert_allclose(results, [-likelihood.mean(), accuracy], rtol=1e-5)


def test_loss_and_metric_without_a_layer_and_what_they_refuse(data):
    words, tags = data
    crf, model = tagger()
    emissions = model(words)
    assert float(CRFLoss()(tags, emissions)) == float(crf.loss(tags, emissions))
    accuracy = CRFAccuracy()
    accuracy.update_state(tags, emissions)
    assert 0 < float(accuracy.result()) < 1
    with pytest.raises(ValueError, match="y_pred must be the output of a fastkeras CRF layer"):
        CRFLoss()(tags, emissions + 1)
    larger = CRF(NUM_TAGS + 1)
    with pytest.raises(ValueError, match=r"'crf.*' with 3 tags, but loss or metric was made from"):
        larger.loss(tags, emissions)
    with pytest.raises(ValueError, match="y_true must be integer tags of shape"):
        crf.loss(np.zeros((16, 7, 2)), emissions)


def test_a_changed_output_falls_back_on_the_layer_of_the_loss():
    crf = CRF()
    inputs = np.array([[[1.0, 2.0], [4.0, 3.0]]], "float32")
    emissions = crf(inputs)
    doubled = float(crf.loss([[1, 0]], emissions * 2))
    exact = functions.log_likelihood(2 * inputs, np.array([[1, 0]]), np.asarray(crf.transitions))
    np.testing.assert_allclose(doubled, -exact[0], rtol=1e-6)


@pytest.mark.parametrize("policy", ("mixed_float16", "mixed_bfloat16", "float64"))
def test_policies(data, policy, tmp_path):
    words, tags = data
    crf, model = tagger(dtype=policy)
    compile_model(crf, model)
    history = model.fit(words, tags, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert keras.backend.standardize_dtype(model(words).dtype) == crf.compute_dtype
    assert crf.transitions.dtype == ("float64" if policy == "float64" else "float32")
    likelihood, decoded, _ = expected(crf, model, words, tags)
    loss = crf.loss(tags, model(words))
    np.testing.assert_allclose(loss, -likelihood.mean(), rtol=1e-6)  # scores have half precision
    found, probability = crf.decode(model, confidence=True).predict(words, verbose=0)
    np.testing.assert_array_equal(found, decoded)
    assert probability.dtype == ("float64" if policy == "float64" else "float32")


def test_confidence_is_the_marginal_of_the_decoded_tag(data):
    words, _ = data
    for kind in KINDS:
        crf, model = tagger(kind)
        emissions = model(words)
        unary, _ = crf.marginals(emissions)
        found, probability = crf.decode(model, confidence=True).predict(words, verbose=0)
        marginal = np.take_along_axis(np.asarray(unary), found[..., None], axis=-1)[..., 0]
        np.testing.assert_allclose(probability, marginal, rtol=1e-5)
        assert (probability[words == 0] == 0).all() and (probability[words > 0] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("confidence", (False, True))
def test_decoding_models_are_saved_and_exported_without_ops_of_ours(
    data, kind, confidence, tmp_path
):
    words, _ = data
    crf, model = tagger(kind)
    model(words)
    decoder = crf.decode(model, confidence)
    predicted = decoder.predict(words, verbose=0)
    decoder.save(tmp_path / "decoder.keras")
    loaded = keras.models.load_model(tmp_path / "decoder.keras")
    tf.nest.map_structure(
        np.testing.assert_array_equal, loaded.predict(words, verbose=0), predicted
    )
    decoder.export(tmp_path / "served", verbose=False)
    assert b"Fastkeras" not in (tmp_path / "served" / "saved_model.pb").read_bytes()
    module = tf.saved_model.load(tmp_path / "served")  # kept, since it owns the weights
    served = module.serve(words.astype("int32" if kind == "functional" else "float32"))
    served, predicted = (a[0] if confidence else a for a in (served, predicted))
    scores = [
        functions.sequence_score(
            model.predict(words, verbose=0), tags, **scores_of(crf), mask=words > 0
        )
        for tags in (np.asarray(served), predicted)
    ]
    np.testing.assert_allclose(*scores, rtol=1e-6)  # engines may break ties differently
    assert (served == predicted).numpy().mean() > 0.9


def test_the_multiplier_speeds_up_the_transitions_under_adam(data):
    words, tags = data
    moves = []
    for multiplier in (1.0, 20.0):
        keras.utils.set_random_seed(0)
        crf, model = tagger(learning_rate_multiplier=multiplier)
        before = np.asarray(crf.transitions)
        model.compile(keras.optimizers.Adam(0.01, epsilon=1e-9), loss=crf.loss)
        model.fit(words, tags, batch_size=16, verbose=0)
        moves.append(np.asarray(crf.transitions) - before)
    assert np.abs(moves[0]).min() > 0.005
    np.testing.assert_allclose(moves[1], 20 * moves[0], rtol=1e-2)


def test_regularizer_and_constraint_see_the_effective_scores():
    crf = CRF(
        learning_rate_multiplier=4.0,
        transitions_initializer="ones",
        transitions_regularizer=keras.regularizers.L1(0.5),
        transitions_constraint=keras.constraints.MaxNorm(0.1),
        use_boundaries=False,
    )
    crf(np.zeros((1, 2, 3)))
    np.testing.assert_allclose(crf.transitions, np.ones((3, 3)))
    np.testing.assert_allclose(sum(crf.losses), 4.5)
    stored = crf.weights[0]
    stored.assign(stored.constraint(stored))
    np.testing.assert_allclose(np.linalg.norm(crf.transitions, axis=0), 0.1, rtol=1e-5)
    assert crf.start_transitions is None and len(crf.weights) == 1


def test_config_round_trip():
    crf = CRF(
        4, False, True, transitions_regularizer="l2", learning_rate_multiplier=3, engine="keras"
    )
    config = CRF.from_config(crf.get_config()).get_config()
    assert config == crf.get_config()
    assert config["num_tags"] == 4 and config["transitions_regularizer"]["class_name"] == "L2"


def test_numbers_of_numpy_are_taken_and_saved_as_those_of_python():
    layer = CRF(np.arange(4).max() + 1, transition_rank=np.int32(2))  # np.int64(4)
    assert json.loads(json.dumps(layer.get_config())) == layer.get_config()
    again = CRF.from_config(layer.get_config())
    assert (again.num_tags, again.transition_rank) == (4, 2)


def test_transitions_of_a_call_may_be_lists():
    layer, x = CRF(2), np.ones((1, 3, 2), "float32")
    given = np.arange(8.0).reshape(2, 2, 2)
    scores = [
        layer.log_likelihood(layer(x, transitions=form), [[0, 1, 0]])
        for form in (given, given.tolist())
    ]
    assert float(scores[0][0]) == float(scores[1][0])


def test_what_the_layer_refuses():
    with pytest.raises(ValueError, match="num_tags=0 must be None or an integer of at least 1"):
        CRF(0)
    with pytest.raises(ValueError, match=r"learning_rate_multiplier=0.* must be above 0"):
        CRF(learning_rate_multiplier=0)
    with pytest.raises(ValueError, match="num_tags = 3 channels, got 5; with use_kernel=True"):
        CRF(3)(np.zeros((1, 2, 5)))
    with pytest.raises(ValueError, match="expected ndim=3, found ndim=2"):
        CRF(3)(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="'units' may mean 'num_tags'"):
        CRF(units=9)
    with pytest.raises(ValueError, match="'use_boundary' may mean 'use_boundaries'"):
        CRF(use_boundary=True)
    with pytest.raises(ValueError, match=r"model must be a keras\.Model that ends with this layer"):
        CRF(3).decode(3)
    with pytest.raises(ValueError, match="has no weights yet"):
        CRF(3).viterbi(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="engine='numba' does not take a tensorflow array"):
        layer = CRF(engine="numba")
        layer.viterbi(layer(np.zeros((1, 2, 3))))


def test_two_layers_in_one_model(data):
    words, tags = data
    inputs = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(WORDS, 8, mask_zero=True)(inputs)
    crfs = [CRF(NUM_TAGS, use_kernel=True, name=name) for name in ("left", "right")]
    model = keras.Model(inputs, [crf(embedded) for crf in crfs])
    model.compile("adam", [crf.loss for crf in crfs], metrics=[[crf.accuracy] for crf in crfs])
    results = model.evaluate(words, [tags, tags], verbose=0, return_dict=True)
    for i, crf in enumerate(crfs):
        single = keras.Model(inputs, model.outputs[i])
        likelihood, decoded, accuracy = expected(crf, single, words, tags)
        np.testing.assert_allclose(results[f"{crf.name}_loss"], -likelihood.mean(), rtol=1e-5)
        np.testing.assert_allclose(results[f"{crf.name}_accuracy"], accuracy, rtol=1e-6)
        np.testing.assert_array_equal(crf.decode(single).predict(words, verbose=0), decoded)
