"""The transformer that decodes: its steps equal training, whatever the ancestors of a beam."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import ops  # noqa: E402

from fastkeras.layers import TransformerDecoder  # noqa: E402
from fastkeras.losses import SequenceCrossentropy  # noqa: E402
from fastkeras.seq2seq import BeamSearch  # noqa: E402
from test_compiled_search import BACKEND, HOW, assert_same, compiled  # noqa: E402

# NumPy 2 warns when Keras on torch makes arrays with np.array(tensor)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
START, END, VOCABULARY, BEAMS, LONGEST = 2, 3, 11, 4, 8


def decoder_of(**options):
    keras.utils.set_random_seed(1)
    decoder = TransformerDecoder(VOCABULARY, units=8, num_heads=2, num_layers=2, **options)
    decoder.build((None, None), (None, None, 5))
    for weight in decoder.trainable_weights:  # initial zeros, of biases for instance, hide mistakes
        weight.assign(weight + keras.random.normal(weight.shape, seed=2) * 0.7)
    return decoder


def sources(rng, batch=3):
    """Sources of different lengths, padded, their encodings and masks."""
    source = rng.integers(4, VOCABULARY, (batch, 6)).astype("int32")
    mask = np.arange(6) < np.array([6, 4, 1])[:batch, None]
    return np.where(mask, source, 0), rng.standard_normal((batch, 6, 5)).astype("f4"), mask


def search_of(**options):
    return BeamSearch(END, BEAMS, max_length=LONGEST, suppressed=(0, 1, START), **options)


def begun(decoder, encoded, source=None, mask=None):
    return decoder.begin(encoded, source, mask, num_beams=BEAMS, max_length=LONGEST)


def found_by(decoder, *given, **options):
    """What a search finds; compiled on JAX, which would compile every operation of every step."""
    search = search_of(**options)

    def titles(*given):
        return search(decoder.step, *begun(decoder, *given), start=START)

    tensors = [None if array is None else ops.convert_to_tensor(array) for array in given]
    found = (compiled(titles, None) if BACKEND == "jax" else titles)(*tensors)
    return found._replace(
        **{
            name: ops.convert_to_numpy(value)
            for name, value in found._asdict().items()
            if value is not None
        }
    )


@pytest.mark.parametrize("copy_prior", (None, "averaged", "gated"))
def test_what_a_search_finds_has_the_likelihood_of_training(copy_prior, rng):
    decoder = decoder_of(copy_prior=copy_prior)
    source, encoded, mask = sources(rng)
    given = encoded, source if copy_prior else None, mask
    found = found_by(decoder, *given, n_best=4, length_penalty=1.0)
    assert found.lengths.sum() > 12  # not all end at once
    for i in range(4):
        tokens, lengths = found.tokens[:, i], found.lengths[:, i]
        target = np.pad(tokens, [(0, 0), (0, LONGEST + 1 - tokens.shape[1])])
        target[np.arange(3), lengths] = END
        inputs = np.pad(target[:, :-1], [(0, 0), (1, 0)], constant_values=START)
        logits = ops.convert_to_numpy(decoder(inputs, *given)).astype("f8")
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        each = np.take_along_axis(log_p, target[..., None], axis=2)[..., 0]
        each = np.where(np.arange(LONGEST + 1) <= lengths[:, None], each, 0)
        np.testing.assert_allclose(found.log_likelihoods[:, i], each.sum(axis=1), rtol=1e-4)


def test_a_search_is_that_without_a_cache(rng):
    decoder = decoder_of()
    _, encoded, mask = sources(rng)

    def step(tokens, states, context, ancestry):
        """All tokens so far are states, and everything is computed again."""
        so_far, n = ops.convert_to_numpy(states).copy(), ancestry.shape[2]
        so_far[:, :, n - 1] = ops.convert_to_numpy(tokens)
        logits = []
        for beam in range(BEAMS):
            target = so_far[:, beam, :n].astype("int32")
            given = ops.convert_to_numpy(context["mask"])
            logits.append(decoder(target, context["encoded"], encoded_mask=given)[:, -1])
        return ops.stack(logits, axis=1), ops.convert_to_tensor(so_far), context

    context = {"encoded": ops.convert_to_tensor(encoded), "mask": ops.convert_to_tensor(mask)}
    states = ops.zeros((3, LONGEST + 1), "int32")
    expected = search_of(n_best=3)(step, states, context, start=START)
    found = found_by(decoder, encoded, None, mask, n_best=3)
    assert_same(found, expected, 1e-4)


@pytest.mark.parametrize("how", HOW)
def test_a_compiled_search_is_the_search(how, rng):
    decoder = decoder_of(copy_prior="averaged")
    source, encoded, mask = sources(rng)
    search = search_of(n_best=2, coverage_penalty=0.3, return_attention=True)

    def titles(source, encoded, mask):
        states, context = begun(decoder, encoded, source, mask)
        return search(decoder.step, states, context, start=START, source_mask=mask)

    tensors = [ops.convert_to_tensor(array) for array in (source, encoded, mask)]
    shapes = [(array.shape, keras.backend.standardize_dtype(array.dtype)) for array in tensors]
    assert_same(compiled(titles, how, shapes)(*tensors), titles(*tensors), 1e-4)


@pytest.mark.skipif(BACKEND != "jax", reason="reads the program that JAX compiles")
def test_no_step_copies_the_cache(rng):
    import jax

    decoder, search = decoder_of(), search_of(min_length=LONGEST)

    def titles(encoded):
        return search(decoder.step, *begun(decoder, encoded), start=START).scores

    program = jax.jit(titles).lower(rng.standard_normal((3, 6, 5)).astype("f4")).compile().as_text()
    shape = f"f32[3,2,{(LONGEST + 1) * BEAMS},4]"
    copies = [line for line in program.splitlines() if f"= {shape}" in line and " copy(" in line]
    assert f"{shape}" in program and len(copies) <= 2 * len(decoder.blocks)  # once, before the loop


def test_padding_changes_neither_logits_nor_titles(rng):
    decoder = decoder_of(copy_prior="averaged")
    source, encoded, mask = sources(rng)
    target = rng.integers(4, VOCABULARY, (3, 6)).astype("int32")
    expected = ops.convert_to_numpy(decoder(target, encoded, source, mask))
    wide = [(0, 0), (0, 3)]
    more = np.pad(encoded, [*wide, (0, 0)], constant_values=9), np.pad(source, wide)
    logits = ops.convert_to_numpy(decoder(np.pad(target, wide), *more, np.pad(mask, wide)))
    np.testing.assert_allclose(logits[:, :6], expected, atol=1e-4)
    found = found_by(decoder, encoded, source, mask)
    for b in range(3):  # each alone, without any padding
        n, here = mask[b].sum(), slice(b, b + 1)
        one = found_by(decoder, encoded[here, :n], source[here, :n])
        m = one.lengths[0, 0]
        np.testing.assert_array_equal(one.tokens[0, 0, :m], found.tokens[b, 0, :m])
        np.testing.assert_array_equal(one.lengths[0], found.lengths[b])
        np.testing.assert_allclose(one.scores[0], found.scores[b], rtol=1e-4)


def test_in_a_model_it_trains_and_is_saved(rng, tmp_path):
    source, _, _ = sources(rng)
    target = rng.integers(4, VOCABULARY, (3, 6)).astype("int32")
    inputs = [keras.Input((None,), dtype="int32") for _ in range(2)]
    embedded = keras.layers.Embedding(VOCABULARY, 8, mask_zero=True)(inputs[0])
    decoder = TransformerDecoder(VOCABULARY, 8, 2, dropout=0.1, copy_prior="gated")
    model = keras.Model(inputs, decoder(inputs[1], embedded, inputs[0]))
    model.compile(keras.optimizers.Adam(0.02), SequenceCrossentropy(0.1))
    losses = model.fit([source, target], target, epochs=10, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = model.predict([source, target], verbose=0)
    np.testing.assert_allclose(
        loaded.predict([source, target], verbose=0), expected, rtol=1e-4, atol=1e-5
    )
    alone = model.predict([source[2:, :1], target[2:]], verbose=0)  # a source without its padding
    np.testing.assert_allclose(alone, expected[2:], rtol=1e-3, atol=1e-4)


def test_bad_arguments_raise(rng):
    with pytest.raises(ValueError, match=r"^units=6 must be a multiple of 2 · num_heads=4"):
        TransformerDecoder(9, units=6, num_heads=2)
    with pytest.raises(ValueError, match=r"^num_layers=0 must be an integer"):
        TransformerDecoder(9, units=8, num_layers=0)
    _, encoded, _ = sources(rng)
    with pytest.raises(ValueError, match="source must be given for a decoder with a copy_prior"):
        decoder_of(copy_prior="averaged").begin(encoded)


def test_a_source_may_have_no_steps(rng):
    decoder, (_, encoded, _) = decoder_of(), sources(rng)
    target = rng.integers(4, VOCABULARY, (3, 6)).astype("int32")
    nothing = ops.convert_to_numpy(decoder(target, encoded, encoded_mask=np.zeros((3, 6), bool)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(decoder(target, encoded[:, :0])), nothing, atol=1e-6
    )


@pytest.mark.parametrize("policy", ("mixed_bfloat16", "mixed_float16"))
def test_inner_layers_have_the_precision_of_the_decoder(policy, rng):
    source, encoded, mask = sources(rng)
    target = rng.integers(4, VOCABULARY, (3, 6)).astype("int32")
    wide = decoder_of(copy_prior="gated")
    options = {name: wide.get_config()[name] for name in ("num_heads", "num_layers")}
    decoder = TransformerDecoder(
        VOCABULARY, wide.units, copy_prior="gated", dtype=policy, **options
    )
    decoder.build((None, None), encoded.shape)
    decoder.set_weights(wide.get_weights())
    logits = decoder(target, encoded, source, mask)
    assert keras.backend.standardize_dtype(logits.dtype) == policy.removeprefix("mixed_")
    expected = ops.convert_to_numpy(wide(target, encoded, source, mask))
    error = np.abs(ops.convert_to_numpy(ops.cast(logits, "float32")) - expected).max()
    assert error < (0.3 if policy == "mixed_bfloat16" else 0.04) * np.abs(expected).max()
