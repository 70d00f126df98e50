"""`SkipGram`, `CBOW` and embeddings in Keras models, on any backend."""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras.layers import CBOW, SkipGram
from fastkeras.optimizers import Adam
from fastkeras.word2vec.layers.embedding import to_keras_embedding, vectors_of
from fastkeras.word2vec.vectors import Vectors
from fastkeras.word2vec.vocabulary import Vocabulary, build
from fastkeras.word2vec.windows import Windows
from word2vec.plain_loss import gradient_by_differences, mean_loss

# NumPy 2 complains about how Keras on TensorFlow and torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WORDS, SIZE, NEGATIVE, CONTEXTS = 9, 3, 4, 4
VOCABULARY = Vocabulary([f"word{i}" for i in range(WORDS)], [90, 50, 30, 9, 8, 3, 2, 1, 1])
VARIANTS = [
    {},
    {"use_bias": True},
    {"tied": True},
    {"shared_negatives": True, "use_bias": True},
    {"shared_negatives": True, "tied": True, "use_bias": True},
    {"loss": "negative_sampling", "use_bias": True},
    {"loss": "negative_sampling", "tied": True},
    {"loss": "negative_sampling", "shared_negatives": True},
    {"sampling_correction": True},
    {"sampling_correction": True, "ns_exponent": 0, "use_bias": True},
]
CASES = [(kind, variant) for kind in (SkipGram, CBOW) for variant in VARIANTS]
CASES += [(CBOW, {"combiner": "mean"}), (CBOW, {"combiner": "mean", "tied": True})]


def model_of(layer, extra=False, batch_size=None):
    """Return the layer as a model of its own."""
    shape = (CONTEXTS,) if isinstance(layer, CBOW) else ()
    inputs = [
        keras.Input((), batch_size, dtype="int32"),
        keras.Input(shape, batch_size, dtype="int32"),
    ]
    if extra:
        inputs.append(keras.Input((layer.vector_size,), batch_size))
    return keras.Model(inputs, layer(inputs))


def batch_of(kind, rng, batch=6):
    """Return centers and contexts; words are repeated, and some windows have holes."""
    centers = rng.integers(0, WORDS, batch).astype("int32")
    if kind is SkipGram:
        return [centers, rng.integers(0, WORDS, batch).astype("int32")]
    contexts = rng.integers(-1, WORDS, (batch, CONTEXTS)).astype("int32")
    contexts[0, 2:] = -1
    contexts[:, 0] = np.maximum(contexts[:, 0], 3)
    return [centers, contexts]


def randomize(layer, rng):
    """Give all weights random values; return them in float64 by name."""
    weights = {}
    for variable in layer.trainable_variables:
        variable.assign(rng.standard_normal(variable.shape))
        weights[variable.name] = as_array(variable).astype("float64")
    return weights


def fix_drawn(layer, rng, batch=6):
    """Make the layer draw the words returned; the first of an example is sometimes its target."""
    shape = (NEGATIVE,) if layer.shared_negatives else (batch, NEGATIVE)
    drawn = rng.integers(0, WORDS, shape).astype("int32")
    layer._draw = lambda targets: ops.convert_to_tensor(drawn)
    return drawn


def as_array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


def offsets_of(layer):
    """Return the corrections, rounded to float32 as in the layer."""
    q = VOCABULARY.counts.astype("float64") ** layer.ns_exponent
    return -np.log(layer.negative * q / q.sum()).astype("float32").astype("float64")


def plain(layer, weights, inputs, drawn, extra=None):
    """Return the loss by the plain formula, as a function of the weights."""
    centers, contexts = inputs
    hidden = (
        [[w] for w in centers] if isinstance(layer, SkipGram) else [c[c >= 0] for c in contexts]
    )
    targets = contexts if isinstance(layer, SkipGram) else centers
    offsets = offsets_of(layer) if layer.sampling_correction else None
    combiner = getattr(layer, "combiner", "sum")
    return lambda: mean_loss(weights, hidden, targets, drawn, layer.loss, combiner, offsets, extra)


