"""`SemiMarkovCRF`, its loss, metric and decoding against all segmentations, one by one."""

import itertools

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import crf as functions
from fastkeras.crf import Constraints, semi_markov
from fastkeras.layers import SemiMarkovCRF
from fastkeras.metrics import SegmentScore
from fastkeras.training.gradients.differentiate import value_and_gradients

# NumPy 2 complains about how Keras on TensorFlow and on torch makes arrays of tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, TAGS, MAX_LENGTH = 4, 5, 2, 3


def array(x):
    return np.asarray(ops.convert_to_numpy(x))


def segmentations(steps, start=0):
    """All segmentations of the steps from `start`: tuples of (first, last, tag)."""
    if start == steps:
        yield ()
    for end in range(start, min(start + MAX_LENGTH, steps)):
        for tag in range(TAGS):
            for rest in segmentations(steps, end + 1):
                yield ((start, end, tag), *rest)


def score_of(segments, x, begins, transitions, durations, start, end):
    score = 0.0
    for first, last, tag in segments:
        score += x[first : last + 1, tag].sum() + durations[last - first, tag] + begins[first, tag]
    score += sum(transitions[a[2], b[2]] for a, b in itertools.pairwise(segments))
    return score + (start[segments[0][2]] + end[segments[-1][2]] if segments else 0)


def layer_drawn(rng, **arguments):
    layer = SemiMarkovCRF(TAGS, MAX_LENGTH, **arguments)
    layer.build((None, None, layer.units))
    for weight in layer.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def scores_of(layer):
    zeros = np.zeros(TAGS)
    start, end = (
        zeros if scores is None else array(scores)
        for scores in (layer.start_transitions, layer.end_transitions)
    )
    return [array(layer.transitions), array(layer.durations), start, end]


def data(rng, layer, masked):
    x = rng.standard_normal((BATCH, STEPS, layer.units)).astype("float32")
    mask = np.ones((BATCH, STEPS), bool)
    if masked:
        mask[0, [0, 3]] = mask[1] = mask[2, 3:] = False
    labels = np.full((BATCH, STEPS), -100)
    for b in range(BATCH):
        all_of_them = list(segmentations(mask[b].sum()))
        chosen = all_of_them[rng.integers(len(all_of_them))]
        labels[b, mask[b]] = semi_markov.segment_labels([chosen])[0]
    return x, mask, labels


def enumerated(layer, x, mask, scores):
    """For each sequence: its segmentations and their scores, in float64."""
    for b in range(BATCH):
        steps = x[b, mask[b]].astype(float)
        begins = steps[:, TAGS:] if layer.use_begins else np.zeros_like(steps)
        every = list(segmentations(len(steps)))
        values = [score_of(of, steps[:, :TAGS], begins, *scores) for of in every]
        yield every, np.array(values)


def likelihoods(layer, x, mask, labels, scores):
    result = []
    for b, (every, values) in enumerate(enumerated(layer, x, mask, scores)):
        (gold,) = semi_markov.segments_of(labels[b : b + 1, mask[b]])
        result.append(values[every.index(tuple(gold))] - np.log(np.exp(values).sum()))
    return np.array(result)


ARGUMENTS = (
    {},
    {"use_begins": False},
    {"use_boundaries": False, "learning_rate_multiplier": 4.0},
    {"engine": "keras"},
)


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_likelihood_is_that_of_all_segmentations(arguments, masked, rng):
    layer = layer_drawn(rng, **arguments)
    x, mask, labels = data(rng, layer, masked)
    given = ops.convert_to_tensor(mask) if masked else None
    emissions = layer(x, mask=given)
    expected = likelihoods(layer, x, mask, labels, scores_of(layer))
    found = array(layer.log_likelihood(emissions, labels, given))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    weights = np.array([0.5, 0.0, 2.0, 1.0], "float32")
    loss = layer.loss(labels, emissions, weights)  # finds the mask by itself
    np.testing.assert_allclose(array(loss), -(weights * expected).mean(), rtol=1e-5)


