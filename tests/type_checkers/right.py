"""What users write, as in README.md and docs: mypy, in its strict mode, and Pyright accept it."""

from pathlib import Path
from typing import Any, assert_type

import keras
import numpy as np
import numpy.typing as npt

import fastkeras
import fastkeras.compat.addons as tfa
from fastkeras import crf
from fastkeras.callbacks import Evaluate, ExponentialMovingAverage, PrintSamples, Warmup
from fastkeras.crf import LowRank, constraints, memm, semi_markov
from fastkeras.layers import (
    CBOW,
    CRF,
    MEMM,
    AttentionDecoder,
    GlobalPointer,
    LossLayer,
    SemiMarkovCRF,
    SkipGram,
)
from fastkeras.losses import CRFLoss, SmoothedCrossentropy, SpanCrossentropy, add_loss
from fastkeras.metrics import CRFExactMatch, CRFSpanScore, watch
from fastkeras.ops import gradient_reversal
from fastkeras.optimizers import (
    SGD,
    Adam,
    AdamW,
    PiecewiseLinear,
    layerwise_decay,
    set_learning_rate_multiplier,
    transforms,
    update,
)
from fastkeras.seq2seq import BeamSearch, CharacterVocabulary, Hypotheses, select, sequence_padding
from fastkeras.tagging import Span, decode_spans, span_labels
from fastkeras.training import SAM, Reparameterize, SingleLossGAN, SpectralNorm, train_with
from fastkeras.typing import ArrayLike, Tensor
from fastkeras.word2vec import Vectors, Vocabulary, Windows, Word2Vec, to_keras_embedding
from fastkeras.word2vec.corpus import encode
from fastkeras.word2vec.evaluation import evaluate_word_pairs
from fastkeras.word2vec.vocabulary import build

NAMES = ["O", "B-PER", "I-PER"]


def tagger() -> keras.Model:
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(5000, 64, mask_zero=True)(inputs)
    x = keras.layers.Bidirectional(keras.layers.LSTM(64, return_sequences=True))(x)
    layer = CRF(num_tags=3, use_kernel=True, constraints=constraints.allowed("BIO", NAMES))
    model = keras.Model(inputs, layer(x))
    adamw = AdamW(
        PiecewiseLinear({0: 0.0, 100: 1e-3}),
        weight_decay=0.01,
        learning_rate_multipliers=[*layerwise_decay(model, 0.9), ("head", 10.0), (layer, 10.0)],
        gradient_transforms=transforms.chain(transforms.centralize(), transforms.clip_by_norm(1.0)),
        weight_decay_overrides=[("bias|beta|gamma", 0.0)],
        moment_bits=8,
        global_clipnorm=1.0,
    )
    spans = CRFSpanScore(names=NAMES, scheme="BIO", kind="PER")
    model.compile(adamw, loss=layer.loss, metrics=[layer.accuracy, CRFExactMatch(), spans])
    model.compile(SGD(0.1, lazy=True), loss=CRFLoss(label_smoothing=0.1, tag_weights=[1, 2, 2]))
    set_learning_rate_multiplier(layer, 0.0)
    assert_type(adamw.report(model), int)
    assert_type(layer.loss, CRFLoss)
    return layer.decode(model, confidence=True)


def spans(states: Tensor) -> list[list[Span]]:
    inputs = keras.Input((None, 16))
    model = keras.Model(inputs, GlobalPointer(num_types=2)(inputs))
    model.compile(AdamW(), loss=SpanCrossentropy())
    labels = span_labels([[(0, 3, "ORG"), (0, 1, "LOC")]], ["LOC", "ORG"])
    assert_type(labels, npt.NDArray[np.int32])
    segments = SemiMarkovCRF(num_tags=3, max_length=4, use_kernel=True)
    assert_type(segments.loss, CRFLoss)
    best, _ = segments.k_best(segments(states), k=5)
    assert_type(best, Tensor)
    return decode_spans(model.predict(states), overlap="nested", names=["LOC", "ORG"])


def addons(base: keras.Model, words: npt.NDArray[np.int32]) -> Tensor:
    model = tfa.text.CRFModelWrapper(base, units=5)
    model.compile("adam", metrics=[keras.metrics.Accuracy()])
    tags, potentials, lengths, transitions = tfa.layers.CRF(5)(model.predict(words))
    log_likelihood, _ = tfa.text.crf_log_likelihood(potentials, tags, lengths, transitions)
    return log_likelihood