@pytest.mark.parametrize(("kind", "variant"), CASES)
def test_loss_and_gradients_are_those_of_the_formula(kind, variant, rng):
    layer = kind(VOCABULARY, SIZE, NEGATIVE, **variant)
    model = model_of(layer, extra=True)
    weights, inputs, drawn = randomize(layer, rng), batch_of(kind, rng), fix_drawn(layer, rng)
    if not layer.shared_negatives:
        drawn[2] = (inputs[1] if kind is SkipGram else inputs[0])[2]  # all equal the target
    extra = rng.standard_normal((6, SIZE)).astype("float32")
    loss = plain(layer, weights, inputs, drawn, extra)
    expected = {name: gradient_by_differences(loss, array) for name, array in weights.items()}
    model.compile(keras.optimizers.SGD(1.0))
    found = model.train_on_batch([*inputs, extra], return_dict=True)
    np.testing.assert_allclose(found["loss"], loss(), 1e-5)
    assert len(expected) == 1 + ("tied" not in variant) + ("use_bias" in variant)
    for variable in layer.trainable_variables:
        change = weights[variable.name] - as_array(variable)
        np.testing.assert_allclose(change, expected[variable.name], 1e-4, 2e-6)


def test_extra_input_is_trained_through(rng):
    layer = CBOW(VOCABULARY, SIZE, NEGATIVE)
    centers, contexts = keras.Input((), dtype="int32"), keras.Input((CONTEXTS,), dtype="int32")
    topic = keras.Input((2,))
    dense = keras.layers.Dense(SIZE, use_bias=False)
    model = keras.Model([centers, contexts, topic], layer([centers, contexts, dense(topic)]))
    weights, inputs, drawn = randomize(layer, rng), batch_of(CBOW, rng), fix_drawn(layer, rng)
    topics = rng.standard_normal((6, 2)).astype("float32")
    kernel = as_array(dense.kernel).astype("float64")

    def loss():
        return plain(layer, weights, inputs, drawn, topics @ kernel)()

    expected = gradient_by_differences(loss, kernel)
    model.compile(keras.optimizers.SGD(1.0))
    model.train_on_batch([*inputs, topics])
    np.testing.assert_allclose(kernel - as_array(dense.kernel), expected, 1e-4, 2e-6)


@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_output_is_the_hidden_vector(kind, rng):
    layer = kind(WORDS, SIZE, NEGATIVE)
    inputs = batch_of(kind, rng)
    model = model_of(layer)
    v = randomize(layer, rng)["embeddings"]
    hidden = [v[words[words >= 0]].sum(0) for words in inputs[1]] if kind is CBOW else v[inputs[0]]
    np.testing.assert_allclose(model.predict(inputs, verbose=0), hidden, 1e-5, 1e-6)


@pytest.mark.parametrize("shared", [False, True])
def test_accuracy_counts_targets_above_all_drawn(shared, rng):
    layer = SkipGram(VOCABULARY, SIZE, NEGATIVE, shared_negatives=shared, sampling_correction=True)
    model = model_of(layer)
    weights, inputs = randomize(layer, rng), batch_of(SkipGram, rng, 32)
    drawn = fix_drawn(layer, rng, 32)
    drawn[..., 0] = 0
    inputs[1][0] = 0  # a draw that equals the target is no rival
    x = weights["embeddings"][inputs[0]] @ weights["output_embeddings"].T
    drawn = np.broadcast_to(drawn, (32, NEGATIVE))
    rivals = [words[words != target] for words, target in zip(drawn, inputs[1], strict=True)]
    expected = np.mean(
        [row[t] > row[r].max() for row, t, r in zip(x, inputs[1], rivals, strict=True)]
    )
    model.compile("sgd")
    assert model.evaluate(inputs, verbose=0, return_dict=True)["accuracy"] == pytest.approx(
        expected
    )
    assert model.metrics_names.count("accuracy") <= 1
    assert 0 < expected < 1


@pytest.mark.parametrize("ns_exponent", [0, 0.75, 1])
def test_words_are_drawn_by_their_counts(ns_exponent):
    layer = SkipGram(VOCABULARY, SIZE, 20, ns_exponent=ns_exponent, seed=1)
    layer.build()
    drawn = as_array(layer._draw(ops.zeros(5000, "int32")))
    assert drawn.shape == (5000, 20)
    found = np.bincount(drawn.ravel(), minlength=WORDS) / drawn.size
    q = VOCABULARY.counts.astype("float64") ** ns_exponent
    q /= q.sum()
    assert np.abs((found - q) / np.sqrt(q / drawn.size)).max() < 5
    again = as_array(layer._draw(ops.zeros(5000, "int32")))
    assert (drawn != again).mean() > 0.5


@pytest.mark.parametrize("ns_exponent", [0, 0.75])
def test_corrected_loss_estimates_that_of_the_full_softmax(ns_exponent, rng):
    layer = SkipGram(
        VOCABULARY, SIZE, 20_000, ns_exponent=ns_exponent, sampling_correction=True, seed=1
    )
    model = model_of(layer)
    weights, inputs = randomize(layer, rng), batch_of(SkipGram, rng)
    x = weights["embeddings"][inputs[0]] @ weights["output_embeddings"].T
    full = np.log(np.exp(x).sum(1)) - x[np.arange(6), inputs[1]]
    model.compile("sgd")
    estimate = model.evaluate(inputs, verbose=0, return_dict=True)["loss"]
    assert estimate == pytest.approx(full.mean(), rel=0.02)