@pytest.mark.parametrize("arguments", ARGUMENTS[:2])
def test_gradients_are_those_of_all_segmentations(arguments, rng):
    layer = layer_drawn(rng, **arguments)
    x, mask, labels = data(rng, layer, True)
    given = ops.convert_to_tensor(mask)

    def total(values):
        return ops.sum(layer.log_likelihood(values[0], labels, given)), None

    _, (of_emissions,) = value_and_gradients(total, [ops.convert_to_tensor(x)])
    scores, step = scores_of(layer), 1e-3

    def exact(x):
        return likelihoods(layer, x, mask, labels, scores).sum()

    x = x.astype(float)
    expected = np.zeros_like(x)
    for i in zip(*np.nonzero(mask[..., None] & np.ones(layer.units, bool)), strict=True):
        e = np.zeros_like(x)
        e[i] = step
        near, far = exact(x + e) - exact(x - e), exact(x + 2 * e) - exact(x - 2 * e)
        expected[i] = (8 * near - far) / (12 * step)
    np.testing.assert_allclose(array(of_emissions), expected, atol=1e-5)


@pytest.mark.parametrize("arguments", ARGUMENTS[:2])
def test_training_moves_all_weights_to_the_likelihood(arguments, rng):
    layer = SemiMarkovCRF(TAGS, MAX_LENGTH, use_kernel=True, **arguments)
    model = keras.Sequential([keras.Input((None, 3)), layer])
    model.compile(keras.optimizers.SGD(0.1), layer.loss)
    before = [array(weight) for weight in layer.weights]
    x = rng.standard_normal((8, STEPS, 3))
    labels = np.tile([1, -1, 0, 1, -1], (8, 1))
    losses = model.fit(x, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    for weight, old in zip(layer.weights, before, strict=True):
        assert (array(weight) != old).any(), weight.name


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_decoding_and_confidence(arguments, rng):
    layer = layer_drawn(rng, **arguments)
    x, mask, _ = data(rng, layer, True)
    inputs = keras.Input((None, layer.units)), keras.Input((None,), dtype="bool")
    model = keras.Model(inputs, layer(inputs[0], mask=inputs[1]))
    labels, confidence = layer.decode(model, confidence=True).predict([x, mask], verbose=0)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels[~mask], -2)
    np.testing.assert_array_equal(confidence[~mask], 0)
    for b, (every, values) in enumerate(enumerated(layer, x, mask, scores_of(layer))):
        best = list(every[values.argmax()])
        assert semi_markov.segments_of(labels[b : b + 1, mask[b]]) == [best]
        p = np.exp(values - np.log(np.exp(values).sum()))
        expected = np.zeros(mask[b].sum())
        for segment in best:
            of_segment = sum(q for q, of in zip(p, every, strict=True) if segment in of)
            expected[segment[0] : segment[1] + 1] = of_segment
        np.testing.assert_allclose(confidence[b, mask[b]], expected, rtol=1e-4)