def crf_of_arrays(emissions: npt.NDArray[np.float32], tags: ArrayLike) -> float:
    transitions = np.zeros((3, 3), np.float32)
    rules = constraints.allowed("BIO", NAMES)
    best, score = crf.viterbi(emissions, **rules.apply(transitions), lengths=[2, 3])
    drawn = crf.sample(emissions, transitions, num_samples=5, seed=0)
    paths, scores = crf.k_best(emissions, LowRank(transitions, transitions), 3, engine="reference")
    unary, pairs = crf.marginals(emissions, transitions, mask=np.ones((2, 3), bool))
    log_p, gradients = crf.log_likelihood_and_gradients(emissions, tags, transitions)
    known = constraints.bitmap_of_tags(np.array(tags), 3)
    partly = crf.log_likelihood_of_sets(emissions, known, transitions)
    smooth = crf.smoothed_log_likelihood(emissions, tags, transitions, label_smoothing=0.1)
    local = memm.log_likelihood(emissions, tags, transitions, bidirectional=False)
    segments, begins, total = semi_markov.viterbi(emissions, transitions, np.zeros((4, 3)))
    stream = crf.ViterbiStream(transitions)
    assert_type(stream.feed(emissions[0]), npt.NDArray[np.int32])
    assert_type(crf.span_scores(tags, best, NAMES)["PER"].f1, float)
    assert_type(fastkeras.engines("crf"), dict[str, str])
    everything = [score, drawn, paths, scores, unary, pairs, log_p, gradients.emissions, partly]
    everything += [smooth, local, segments, begins, total]
    return float(sum(np.sum(one) for one in everything))


def entropy_of_tensors(emissions: Tensor, transitions: Tensor) -> Tensor:
    return crf.entropy(emissions, transitions) - crf.log_count(emissions, transitions)


def step_of_numpy(weights: npt.NDArray[np.float32]) -> bool:
    slots = [(np.zeros_like(weights), np.zeros_like(weights))]
    done = update("adam", [weights], [weights], slots, learning_rate=1e-3, step=1, beta_1=0.8)
    return bool(done)


def headlines(model: Any, encoded: Tensor) -> str:
    characters = CharacterVocabulary.of(["banana", "band"], min_count=2)
    decoder = AttentionDecoder(len(characters), keras.layers.LSTMCell(8), 8, copy_prior="gated")
    states, context = decoder.begin(encoded)
    search = BeamSearch(end=3, num_beams=4, length_penalty=1.0, suppressed=(0, 1, 2))
    found = search(decoder.step, states, context, start=2)
    assert_type(found, Hypotheses)
    scores, tokens, parents = select(np.zeros((1, 2, 5)), np.zeros((1, 2)), no_repeat_ngram=2)
    padded = sequence_padding([[1, 2], [3]], value=0)
    print(scores, tokens, parents, padded.shape)
    return characters.decode(found.tokens[0, 0])


def word_vectors(sentences: list[list[str]], path: Path) -> list[tuple[str, float]]:
    model = Word2Vec(vector_size=20, window=4, min_count=1, subwords=True).fit(sentences)
    model.resume(sentences).save(path)
    vectors = model.vectors
    vectors.save("vectors.bin")
    vectors = Vectors.load(path, limit=1000)
    assert_type(vectors["saw"], npt.NDArray[Any])
    assert_type(vectors.similarity("saw", "drill"), float)
    assert_type(evaluate_word_pairs(vectors, "pairs.tsv").spearman, float)
    vocabulary = build(sentences, min_count=1)
    assert_type(vocabulary, Vocabulary)
    ids = encode(sentences, vocabulary)
    windows = Windows(ids, vocabulary, objective="cbow", batch_size=64)
    layers = [SkipGram(vocabulary, 20), CBOW(vocabulary, 20, combiner="mean")]
    layers.append(to_keras_embedding(vectors, mask_zero=True))
    print(len(windows), layers)
    return vectors.most_similar(["king", vectors["woman"]], negative="man", topn=3)


def trained(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> keras.Model:
    inputs = keras.Input((4,))
    dense = Reparameterize(keras.layers.Dense(8), SpectralNorm())
    hidden = watch(gradient_reversal(dense(inputs), 0.5), "hidden", lambda h: h * h)
    outputs = LossLayer(lambda a, b: a - b, weight=0.1)([hidden, hidden])
    model = add_loss(keras.Model(inputs, outputs), hidden)
    model.compile(Adam(1e-3), SmoothedCrossentropy(0.1))
    averages = ExponentialMovingAverage(0.99, validate=True)
    score = Evaluate(lambda model: 0.5, monitor="score", mode="max")
    texts = PrintSamples(lambda model: ["a", "b"])
    train_with(model, SAM(rho=0.05))
    model.fit(x, y, callbacks=[averages, score, texts, Warmup(epochs=2)])
    with averages.applied():
        model.evaluate(x, y)
    gan = SingleLossGAN(model, model, loss="wasserstein", reverse=True)
    print(gan.generate(4).shape, score.best, MEMM(3, bidirectional=False))
    return model