@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_a_seed_repeats_the_training(kind, rng):
    inputs = batch_of(kind, rng, 32)

    def losses(seed):
        model = model_of(kind(VOCABULARY, SIZE, NEGATIVE, seed=seed))
        model.compile(Adam(0.1))
        return model.fit(inputs, epochs=2, shuffle=False, verbose=0).history["loss"]

    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


@pytest.mark.parametrize("logit", [80.0, -80.0, 1e6])
@pytest.mark.parametrize("loss", ["sampled_softmax", "negative_sampling"])
def test_large_logits_give_no_nan(logit, loss, rng):
    layer = SkipGram(WORDS, 1, NEGATIVE, loss, shared_negatives=True)
    model = model_of(layer)
    layer.embeddings.assign(np.full((WORDS, 1), logit))
    layer.output_embeddings.assign(np.arange(WORDS)[:, None] - 4.0)
    model.compile(keras.optimizers.SGD(1e-3))
    assert np.isfinite(model.train_on_batch(batch_of(SkipGram, rng), return_dict=True)["loss"])
    assert all(np.isfinite(as_array(v)).all() for v in layer.trainable_variables)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_computes_the_loss_in_float32(policy, rng):
    layer = CBOW(VOCABULARY, SIZE, NEGATIVE, dtype=policy)
    model = model_of(layer)
    inputs = batch_of(CBOW, rng)
    model.compile(keras.optimizers.SGD(0.1))
    losses = [float(model.train_on_batch(inputs, return_dict=True)["loss"]) for _ in range(2)]
    assert keras.backend.standardize_dtype(model(inputs).dtype) == layer.compute_dtype
    assert losses[0] == pytest.approx(np.log(NEGATIVE + 1), rel=0.2)  # outputs are 0; some hits
    assert vectors_of(layer).matrix.dtype == "float32"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SkipGram, {}),
        (SkipGram, {"tied": True, "loss": "negative_sampling", "ns_exponent": 0.5}),
        (CBOW, {"combiner": "mean", "use_bias": True, "sampling_correction": True}),
    ],
)
def test_saved_models_are_the_same(kind, options, rng, tmp_path):
    layer = kind(VOCABULARY, SIZE, NEGATIVE, seed=3, **options)
    model = model_of(layer)
    inputs = batch_of(kind, rng, 32)
    model.compile("adam")
    model.fit(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    twin = loaded.layers[-1]
    assert twin.words == VOCABULARY.words
    np.testing.assert_array_equal(twin.vocabulary.counts, VOCABULARY.counts)
    assert twin.get_config() == layer.get_config()
    for ours, theirs in zip(layer.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(as_array(ours), as_array(theirs))
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0)
    )
    twin.noise_seed.state.assign(as_array(layer.noise_seed.state))  # Keras does not save it
    histories = [m.fit(inputs, shuffle=False, verbose=0).history for m in (model, loaded)]
    assert histories[0] == histories[1]  # the optimizer's state was saved too


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("vector_size", 0),
        ("negative", 2.5),
        ("loss", "hinge"),
        ("ns_exponent", float("nan")),
        ("vocabulary", 0),
        ("combiner", "max"),
    ],
)
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument}.*={value!r}"):
        CBOW(**{"vocabulary": 10, argument: value})


def test_wrong_inputs_are_named():
    ids, vectors = keras.Input((), dtype="int32"), keras.Input((5,))
    with pytest.raises(ValueError, match=r"must be \(batch,\), \(batch,\) and perhaps"):
        SkipGram(10, 4)([ids, keras.Input((4,), dtype="int32")])
    with pytest.raises(ValueError, match=r"extra input of shape .* must be \(batch, 4\)"):
        SkipGram(10, 4)([ids, ids, vectors])
    with pytest.raises(ValueError, match="sampling_correction=True must be False"):
        SkipGram(10, 4, loss="negative_sampling", sampling_correction=True)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no int64 unless told so")
@pytest.mark.parametrize("kind", [SkipGram, CBOW])
def test_an_id_beyond_int32_does_not_wrap_into_the_vocabulary(kind):
    layer = kind(10, 4)
    layer.build()
    wide = np.array([1, 2**32 + 1])
    for inputs in ([np.array([1, 2]), wide], [wide, np.array([1, 2])]):
        if kind is CBOW:
            inputs[1] = inputs[1][:, None]
        with pytest.raises(Exception, match=r"words must be in 0\.\.9|not in \[0, 10"):
            layer(inputs)


