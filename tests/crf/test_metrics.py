"""Exact match and span scores as Keras metrics, compared with plain Python and seqeval."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkeras.crf import span_scores
from fastkeras.layers import CRF
from fastkeras.metrics import CRFExactMatch, CRFSpanScore

pytest.importorskip("seqeval", reason="seqeval, which counts spans, is not installed")

# NumPy 2 warns when Keras saves variables with np.array(variable)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IOB1": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "BIOES": ["O", *(f"{letter}-{kind}" for kind in ("A", "B") for letter in "BIES")],
    "BIOUL": ["O", *(f"{letter}-{kind}" for kind in ("A", "B") for letter in "BIUL")],
    "BMES": list("BMES"),
}
BATCH, STEPS = 3, 7


def emissions_of(tags, num_tags):
    """Scores for which these tags are the best sequence."""
    return (9 * np.eye(num_tags)[tags]).astype("float32")


def layer(num_tags):
    return CRF(num_tags, use_boundaries=False, transitions_initializer="zeros")


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(NAMES)), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_span_scores_are_those_of_seqeval(scheme, strict, masked, seed):
    names = NAMES[scheme]
    strict = scheme if strict and scheme != "IOB1" else None
    rng = np.random.default_rng(seed)
    tags, found = rng.integers(0, len(names), (2, BATCH, STEPS))
    found = np.where(rng.random((BATCH, STEPS)) < 0.7, tags, found)  # so that some are right
    mask = rng.random((BATCH, STEPS)) < 0.8 if masked else np.ones((BATCH, STEPS), bool)
    expected = span_scores(tags, found, names, strict, mask)
    crf = layer(len(names))
    emissions = crf(emissions_of(found, len(names)), mask=mask)
    kinds = [None, *(kind for kind in expected if kind != "micro avg")]
    for kind in kinds:
        score = expected[kind or "micro avg"]
        for measure in ("precision", "recall", "f1"):
            metric = CRFSpanScore(crf, names, measure, kind, strict)
            metric.update_state(np.where(mask, tags, -100), emissions)
            assert float(metric.result()) == pytest.approx(getattr(score, measure), abs=1e-6)
    assert {kind for kind in metric._tables.kinds} >= set(kinds) - {None}


def test_weights_and_batches_add_up(rng):
    names = NAMES["BIO"]
    tags, found = rng.integers(0, 5, (2, 4, STEPS))
    found[:2] = tags[:2]
    weights = np.array([2, 0, 1, 3])
    crf = layer(5)
    spans, exact = CRFSpanScore(crf, names, "recall"), CRFExactMatch(crf)
    for half in (slice(0, 2), slice(2, 4)):
        emissions = crf(emissions_of(found[half], 5))
        for metric in (spans, exact):
            metric.update_state(tags[half], emissions, sample_weight=weights[half])
    repeated = np.repeat(tags, weights, axis=0), np.repeat(found, weights, axis=0)
    expected = span_scores(*repeated, names)["micro avg"].recall
    assert 0 < expected < 1
    assert float(spans.result()) == pytest.approx(expected)
    assert float(exact.result()) == pytest.approx(2 / 6)
    for metric in (spans, exact):
        metric.reset_state()
        assert float(metric.result()) == 0


def test_exact_match_leaves_out_what_is_masked():
    crf = layer(3)
    found = np.array([[0, 1, 2], [2, 1, 0], [1, 1, 1]])
    tags = np.array([[0, 1, -100], [2, 1, 1], [0, 0, 0]])
    mask = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    metric = CRFExactMatch(crf)
    metric.update_state(tags, crf(emissions_of(found, 3), mask=mask))
    assert float(metric.result()) == 0.5  # the first is right, of two that have steps


@pytest.mark.parametrize("jit_compile", (False, True))
def test_in_fit_and_saved(jit_compile, tmp_path, rng):
    names = NAMES["BIO"]
    x = rng.standard_normal((20, STEPS, 4)).astype("float32")
    y = x.argmax(axis=-1)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((None, 4))
    crf = CRF(5, use_kernel=True)
    model = keras.Model(inputs, crf(inputs))
    metrics = [CRFExactMatch(crf), CRFSpanScore(crf, names), CRFSpanScore(crf, names, kind="PER")]
    model.compile(keras.optimizers.Adam(0.1), crf.loss, metrics=metrics, jit_compile=jit_compile)
    history = model.fit(x, y, epochs=8, batch_size=8, verbose=0).history
    assert {"exact_match", "span_f1", "span_f1_PER"} < history.keys()
    result = model.evaluate(x, y, batch_size=7, verbose=0, return_dict=True)
    found = crf.decode(model).predict(x, verbose=0)
    expected = span_scores(y, found, names)
    assert 0.1 < expected["PER"].f1 != expected["micro avg"].f1
    assert result["span_f1"] == pytest.approx(expected["micro avg"].f1, abs=1e-6)
    assert result["span_f1_PER"] == pytest.approx(expected["PER"].f1, abs=1e-6)
    assert result["exact_match"] == pytest.approx((found == y).all(axis=1).mean())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(x, y, verbose=0, return_dict=True) == pytest.approx(result, rel=1e-5)


def test_errors_name_the_argument():
    names = NAMES["BIO"]
    for arguments, message in (
        ({"names": []}, "names must be the names of the tags, got none"),
        ({"names": ["O", "X-PER"]}, "tags must be 'O', or one of"),
        ({"names": names, "measure": "f2"}, "measure='f2' must be one of f1, precision, recall"),
        ({"names": names, "kind": "ORG"}, "kind must be one of the types in names, LOC, PER"),
        ({"names": names, "scheme": "IOB1"}, "scheme='IOB1' must be one of BIO, "),
    ):
        with pytest.raises(ValueError, match=message):
            CRFSpanScore(**arguments)