@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_marginals_and_the_best_are_those_of_all_segmentations(arguments, masked, rng):
    layer = layer_drawn(rng, **arguments)
    x, mask, _ = data(rng, layer, masked)
    emissions = layer(x, mask=ops.convert_to_tensor(mask)) if masked else layer(x)
    unary, segments, counts = map(array, layer.marginals(emissions))  # they find the mask
    labels, score = map(array, layer.viterbi(emissions))
    some, scores = map(array, layer.k_best(emissions, 40))
    expected = [np.zeros_like(a) for a in (unary, segments, counts)]
    for b, (every, values) in enumerate(enumerated(layer, x, mask, scores_of(layer))):
        steps = np.flatnonzero(mask[b])
        for p, of in zip(np.exp(values - np.log(np.exp(values).sum())), every, strict=True):
            for first, last, tag in of:
                expected[0][b, steps[first : last + 1], tag] += p
                expected[1][b, steps[first], last - first, tag] += p
            for before, after in itertools.pairwise(of):
                expected[2][b, before[2], after[2]] += p
        order = np.argsort(-values)[:40]
        for found in (labels[b], some[b, 0]):
            assert semi_markov.segments_of(found[None, mask[b]]) == [list(every[order[0]])]
        np.testing.assert_allclose(score[b], values.max(), rtol=1e-5)
        np.testing.assert_allclose(scores[b, : len(order)], values[order], rtol=1e-5, atol=1e-5)
        for place, found in enumerate(some[b]):
            (of,) = semi_markov.segments_of(found[None, mask[b]])
            if place < len(order):
                own = values[every.index(tuple(of))]
                np.testing.assert_allclose(scores[b, place], own, rtol=1e-5, atol=1e-5)
            else:
                assert of == [] and np.isneginf(scores[b, place])
        assert (labels[b, ~mask[b]] == -2).all() and (some[b][:, ~mask[b]] == -2).all()
    assert labels.dtype == some.dtype == np.int32
    for found, exact in zip((unary, segments, counts), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", ARGUMENTS[:2])
def test_the_linear_chain_has_the_segmentations_as_its_sequences(arguments, rng):
    layer = layer_drawn(rng, **arguments)
    x, mask, _ = data(rng, layer, True)
    x[~mask] = np.nan
    chain = layer.arguments(layer(x, mask=ops.convert_to_tensor(mask)))
    entropy, log_count = (array(f(**chain)) for f in (functions.entropy, functions.log_count))
    drawn = array(functions.sample(**chain, num_samples=5, seed=0))
    for b, (every, values) in enumerate(enumerated(layer, x, mask, scores_of(layer))):
        log_p = values - np.log(np.exp(values).sum())
        np.testing.assert_allclose(entropy[b], -np.exp(log_p) @ log_p, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(log_count[b], np.log(len(every)), rtol=1e-5, atol=1e-6)
        samples = np.where(drawn[:, b, mask[b]] < TAGS, drawn[:, b, mask[b]], -1)
        assert all(tuple(of) in every for of in semi_markov.segments_of(samples))


def test_the_best_where_none_is_possible():
    never = Constraints(np.ones((1, 1), bool), np.array([False]))
    layer = SemiMarkovCRF(1, 2, constraints=never)
    emissions = layer(np.zeros((1, 3, 2), "float32"))
    for labels, scores in (layer.viterbi(emissions), layer.k_best(emissions, 2)):
        assert (array(labels) == -1).all() and np.isneginf(array(scores)).all()
    for probabilities in layer.marginals(emissions):
        np.testing.assert_array_equal(array(probabilities), 0)


@pytest.mark.parametrize("arguments", ARGUMENTS[:2])
@pytest.mark.parametrize("dtype", ("float16", "bfloat16", "float32"))
def test_any_dtype_of_weights_and_of_emissions(dtype, arguments, rng):
    layer = SemiMarkovCRF(TAGS, MAX_LENGTH, dtype=dtype, **arguments)
    x, mask, labels = data(rng, layer, True)
    emissions, given = layer(x, mask=ops.convert_to_tensor(mask)), ops.convert_to_tensor(mask)
    expected = likelihoods(
        layer, array(ops.cast(emissions, "float32")), mask, labels, rounded_scores_of(layer)
    )
    found = layer.log_likelihood(emissions, labels)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    np.testing.assert_allclose(array(found), expected, rtol=1e-5, atol=1e-5)
    assert (array(layer.decoded(emissions, given)) >= -2).all()
    assert (array(layer.decoded(emissions, given, "confidence")) <= 1.001).all()
    wide = x.astype(float)  # of another dtype than the weights
    expected = likelihoods(layer, x, mask, labels, rounded_scores_of(layer))
    found = layer.log_likelihood(wide, labels, given)
    np.testing.assert_allclose(array(found), expected, rtol=1e-5, atol=1e-5)


def rounded_scores_of(layer):
    """The scores of a layer whose weights may be bfloat16, which NumPy lacks."""
    zeros = ops.zeros((TAGS,))
    ends = (layer.start_transitions, layer.end_transitions)
    scores = (layer.transitions, layer.durations, *(zeros if s is None else s for s in ends))
    return [array(ops.cast(score, "float32")).astype(float) for score in scores]


def test_score_counts_segments(rng):
    layer = layer_drawn(rng)
    x, mask, labels = data(rng, layer, True)
    emissions = layer(x, mask=ops.convert_to_tensor(mask))
    found = array(layer.decoded(emissions, ops.convert_to_tensor(mask)))

    def of(labels):
        rows = [
            semi_markov.segments_of(row[valid][None])[0]
            for row, valid in zip(labels, mask, strict=True)
        ]
        return {(b, *segment) for b, row in enumerate(rows) for segment in row}

    for outside in (None, 1):
        true, guess = ({s for s in of(side) if s[3] != outside} for side in (labels, found))
        sizes = {"precision": len(guess), "recall": len(true)}
        sizes["f1"] = (len(guess) + len(true)) / 2
        for measure, size in sizes.items():
            score = SegmentScore(layer, measure, outside)
            score.update_state(labels, emissions)
            assert float(score.result()) == pytest.approx(len(true & guess) / max(size, 1))
            assert SegmentScore.from_config(score.get_config()).outside == outside


def test_words_are_found_by_where_they_begin_and_a_saved_model_still_does(tmp_path, rng):
    keras.utils.set_random_seed(0)
    characters = rng.integers(2, 8, (64, 9))  # a word begins with an even one, and is up to 4 long
    characters[:, 0], characters[::3, 6:] = 2, 0
    labels = np.full(characters.shape, -1)
    for row, of_row in zip(characters, labels, strict=True):
        last = 0
        for t, character in enumerate(row):
            if character % 2 == 0 or t - last == 4:
                of_row[t], last = 0, t
    inputs = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(8, 8, mask_zero=True)(inputs)
    crf = SemiMarkovCRF(1, 4, use_kernel=True)
    model = keras.Model(inputs, crf(x))
    model.compile(keras.optimizers.Adam(0.1), crf.loss, metrics=[SegmentScore(crf)])
    history = model.fit(characters, labels, epochs=25, batch_size=16, verbose=0).history
    assert history["segment_f1"][-1] > 0.95
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    results = again.evaluate(characters, labels, verbose=0, return_dict=True)
    assert results == pytest.approx(model.evaluate(characters, labels, verbose=0, return_dict=True))
    found = again.layers[-1].decode(again).predict(characters, verbose=0)
    np.testing.assert_array_equal(found[characters == 0], -2)
    assert (found == labels)[characters > 0].mean() > 0.95


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_a_score_that_is_nan_shows_in_its_own_loss_alone(arguments, rng):
    layer = layer_drawn(rng, **arguments)
    x, _, _ = data(rng, layer, False)
    labels = np.array([[0, -1, 1, 0, 1]] * 4)
    labels[2] = [0, -1, -1, -1, 0]  # one that is too long
    clean = array(layer.log_likelihood(layer(x), labels))
    x[0, 1, 0] = np.nan  # on the path of the labels
    x[1:3, 1, 1] = np.nan  # beside it, and beside one that is impossible
    losses = array(layer.loss.call(labels, layer(x)))
    np.testing.assert_array_equal(np.isnan(losses), [True, True, True, False])
    np.testing.assert_allclose(losses[3], -clean[3], rtol=1e-6)
    assert np.isneginf(clean[2])


@pytest.mark.parametrize("engine", (None, "keras"))
def test_a_long_likely_segmentation_keeps_its_digits_and_no_loss_is_below_0(engine, rng):
    layer = SemiMarkovCRF(2, 1, False, False, transitions_initializer="zeros", engine=engine)
    gold = rng.integers(0, 2, (3, 600))
    gaps = np.array([8.0, 20.0, 60.0])[:, None] + rng.random((3, 600))
    x = 100 * rng.random((3, 600, 2)) + gaps[..., None] * np.eye(2)[gold]
    x[:, 300:] *= -1  # in the second half the other tag is the better one
    labels = np.where(np.arange(600) < 300, gold, 1 - gold)
    losses = array(layer.loss.call(labels, layer(x.astype("float32"))))
    exact = x.astype("float32").astype(float)
    differences = np.take_along_axis(exact, 1 - labels[..., None], 2)
    differences = differences - np.take_along_axis(exact, labels[..., None], 2)
    expected = np.logaddexp(0, differences[..., 0]).sum(axis=1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-8)
    assert (losses >= 0).all()


def test_mixed_precision_computes_in_float32(rng):
    layer = SemiMarkovCRF(TAGS, MAX_LENGTH, use_kernel=True, dtype="mixed_float16")
    emissions = layer(rng.standard_normal((1, STEPS, 4)))
    assert keras.backend.standardize_dtype(emissions.dtype) == "float16"
    likelihood = layer.log_likelihood(emissions, np.array([[0, -1, 1, 0, -1]]))
    assert keras.backend.standardize_dtype(likelihood.dtype) == "float32"
    assert np.isfinite(array(likelihood)).all()


def test_rules_and_long_segments_make_labels_impossible(rng):
    rules = Constraints(np.array([[False, True], [True, False]]), None, np.array([True, False]))
    layer = layer_drawn(rng, constraints=rules)
    x, _, _ = data(rng, layer, False)
    labels = np.array([[0, 0, 1, -1, 0], [0, 1, -1, 0, 1], [0, -1, -1, -1, 0], [1, -1, 0, 1, 0]])

    def total(values):
        likelihood = layer.log_likelihood(values[0], labels)
        return ops.sum(likelihood), likelihood

    (_, likelihood), (gradient,) = value_and_gradients(total, [ops.convert_to_tensor(x)])
    np.testing.assert_array_equal(np.isneginf(array(likelihood)), [True, True, True, False])
    np.testing.assert_array_equal(array(gradient)[:3], 0)
    assert np.isfinite(array(gradient)).all() and array(gradient)[3].any()
    (found,) = semi_markov.segments_of(array(layer.decoded(layer(x), None))[:1])
    assert found[-1][2] == 0 and all(a[2] != b[2] for a, b in itertools.pairwise(found))


def test_wrong_labels_and_arguments(rng):
    layer = layer_drawn(rng)
    emissions = layer(rng.standard_normal((1, STEPS, layer.units)))
    for wrong in ([-1, 0, 0, 0, 0], [0, TAGS, -1, 0, 0]):
        with pytest.raises(ValueError, match=r"labels of segments must be tags in 0\.\.1 where"):
            layer.loss(np.array([wrong]), emissions)
    with pytest.raises(ValueError, match="no label smoothing, and no weights of tags or steps"):
        layer.loss(np.array([[0] * STEPS]), emissions, np.ones((1, STEPS)))
    with pytest.raises(ValueError, match="tags must be integers, got"):
        layer.log_likelihood(emissions, np.array([[0, 1, -1, 1.5, -1]]))
    with pytest.raises(ValueError, match="inputs must have 4 channels, got 3"):
        SemiMarkovCRF(2, 3)(np.zeros((1, 2, 3)))
    for wrong in ({"num_tags": 0}, {"max_length": 0}, {"learning_rate_multiplier": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
            SemiMarkovCRF(**{"num_tags": 1, "max_length": 1, **wrong})
    with pytest.raises(ValueError, match="'units' may mean 'num_tags'"):
        SemiMarkovCRF(1, 1, units=3)
    with pytest.raises(ValueError, match=r"measure=.* must be one of"):
        SegmentScore(measure="accuracy")
    with pytest.raises(ValueError, match=r"outside=.* must be None or an integer"):
        SegmentScore(outside=-1)
    with pytest.raises(ValueError, match=r"outside=2 must be one of the tags 0\.\.1 of the layer"):
        SegmentScore(layer, outside=TAGS).update_state(np.zeros((1, STEPS), int), emissions)


def test_labels_at_masked_steps_may_be_any_number(rng):
    layer, mask = layer_drawn(rng), np.arange(STEPS) < np.array([[0], [3]])
    emissions = layer(rng.standard_normal((2, STEPS, layer.units)), mask=mask)
    losses = [
        layer.loss(np.where(mask, [0, -1, 1, 0, 0], fill), emissions) for fill in (0, 99, 2**31 - 1)
    ]
    first, second, third = map(ops.convert_to_numpy, losses)
    assert first == second == third


def test_configuration(rng):
    rules = Constraints(np.array([[False, True], [True, True]]))
    layer = SemiMarkovCRF(
        2,
        5,
        use_begins=False,
        use_boundaries=False,
        use_kernel=True,
        durations_initializer="ones",
        transitions_regularizer="l2",
        durations_constraint=keras.constraints.MaxNorm(0.5),
        kernel_constraint="non_neg",
        learning_rate_multiplier=3.0,
        constraints=rules,
        engine="keras",
        name="segments",
    )
    copy = SemiMarkovCRF.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy.build((None, None, 4))
    np.testing.assert_allclose(array(copy.durations), 1)
    stored = copy._durations
    stored.assign(stored.constraint(ops.convert_to_tensor(stored)))
    norms = np.linalg.norm(array(copy.durations), axis=0)  # of what is used, not of what is stored
    np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
    assert isinstance(copy.kernel.constraint, keras.constraints.NonNeg)
    assert layer.compute_output_shape((None, 7, 4)) == (None, 7, 2)


def test_labels_and_segments():
    given = [[(0, 1, 3), (2, 2, 0)], [], [(0, 0, 1)]]
    labels = semi_markov.segment_labels(given, max_length=2)
    assert semi_markov.segments_of(labels) == given
    for wrong in (
        [(1, 2, 0)],
        [(0, 1, 0), (1, 2, 0)],
        [(0, 1, -1)],
        [(0, -1, 0)],
        [(0, 1, 1.5)],
        [(0, 1, np.nan)],
        [(0, 1.5, 0)],
        [(0, 1, 2**31)],
        [(0, 1)],
    ):
        with pytest.raises(ValueError, match="a segment must be"):
            semi_markov.segment_labels([wrong])
    with pytest.raises(ValueError, match="at most max_length = 2 steps"):
        semi_markov.segment_labels([[(0, 2, 0)]], max_length=2)
    with pytest.raises(ValueError, match="labels must have shape"):
        semi_markov.segments_of(labels[0])
    for wrong in (1.5, np.nan):
        with pytest.raises(ValueError, match="labels must be whole numbers"):
            semi_markov.segments_of(np.array([[0, wrong]]))