GROUPS, IN_GROUP = 8, 5


def planted(rng, sentences=1500):
    """Return sentences, each of words of one group and some words of no group."""
    corpus = []
    for group in rng.integers(0, GROUPS, sentences):
        words = [f"{group}-{i}" for i in rng.integers(0, IN_GROUP, 8)]
        corpus.append([*words, f"noise-{rng.integers(0, 10)}"])
    return corpus


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SkipGram, {"negative": 8}),
        (SkipGram, {"negative": 40, "shared_negatives": True}),
        (SkipGram, {"loss": "negative_sampling", "negative": 8}),
        (CBOW, {"negative": 8}),
        (CBOW, {"negative": 8, "tied": True, "combiner": "mean", "use_bias": True}),
    ],
)
def test_planted_groups_are_found(kind, options):
    corpus = planted(np.random.default_rng(1))
    vocabulary = build(corpus, min_count=1)
    objective = "cbow" if kind is CBOW else "skipgram"
    windows = Windows(corpus, vocabulary, objective, window=2, sample=0, batch_size=512)
    layer = kind(vocabulary, 16, seed=1, **options)
    model = model_of(layer)
    model.compile(Adam(0.02, lazy=True))
    history = model.fit(windows, epochs=4 if kind is CBOW else 2, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    vectors = layer.vectors()
    assert vectors.words == vocabulary.words
    found = total = 0
    for word in vocabulary.words:
        if not word.startswith("noise"):
            near = vectors.most_similar(word, topn=IN_GROUP - 1)
            found += sum(other[:2] == word[:2] for other, _ in near)
            total += IN_GROUP - 1
    assert found / total > 0.95, f"{found / total:.2f} of the neighbours are in the group"


VECTORS = Vectors(["cat", "dog", "car"], np.arange(6, dtype="float32").reshape(3, 2) + 1)


def test_vectors_become_an_embedding_and_come_back(tmp_path):
    layer = to_keras_embedding(VECTORS, name="words")
    assert isinstance(layer, keras.layers.Embedding)
    assert not layer.trainable_variables
    np.testing.assert_array_equal(as_array(layer(np.array([[2, 0]]))), VECTORS.matrix[[[2, 0]]])
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layer])
    model.save(tmp_path / "model.keras")
    twin = keras.saving.load_model(tmp_path / "model.keras").get_layer("words")
    for back in (vectors_of(layer), vectors_of(twin)):
        assert back.words == VECTORS.words
        np.testing.assert_array_equal(back.matrix, VECTORS.matrix)
    back.matrix[:] = 0  # a copy
    assert as_array(twin.embeddings).any()


@pytest.mark.parametrize(("mask_zero", "num_oov_indices"), [(True, 1), (False, 2), (True, 0)])
def test_embedding_with_rows_before_goes_with_the_lookup_of_keras(mask_zero, num_oov_indices):
    layer = to_keras_embedding(VECTORS, True, mask_zero, num_oov_indices)
    assert len(layer.trainable_variables) == 1
    before = mask_zero + num_oov_indices
    table = as_array(layer(np.arange(before + 3)[None]))[0]
    np.testing.assert_array_equal(table[:before], 0)
    np.testing.assert_array_equal(table[before:], VECTORS.matrix)
    assert (layer.compute_mask(np.zeros((1, 1))) is not None) == mask_zero
    assert vectors_of(layer).words == VECTORS.words
    np.testing.assert_array_equal(vectors_of(layer).matrix, VECTORS.matrix)
    if keras.backend.backend() != "tensorflow":
        return  # the layer below needs it
    lookup = keras.layers.StringLookup(
        vocabulary=VECTORS.words,
        num_oov_indices=num_oov_indices,
        mask_token="" if mask_zero else None,
    )
    np.testing.assert_array_equal(as_array(layer(lookup(["dog"])))[0], VECTORS["dog"])


def test_vectors_of_other_layers_ask_for_words():
    layer = keras.layers.Embedding(3, 2)
    with pytest.raises(ValueError, match="has no weights yet"):
        vectors_of(layer)
    layer.build()
    with pytest.raises(ValueError, match="words=None must be"):
        vectors_of(layer)
    assert vectors_of(layer, VECTORS.words).words == VECTORS.words
    dense = keras.layers.Dense(2)
    dense.build((None, 2))
    with pytest.raises(ValueError, match="no `embeddings`"):
        vectors_of(dense, ["cat", "dog"])
    with pytest.raises(ValueError, match="num_oov_indices=-1"):
        to_keras_embedding(VECTORS, num_oov_indices=-1)
