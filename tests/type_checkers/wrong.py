"""Mistakes that the type checkers find; where they do not, they call the comment unused."""

import numpy as np

import fastkeras
from fastkeras import crf
from fastkeras.crf import constraints
from fastkeras.layers import CRF, GlobalPointer, SemiMarkovCRF
from fastkeras.losses import CRFLoss
from fastkeras.metrics import CRFAccuracy
from fastkeras.optimizers import AdamW, layerwise_decay, transforms, update
from fastkeras.seq2seq import BeamSearch, select
from fastkeras.tagging import decode_spans
from fastkeras.training import ExponentialMovingAverage, Warmup
from fastkeras.word2vec import Vectors, Word2Vec

X, A, TAGS = np.zeros((1, 3, 4)), np.zeros((4, 4)), np.zeros((1, 3), int)

crf.viterbi(X)  # type: ignore[call-arg]
crf.viterbi(X, "transitions")  # type: ignore[arg-type]
crf.viterbi(X, A, engine=1)  # type: ignore[arg-type]
crf.viterbi(X, A, None, None)  # type: ignore[call-arg]
crf.viterbi(X, A, length=[3])  # type: ignore[call-arg]
crf.k_best(X, A, "3")  # type: ignore[arg-type]
crf.log_likelihood(X, None, A)  # type: ignore[arg-type]
crf.smoothed_log_likelihood(X, TAGS, A)  # type: ignore[call-arg]
crf.memm.log_likelihood(X, TAGS, A, bidirectional="yes")  # type: ignore[arg-type]
crf.semi_markov.viterbi(X, A)  # type: ignore[call-arg]
crf.viterbi_decode  # type: ignore[attr-defined]  # noqa: B018
constraints.allowed("BIO", 3)  # type: ignore[arg-type]
fastkeras.engines(crf)  # type: ignore[arg-type]
fastkeras.layer  # type: ignore[attr-defined]  # noqa: B018

CRF("9")  # type: ignore[arg-type]
CRF(9, transitions_initializer=0)  # type: ignore[arg-type]
CRF(9).marginals(X, A, A)  # type: ignore[call-arg]
SemiMarkovCRF(3)  # type: ignore[call-arg]
GlobalPointer(num_types="2")  # type: ignore[arg-type]
decode_spans(None)  # type: ignore[arg-type]
CRFLoss(label_smoothing="0.1")  # type: ignore[arg-type]
CRFAccuracy(layer=3)  # type: ignore[arg-type]

AdamW(1e-3, learning_rate_multipliers=10.0)  # type: ignore[arg-type]
AdamW(1e-3, gradient_transforms="centralize")  # type: ignore[arg-type]
AdamW(1e-3, moment_bits="8")  # type: ignore[arg-type]
layerwise_decay(CRF(9), "0.9")  # type: ignore[arg-type]
transforms.clip_by_norm()  # type: ignore[call-arg]
update("adam", [A], [A], [(A, A)])  # type: ignore[call-arg]

BeamSearch()  # type: ignore[call-arg]
BeamSearch(end="</s>")  # type: ignore[arg-type]
BeamSearch(3)(3, start=2)  # type: ignore[arg-type]
select(X, None)  # type: ignore[arg-type]

ExponentialMovingAverage("0.9")  # type: ignore[arg-type]
Warmup(steps="all")  # type: ignore[arg-type]

Word2Vec(size=100)  # type: ignore[call-arg]
Word2Vec(window="5")  # type: ignore[arg-type]
Word2Vec().fit([["a"]], None)  # type: ignore[call-arg]
Vectors(["a"], 3)  # type: ignore[arg-type]
Vectors(["a"], A).most_similar(3)  # type: ignore[arg-type]
