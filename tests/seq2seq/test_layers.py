"""The Keras layers that generate sequences: a step equals training, and padding changes nothing."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from keras import ops  # noqa: E402

from fastkeras.layers import (  # noqa: E402
    AttentionDecoder,
    ConditionalLayerNormalization,
    CopyPrior,
)
from fastkeras.losses import SequenceCrossentropy  # noqa: E402
from fastkeras.seq2seq import BeamSearch  # noqa: E402

# NumPy 2 warns when Keras on torch makes arrays with np.array(tensor)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
START, END, VOCABULARY = 2, 3, 11
DECODERS = {}  # built once
CELLS = {
    "GRU": lambda: keras.layers.GRUCell(6),
    "LSTM": lambda: keras.layers.LSTMCell(6),
    "simple": lambda: keras.layers.SimpleRNNCell(6),
    "stacked": lambda: keras.layers.StackedRNNCells(
        [keras.layers.LSTMCell(5), keras.layers.GRUCell(6)]
    ),
}


def decoder_of(cell="GRU", **options):
    keras.utils.set_random_seed(1)
    decoder = AttentionDecoder(VOCABULARY, CELLS[cell](), units=7, **options)
    decoder.build((None, None), (None, None, 5))
    for weight in decoder.trainable_weights:  # initial zeros, of biases for instance, hide mistakes
        weight.assign(weight + keras.random.normal(weight.shape, seed=2) * 0.7)
    return decoder


def sentences(rng, batch=3):
    """Sources of different lengths, their encodings and masks, and targets, padded."""
    source, target = rng.integers(4, VOCABULARY, (2, batch, 6)).astype("int32")
    mask = np.arange(6) < np.array([6, 4, 1])[:batch, None]
    target[:, 0] = START
    return np.where(mask, source, 0), rng.standard_normal((batch, 6, 5)).astype("f4"), mask, target


@pytest.mark.parametrize("copy_prior", (None, "averaged", "gated"))
@pytest.mark.parametrize("cell", CELLS)
def test_steps_have_the_logits_of_training(cell, copy_prior, rng):
    decoder = decoder_of(cell, copy_prior=copy_prior)
    source, encoded, mask, target = sentences(rng)
    more = {"encoded_mask": mask, "source": source if copy_prior else None}
    at_once = decoder(target, encoded, **more)
    states, context = decoder.begin(encoded, **more)
    states = keras.tree.map_structure(lambda state: ops.expand_dims(state, 1), states)
    for t in range(6):
        logits, states, context = decoder.step(target[:, t : t + 1], states, context)
        np.testing.assert_allclose(
            ops.convert_to_numpy(logits[:, 0]), ops.convert_to_numpy(at_once[:, t]), atol=2e-5
        )


@pytest.mark.parametrize("cell", ("GRU", "stacked"))
def test_what_a_search_finds_has_the_score_of_the_loss(cell, rng):
    decoder = decoder_of(cell, copy_prior="averaged")
    source, encoded, mask, _ = sentences(rng)
    search = BeamSearch(END, num_beams=4, n_best=2, max_length=8, suppressed=(0, 1, START))
    found = search(decoder.step, *decoder.begin(encoded, source, encoded_mask=mask), start=START)
    for b in range(3):
        for i in range(2):
            tokens = [START, *found.tokens[b, i, : found.lengths[b, i]], END]
            logits = decoder(
                np.array([tokens[:-1]]), encoded[b : b + 1], source[b : b + 1], mask[b : b + 1]
            )
            loss = ops.convert_to_numpy(SequenceCrossentropy()(np.array([tokens[1:]]), logits))
            np.testing.assert_allclose(
                found.log_likelihoods[b, i], -float(loss) * len(tokens[1:]), rtol=1e-4
            )


def test_padding_changes_neither_logits_nor_titles(rng):
    decoder = decoder_of("LSTM", copy_prior="averaged")
    source, encoded, mask, target = sentences(rng)
    wide = [(0, 0), (0, 3)]
    padded_source, padded_mask = np.pad(source, wide), np.pad(mask, wide)
    padded = np.pad(encoded, [*wide, (0, 0)], constant_values=9)
    target[:, 4:] = 0
    expected = ops.convert_to_numpy(decoder(target[:, :4], encoded, source, mask))
    logits = ops.convert_to_numpy(decoder(target, padded, padded_source, padded_mask))
    np.testing.assert_allclose(logits[:, :4], expected, atol=1e-5)
    search = BeamSearch(END, num_beams=3, max_length=6, suppressed=(0,))
    found = search(decoder.step, *decoder.begin(encoded, source, mask), start=START)
    again = search(decoder.step, *decoder.begin(padded, padded_source, padded_mask), start=START)
    np.testing.assert_array_equal(found.tokens, again.tokens)
    np.testing.assert_allclose(found.scores, again.scores, rtol=1e-4)
    for b in range(3):  # each alone, without any padding
        length = mask[b].sum()
        alone = decoder.begin(encoded[b : b + 1, :length], source[b : b + 1, :length])
        one = search(decoder.step, *alone, start=START)
        np.testing.assert_array_equal(one.tokens[0, 0], found.tokens[b, 0, : one.lengths[0, 0]])


def test_a_source_of_nothing_is_not_looked_at(rng):
    decoder = decoder_of()
    _, encoded, mask, target = sentences(rng)
    logits = decoder(target, encoded, encoded_mask=np.zeros_like(mask))
    none = decoder(target, 0 * encoded, encoded_mask=mask)
    np.testing.assert_allclose(ops.convert_to_numpy(logits), ops.convert_to_numpy(none), atol=1e-5)


def test_in_a_model_it_trains_with_the_masks_of_keras_and_is_saved(rng, tmp_path):
    source, _, _, target = sentences(rng)
    embedding = keras.layers.Embedding(VOCABULARY, 7, mask_zero=True)
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    encoder = keras.layers.Bidirectional(keras.layers.GRU(4, return_sequences=True))
    decoder = AttentionDecoder(VOCABULARY, CELLS["LSTM"](), 7, embedding, copy_prior="gated")
    logits = decoder(inputs[1], encoder(embedding(inputs[0])), inputs[0])
    model = keras.Model(inputs, logits)
    model.compile(keras.optimizers.Adam(0.05), SequenceCrossentropy(0.1))
    following = np.pad(target[:, 1:], [(0, 0), (0, 1)], constant_values=END)
    losses = model.fit([source, target], following, epochs=15, verbose=0).history["loss"]
    assert losses[-1] < 0.85 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict([source, target], verbose=0),
        model.predict([source, target], verbose=0),
        atol=1e-5,
    )
    alone = model.predict([source[2:, :1], target[2:]], verbose=0)  # a source without its padding
    np.testing.assert_allclose(
        alone, model.predict([source, target], verbose=0)[2:], rtol=1e-4, atol=1e-4
    )
    encoded = encoder(embedding(source))
    found = BeamSearch(END, max_length=7)(
        decoder.step, *decoder.begin(encoded, source), start=START
    )
    expected = BeamSearch(END, max_length=7)(
        decoder.step, *decoder.begin(encoded, source, source != 0), start=START
    )
    np.testing.assert_array_equal(found.tokens, expected.tokens)


def test_the_source_belongs_to_the_copy_prior(rng):
    source, encoded, _, _ = sentences(rng)
    with pytest.raises(ValueError, match="source must be given for a decoder with a copy_prior"):
        decoder_of(copy_prior="averaged").begin(encoded)
    with pytest.raises(ValueError, match="and for no other, got one"):
        decoder_of().begin(encoded, source)


def test_copy_prior_is_its_formula(rng):
    layer = CopyPrior()
    logits = rng.standard_normal((2, 3, 5)).astype("f4")
    source = np.array([[1, 4, 4, 0], [2, 0, 0, 0]])
    layer.build(logits.shape)
    scale, shift = rng.standard_normal((2, 5)).astype("f4")
    layer.set_weights([scale, shift])
    chi = np.array([[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]], "f4")
    expected = (logits + (np.exp(scale) * chi + shift)[:, None]) / 2
    for each in (source, chi):
        result = ops.convert_to_numpy(layer(logits, each))
        np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_a_gate_says_how_much_of_the_prior_counts(rng):
    layer = CopyPrior(gated=True)
    logits, hidden = (rng.standard_normal((2, 3, n)).astype("f4") for n in (5, 4))
    source = np.array([[1, 4, 4, 0], [2, 0, 0, 0]])
    layer.build(logits.shape, source.shape, hidden.shape)
    assert [w.path.split("/")[-1] for w in layer.trainable_weights] == [
        "log_scale",
        "shift",
        "kernel",
        "bias",
    ]
    weights = [rng.standard_normal(w.shape).astype("f4") for w in layer.weights]
    layer.set_weights(weights)
    scale, shift, kernel, bias = weights
    chi = np.array([[0, 1, 0, 0, 1], [0, 0, 1, 0, 0]], "f4")
    gate = 1 / (1 + np.exp(-(hidden @ kernel + bias)))
    expected = logits + gate * (np.exp(scale) * chi + shift)[:, None]
    for each in (source, chi):
        result = ops.convert_to_numpy(layer(logits, each, hidden))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    same = CopyPrior.from_config(layer.get_config())
    same.build(logits.shape, source.shape, hidden.shape)
    assert len(same.weights) == 4
    with pytest.raises(ValueError, match="hidden must be given for a CopyPrior with gated=True"):
        layer(logits, source)
    with pytest.raises(ValueError, match="and for no other, got one"):
        CopyPrior()(logits, source, hidden)
    with pytest.raises(ValueError, match=r"^copy_prior='gate' must be 'averaged', 'gated' or None"):
        decoder_of(copy_prior="gate")


def test_attention_is_what_the_logits_are_made_of(rng):
    decoder = decoder_of("LSTM", copy_prior="gated")
    source, encoded, mask, target = sentences(rng)
    weights = ops.convert_to_numpy(decoder.attention(target, encoded, source, mask))
    assert weights.shape == (3, 6, 6) and (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(2), 1, rtol=1e-5)
    assert (weights[~np.broadcast_to(mask[:, None], weights.shape)] == 0).all()
    # a source whose steps are all what was read on average gives the same logits
    read = weights @ encoded
    logits = ops.convert_to_numpy(decoder(target, encoded, source, mask))
    for t in range(6):
        same = np.repeat(read[:, t : t + 1], 6, axis=1)
        again = ops.convert_to_numpy(decoder(target, same, source, mask))
        np.testing.assert_allclose(again[:, t], logits[:, t], atol=1e-4)


def test_a_source_may_have_no_steps_or_one(rng):
    decoder = decoder_of()
    _, encoded, _, target = sentences(rng)
    nothing = ops.convert_to_numpy(decoder(target, encoded, encoded_mask=np.zeros((3, 6), bool)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(decoder(target, encoded[:, :0])), nothing, atol=1e-6
    )
    weights = ops.convert_to_numpy(decoder.attention(target, encoded[:, :1]))
    np.testing.assert_array_equal(weights, np.ones((3, 6, 1)))


@pytest.mark.parametrize("policy", ("mixed_bfloat16", "mixed_float16"))
def test_in_mixed_precision_logits_are_those_of_float32_about(policy, rng):
    source, encoded, mask, target = sentences(rng)
    wide = decoder_of(copy_prior="gated")
    decoder = AttentionDecoder(
        VOCABULARY, keras.layers.GRUCell(6, dtype=policy), 7, copy_prior="gated", dtype=policy
    )
    decoder.build((None, None), (None, None, 5))
    decoder.set_weights(wide.get_weights())
    more = {"source": source, "encoded_mask": mask}
    logits = decoder(target, encoded, **more)
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    expected = ops.convert_to_numpy(wide(target, encoded, **more))
    error = np.abs(ops.convert_to_numpy(ops.cast(logits, "float32")) - expected).max()
    assert error < (0.3 if policy == "mixed_bfloat16" else 0.04) * np.abs(expected).max()
    loss = SequenceCrossentropy(0.1)(target, ops.cast(logits, "float32"))
    assert np.isfinite(ops.convert_to_numpy(loss))


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    more=st.integers(0, 3),
    cell=st.sampled_from(sorted(CELLS)),
    copy_prior=st.sampled_from((None, "averaged", "gated")),
    filler=st.sampled_from((0.0, 9.0, -1e4)),
)
def test_no_padding_of_any_source_changes_a_logit(lengths, more, cell, copy_prior, filler):
    key = cell, copy_prior
    if key not in DECODERS:
        DECODERS[key] = decoder_of(cell, copy_prior=copy_prior)
    decoder, rng = DECODERS[key], np.random.default_rng(len(lengths))
    batch, longest = len(lengths), max(lengths) + more
    mask = np.arange(longest) < np.array(lengths)[:, None]
    encoded = rng.standard_normal((batch, longest, 5)).astype("f4")
    encoded = np.where(mask[..., None], encoded, np.float32(filler))
    source = np.where(mask, rng.integers(4, VOCABULARY, mask.shape), 0).astype("int32")
    target = rng.integers(4, VOCABULARY, (batch, 3)).astype("int32")
    of = (lambda rows, n: source[rows, :n]) if copy_prior else lambda rows, n: None
    at_once = ops.convert_to_numpy(decoder(target, encoded, of(slice(None), None), mask))
    for b, length in enumerate(lengths):
        rows = slice(b, b + 1)
        alone = decoder(target[rows], encoded[rows, :length], of(rows, length))
        np.testing.assert_allclose(ops.convert_to_numpy(alone)[0], at_once[b], atol=2e-5)


@pytest.mark.parametrize("axes", (2, 3))
def test_conditional_normalization(axes, rng):
    inputs = rng.standard_normal((*(4, 3)[: axes - 1], 6)).astype("f4")
    condition = rng.standard_normal((4, 2)).astype("f4")
    layer = ConditionalLayerNormalization(1e-5)
    plain = keras.layers.LayerNormalization(epsilon=1e-5)
    expected = ops.convert_to_numpy(plain(inputs))
    np.testing.assert_allclose(ops.convert_to_numpy(layer(inputs, condition)), expected, atol=1e-5)
    weights = [rng.standard_normal(w.shape).astype("f4") for w in layer.weights]
    layer.set_weights(weights)
    gamma, beta, to_gamma, to_beta = weights
    shape = (4, *(1,) * (axes - 2), 6)
    gamma = np.reshape(gamma + condition @ to_gamma, shape)
    beta = np.reshape(beta + condition @ to_beta, shape)
    result = ops.convert_to_numpy(layer(inputs, condition))
    np.testing.assert_allclose(result, gamma * expected + beta, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="condition must have at most the axes of inputs"):
        layer(inputs[0], np.ones((4, 2, 2, 2), "f4"))


@pytest.mark.parametrize("smoothing", (0.0, 0.2))
def test_the_loss_is_the_mean_over_tokens_that_are_there(smoothing, rng):
    logits = rng.standard_normal((3, 4, 5)).astype("f4")
    y_true = np.array([[1, 2, 3, 4], [2, 0, 0, 0], [0, 0, 0, 0]])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(log_p, y_true[..., None], -1)[..., 0]
    losses = -(1 - smoothing) * own - smoothing * log_p.mean(-1)
    expected = losses[y_true != 0].mean()
    loss = SequenceCrossentropy(smoothing)
    np.testing.assert_allclose(float(loss(y_true, logits)), expected, rtol=1e-5)
    padded = np.pad(y_true, [(0, 0), (0, 2)]), np.pad(logits, [(0, 0), (0, 2), (0, 0)])
    np.testing.assert_allclose(float(loss(*padded)), expected, rtol=1e-5)
    weights = np.array([0.5, 2.0, 9.0])
    of_tokens = weights[:, None] * (y_true != 0)
    np.testing.assert_allclose(
        float(loss(y_true, logits, weights)),
        (losses * of_tokens).sum() / of_tokens.sum(),
        rtol=1e-5,
    )
    same = SequenceCrossentropy.from_config(loss.get_config())
    np.testing.assert_allclose(float(same(y_true, logits)), expected, rtol=1e-5)
