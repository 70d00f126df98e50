"""Span precision, recall and F1, compared with spans counted by hand; and the callback."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from fastkeras.crf.span_metrics import SpanScore, span_evaluation, span_scores

NAMES = {
    "BIO": ["O", "B-x", "I-x", "B-y", "I-y"],
    "IOB1": ["O", "B-x", "I-x", "B-y", "I-y"],
    "BIOES": ["O", "B-x", "I-x", "E-x", "S-x", "B-y", "I-y", "E-y", "S-y"],
    "BIOUL": ["O", "B-x", "I-x", "L-x", "U-x", "B-y", "I-y", "L-y", "U-y"],
    "BMES": ["O", "B-x", "M-x", "E-x", "S-x", "B-y", "M-y", "E-y", "S-y"],
}


def test_without_seqeval_the_error_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(ImportError, match=r"^span_scores needs seqeval: pip install seqeval"):
        span_scores([[0]], [[0]], ["O"])


@pytest.fixture
def seqeval():
    pytest.importorskip("seqeval", reason="seqeval is not installed")


def encode(spans, steps, scheme):
    """Return the tags of spans (first, stop, type)."""
    tags = ["O"] * steps
    for first, stop, kind in spans:
        letters = ["B"] + ["M" if scheme == "BMES" else "I"] * (stop - first - 1)
        if scheme == "IOB1":
            letters[0] = "B" if first and tags[first - 1][2:] == kind else "I"
        elif scheme != "BIO":
            letters[-1] = "L" if scheme == "BIOUL" else "E"
            letters = [("U" if scheme == "BIOUL" else "S")] if stop - first == 1 else letters
        tags[first:stop] = [f"{letter}-{kind}" for letter in letters]
    return [NAMES[scheme].index(tag) for tag in tags]


def draw_spans(rng, steps):
    cuts = np.unique(rng.integers(0, steps + 1, 6))
    cuts = pairwise(cuts.tolist())
    return [(a, b, "xy"[rng.integers(2)]) for a, b in cuts if rng.random() < 0.7]


@pytest.mark.parametrize("strict", (False, True))
@pytest.mark.parametrize("scheme", NAMES)
def test_scores_are_those_of_the_spans(scheme, strict, rng, seqeval):
    steps, true, found = 9, [], []
    for _ in range(30):
        spans = draw_spans(rng, steps)
        true.append(spans)
        found.append([s for s in spans if rng.random() < 0.7] if rng.random() < 0.7 else [])
        if not found[-1]:
            found[-1] = draw_spans(rng, steps)
    tags = [[encode(spans, steps, scheme) for spans in side] for side in (true, found)]
    scores = span_scores(*tags, NAMES[scheme], scheme=scheme if strict else None)
    for kind in ("x", "y", "micro avg"):
        sets = [
            {(b, *s) for b, spans in enumerate(side) for s in spans if kind in ("micro avg", s[2])}
            for side in (true, found)
        ]
        hits = len(sets[0] & sets[1])
        precision, recall = hits / len(sets[1]), hits / len(sets[0])
        f1 = 2 * precision * recall / (precision + recall)
        assert scores[kind] == pytest.approx((precision, recall, f1, len(sets[0])), rel=1e-12)
    assert set(scores) == {"x", "y", "micro avg"}


def test_masked_and_unlabelled_steps_do_not_count(seqeval):
    true = np.array([[-100, 1, 2, 1, 0], [1, 1, 0, 0, 0]])
    found = np.array([[1, 1, 2, 0, 0], [1, 2, 2, 1, 1]])
    mask = np.array([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], bool)
    scores = span_scores(true, found, ["O", "B-x", "I-x"], mask=mask)
    assert scores["x"] == SpanScore(1.0, pytest.approx(2 / 3), pytest.approx(0.8), 3)


def test_only_strictly_is_a_wrong_begin_no_span(seqeval):
    arguments = [[1, 2, 0]], [[2, 2, 0]], ["O", "B-x", "I-x"]
    assert span_scores(*arguments)["x"].f1 == 1
    assert span_scores(*arguments, scheme="BIO")["x"] == SpanScore(0.0, 0.0, 0.0, 1)


def test_nothing_to_find_scores_zero(seqeval):
    nothing = SpanScore(0.0, 0.0, 0.0, 0)
    for tags in ([], [[0, 0]], [[]]):
        for scheme in (None, "BIO"):
            assert span_scores(tags, tags, ["O", "B", "I"], scheme) == {"micro avg": nothing}


@pytest.mark.parametrize(
    ("true", "found", "message"),
    (
        ([[0, 1]], [[0]], r"^found_tags must have the shape of true_tags, \(2,\)"),
        ([[0]], [[0], [0]], r"^found_tags must be as many sequences as true_tags, 1, got 2"),
        ([[3]], [[0]], r"^true_tags must be in 0\.\.2 .* got values in 3\.\.3"),
        ([[0]], [[-1]], r"^found_tags must be in 0\.\.2"),
        ([[1.5]], [[0]], "^true_tags must be whole numbers"),
        ([[float("nan")]], [[0]], "^true_tags must be whole numbers"),
    ),
)
def test_bad_tags_raise(true, found, message, seqeval):
    with pytest.raises(ValueError, match=message):
        span_scores(true, found, ["O", "B-x", "I-x"])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_callback_keeps_the_weights_of_the_best_epoch(seqeval, rng):
    keras = pytest.importorskip("keras")
    from fastkeras.callbacks import Evaluate
    from fastkeras.layers import CRF

    keras.utils.set_random_seed(0)
    words = rng.integers(1, 9, (32, 6))
    tags = np.where(words > 6, 1, np.where((np.roll(words, 1, axis=1) > 6) & (words > 3), 2, 0))
    tags[:, 0] = (words[:, 0] > 6).astype(int)
    crf = CRF(3, use_kernel=True)
    model = keras.Sequential([keras.Input((None,)), keras.layers.Embedding(9, 8), crf])
    model.compile(keras.optimizers.Adam(0.05), loss=crf.loss)
    spans = span_evaluation(crf, words, tags, ["O", "B-x", "I-x"])
    callback = Evaluate(spans, monitor="span_f1")
    history = model.fit(words, tags, epochs=4, verbose=0, callbacks=[callback]).history
    assert callback.best == max(history["span_f1"]) > 0
    assert history["span_f1_x"] == history["span_f1"]
    assert spans(model)["span_f1"] == callback.best
