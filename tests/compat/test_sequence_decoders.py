"""The interfaces of bert4keras and keras-hub for decoding, against enumeration and the models."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import ops  # noqa: E402

from fastkeras.compat.bert4keras import AutoRegressiveDecoder  # noqa: E402
from fastkeras.compat.keras_hub import causal_lm, seq_2_seq_lm  # noqa: E402
from fastkeras.seq2seq import BeamSearch  # noqa: E402

# NumPy 2 warns when Keras on torch makes arrays with np.array(tensor)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
END, START, WORDS = 0, 1, 4


class Chain(AutoRegressiveDecoder):
    """The next token depends on the last two, and on the sample."""

    tables = np.random.default_rng(0).dirichlet(np.ones(WORDS), (WORDS, WORDS))

    @AutoRegressiveDecoder.wraps(default_rtype="probas", use_states=True)
    def predict(self, inputs, output_ids, states):
        assert output_ids.dtype == int and len(inputs[0]) == len(output_ids)
        last = output_ids[:, -1]
        before = output_ids[:, -2] if output_ids.shape[1] > 1 else np.full_like(last, END)
        p = self.tables[before, last] * inputs[0]
        return p / p.sum(axis=1, keepdims=True), (states or 0) + 1


def enumerated(decoder, weights, temperature=1):
    """All sequences with start and end, and their probabilities."""
    found, open_ones = {}, {(START,): 1.0}
    for step in range(decoder.maxlen):
        following = {}
        for tokens, p in open_ones.items():
            rows = np.array([tokens])
            probas, _ = decoder.predict([weights[None]], rows, None, temperature)
            for token in range(WORDS):
                into = found if token == END else following
                if token != END or step + 2 >= decoder.minlen:
                    into[(*tokens, token)] = p * probas[0, token]
        open_ones = following
    return found


@pytest.mark.parametrize(("minlen", "temperature"), ((1, 1), (4, 1), (1, 0.5)))
def test_bert4keras_finds_the_best_sequence(minlen, temperature):
    decoder = Chain(START, END, maxlen=5, minlen=minlen)
    weights = np.array([1.0, 2.0, 0.5, 1.5])
    best = decoder.beam_search([weights], topk=4**4, temperature=temperature)
    exact = enumerated(decoder, weights, temperature)
    assert tuple(best) == max(exact, key=exact.get)
    average = decoder.beam_search([weights], 4**4, temperature=temperature, length_penalty=1.0)
    assert tuple(average) == max(
        exact, key=lambda tokens: np.log(exact[tokens]) / (len(tokens) - 1)
    )


def test_bert4keras_draws_as_often_as_it_is_probable():
    decoder, weights = Chain(START, END, maxlen=5), np.ones(WORDS)
    drawn = [tuple(tokens) for tokens in decoder.random_sample([weights], n=5000, seed=0)]
    for tokens, p in enumerated(decoder, weights).items():
        if len(tokens) < 5:
            share = drawn.count(tokens) / 5000
            assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / 5000) + 1e-9
    greedy = decoder.random_sample([weights], n=2, topk=1)
    np.testing.assert_array_equal(greedy[0], greedy[1])


def test_bert4keras_begins_without_a_start_and_takes_logits():
    class Logits(AutoRegressiveDecoder):
        @AutoRegressiveDecoder.wraps(default_rtype="logits")
        def predict(self, inputs, output_ids, states):
            logits = np.zeros((len(output_ids), WORDS))
            logits[:, output_ids.shape[1] + 1 if output_ids.shape[1] < 2 else END] = 5
            return logits

    np.testing.assert_array_equal(Logits(None, END, 6).beam_search([], topk=2), [1, 2, END])
    with pytest.raises(ValueError, match="min_ends=2 must be 1"):
        Logits(None, END, 6).beam_search([], topk=2, min_ends=2)
    with pytest.raises(ValueError, match="default_rtype='scores' must be"):
        AutoRegressiveDecoder.wraps("scores")


def test_bert4keras_last_token():
    model = keras.Sequential([keras.layers.Input((3, 2)), keras.layers.Dense(4)])
    decoder, inputs = Chain(START, END, 3), np.random.default_rng(0).random((2, 3, 2))
    last = decoder.last_token(model)
    assert last is decoder.last_token(model)
    expected = ops.convert_to_numpy(model(inputs))[:, -1]
    np.testing.assert_allclose(ops.convert_to_numpy(last(inputs)), expected, rtol=1e-6)


def hub():
    """keras-hub, which is installed without what it needs for text."""
    return pytest.importorskip("keras_hub", reason="keras-hub is not installed")


def log_p_of(logits, targets):
    logits = ops.convert_to_numpy(logits).astype("f8")
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return np.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]


def spread(model):
    """Larger weights, so that the sequences differ."""
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape, seed=3) * 0.5)


def test_a_causal_model_of_keras_hub_scores_what_a_search_finds():
    models = hub().models
    keras.utils.set_random_seed(0)
    size = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = models.GPT2Backbone(vocabulary_size=12, max_sequence_length=20, **size)
    model = models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    spread(model)
    prompts = np.array([[3, 5, 4], [7, 2, 2]])
    search = BeamSearch(END, num_beams=3, n_best=3, max_length=6, min_length=2)
    found = search(**causal_lm(model, prompts, max_length=6))
    for b in range(2):
        for i in range(3):
            tokens = found.tokens[b, i, : found.lengths[b, i]]
            whole = np.array([[*prompts[b], *tokens, END]])
            inputs = {"token_ids": whole[:, :-1], "padding_mask": np.ones_like(whole[:, :-1])}
            each = log_p_of(model(inputs), whole[:, 1:])[0, 2:]
            np.testing.assert_allclose(found.log_likelihoods[b, i], each.sum(), rtol=1e-4)
    assert len({tuple(row) for row in found.tokens.reshape(6, -1).tolist()}) > 3
    with pytest.raises(ValueError, match=r"^prompts must have shape \(batch, steps >= 1\)"):
        causal_lm(model, prompts[0], max_length=6)


def test_a_seq2seq_model_of_keras_hub_scores_what_a_search_finds():
    models = hub().models
    keras.utils.set_random_seed(0)
    size = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = models.BartBackbone(vocabulary_size=12, max_sequence_length=20, **size)
    model = models.BartSeq2SeqLM(backbone=backbone, preprocessor=None)
    spread(model)
    sources = np.array([[3, 5, 4, 8], [7, 2, 1, 1]])  # 1: padding
    search = BeamSearch(END, num_beams=3, n_best=2, max_length=5, min_length=2)
    found = search(**seq_2_seq_lm(model, sources, start=2, max_length=5, padding=1))
    for b in range(2):
        for i in range(2):
            tokens = found.tokens[b, i, : found.lengths[b, i]]
            target = np.array([[2, *tokens, END]])
            inputs = {
                "encoder_token_ids": sources[b : b + 1],
                "encoder_padding_mask": (sources[b : b + 1] != 1).astype(int),
                "decoder_token_ids": target[:, :-1],
                "decoder_padding_mask": np.ones_like(target[:, :-1]),
            }
            each = log_p_of(model(inputs), target[:, 1:])
            np.testing.assert_allclose(found.log_likelihoods[b, i], each.sum(), rtol=1e-4)
