"""`fastkeras.compat.addons.text` against enumeration, and against results of TensorFlow Addons."""

import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import fastkeras.compat.addons as tfa
from enumeration import enumerate_paths, probabilities

BATCH, STEPS, NUM_TAGS = 5, 4, 3
LENGTHS = np.array([4, 2, 1, 0, -3])  # a sequence of length 0 or less is empty
DTYPES = ("float16", "bfloat16", "float32", "float64")
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-6, "float64": 1e-12}


@pytest.fixture
def chain(rng):
    return {
        "inputs": rng.normal(size=(BATCH, STEPS, NUM_TAGS)),
        "tag_indices": rng.integers(NUM_TAGS, size=(BATCH, STEPS)),
        "sequence_lengths": LENGTHS,
        "transition_params": rng.normal(size=(NUM_TAGS, NUM_TAGS)),
    }


def enumerated(chain):
    """Yield for each sequence its number of steps, all paths, and their scores."""
    for steps, paths, scores in enumerate_paths(
        {
            "emissions": chain["inputs"],
            "transitions": chain["transition_params"],
            "lengths": np.maximum(chain["sequence_lengths"], 0),
            "mask": None,
            "start_transitions": None,
            "end_transitions": None,
        }
    ):
        yield len(steps), paths, scores


def exact(chain, allowed=None):
    """For each sequence: log-norm of the paths allowed, score of the given one, best, its score."""
    log_norms, scores_of_tags, best_paths, best_scores = [], [], [], []
    for b, (steps, paths, scores) in enumerate(enumerated(chain)):
        if allowed is not None:
            fits = allowed[b, np.arange(steps), paths].all(axis=1) if steps else np.array([True])
            scores = np.where(fits, scores, -np.inf)
        log_norms.append(probabilities(scores)[0])
        given = (paths == chain["tag_indices"][b, :steps]).all(axis=1)
        scores_of_tags.append(scores[given][0])
        best_paths.append(np.pad(paths[scores.argmax()], (0, STEPS - steps)))
        best_scores.append(scores.max())
    return tuple(np.array(a, float) for a in (log_norms, scores_of_tags, best_paths, best_scores))


def as_dtype(chain, dtype):
    cast = {name: tf.cast(chain[name], dtype) for name in ("inputs", "transition_params")}
    return {**chain, **cast}


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_enumeration_in_the_dtype_of_the_inputs(dtype, chain):
    given = as_dtype(chain, dtype)
    rounded = {name: np.asarray(tf.cast(value, tf.float64)) for name, value in given.items()}
    rounded = {**chain, **{name: rounded[name] for name in ("inputs", "transition_params")}}
    log_norm, score, path, best = exact(rounded)
    x, tags, lengths, transitions = given.values()
    likelihood, returned = tfa.text.crf_log_likelihood(*given.values())
    decoded, best_score = tfa.text.crf_decode(x, transitions, lengths)
    results = {
        "score": (tfa.text.crf_sequence_score(*given.values()), score),
        "log_norm": (tfa.text.crf_log_norm(x, lengths, transitions), log_norm),
        "likelihood": (likelihood, score - log_norm),
        "best_score": (best_score, best),
        "unary and binary": (
            tf.cast(tfa.text.crf_unary_score(tags, lengths, x), "float64")
            + tf.cast(tfa.text.crf_binary_score(tags, lengths, transitions), "float64"),
            score,
        ),
    }
    for name, (result, value) in results.items():
        assert result.dtype == dtype or name == "unary and binary"
        scale = max(1, np.abs(value).max())
        error = np.abs(np.asarray(tf.cast(result, "float64")) - value).max()
        assert error <= TOLERANCE[dtype] * scale, name
    assert returned.dtype == dtype
    assert decoded.dtype == tf.int32
    np.testing.assert_array_equal(decoded, path)
    for empty in (3, 4):
        assert [float(result[empty]) for result, _ in results.values()] == [0] * len(results)


def test_numpy_lists_tensors_and_any_integers_are_taken(chain):
    x, tags, lengths, transitions = chain.values()
    values = [
        tfa.text.crf_log_likelihood(*arguments)[0].numpy()
        for arguments in (
            (x, tags, lengths, transitions),
            (x, tags.astype("uint8"), lengths.astype("int64"), tf.Variable(transitions)),
            (tf.constant(x), tags.astype(float), tf.constant(lengths), transitions),
        )
    ]
    for value in values:
        np.testing.assert_array_equal(value, values[0])
    in_float32, _ = tfa.text.crf_log_likelihood(x.tolist(), tags.tolist(), lengths.tolist())
    assert in_float32.dtype == tf.float32


def test_likelihood_casts_the_transitions_and_makes_them_if_there_are_none(chain):
    x, tags, lengths, transitions = chain.values()
    _, cast = tfa.text.crf_log_likelihood(x.astype("float32"), tags, lengths, transitions)
    assert cast.dtype == tf.float32
    likelihood, made = tfa.text.crf_log_likelihood(x.astype("float32"), tags, lengths)
    assert isinstance(made, tf.Variable)
    assert made.shape == (NUM_TAGS, NUM_TAGS)
    assert np.ptp(made.numpy()) > 0
    again, _ = tfa.text.crf_log_likelihood(x.astype("float32"), tags, lengths, made)
    np.testing.assert_array_equal(likelihood, again)


@pytest.mark.parametrize("function", ("crf_log_norm", "crf_decode", "crf_sequence_score"))
def test_other_functions_refuse_mixed_dtypes(function, chain):
    x, tags, lengths, transitions = chain.values()
    arguments = {
        "crf_log_norm": (x, lengths, transitions.astype("float32")),
        "crf_decode": (x, transitions.astype("float32"), lengths),
        "crf_sequence_score": (x, tags, lengths, transitions.astype("float32")),
    }[function]
    with pytest.raises(TypeError, match="transition_params must have the dtype of the inputs, flo"):
        getattr(tfa.text, function)(*arguments)


def test_tags_in_the_padding_are_not_read(chain):
    past = np.arange(STEPS) >= LENGTHS[:, None]
    padded = {**chain, "tag_indices": np.where(past, -100, chain["tag_indices"])}
    for function in (
        lambda c: tfa.text.crf_log_likelihood(*c.values())[0],
        lambda c: tfa.text.crf_sequence_score(*c.values()),
    ):
        np.testing.assert_array_equal(function(padded), function(chain))


def test_what_is_out_of_range_raises(chain):
    x, tags, lengths, transitions = chain.values()
    wrong = tags.copy()
    wrong[0, 1] = NUM_TAGS
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="tags must be in"):
        tfa.text.crf_log_likelihood(x, wrong, lengths, transitions)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="lengths must be in"):
        tfa.text.crf_log_norm(x, lengths + 1, transitions)
    with pytest.raises(ValueError, match="at least, got shape"):
        tfa.text.crf_log_norm(x[:, :0], lengths, transitions)
    with pytest.raises(ValueError, match="transitions must have shape"):
        tfa.text.crf_decode(x, transitions[:, :2], lengths)


def test_no_sequences_at_all(chain):
    x, tags, lengths, transitions = (chain[name] for name in chain)
    likelihood, _ = tfa.text.crf_log_likelihood(x[:0], tags[:0], lengths[:0], transitions)
    decoded, score = tfa.text.crf_decode(x[:0], transitions, lengths[:0])
    assert (likelihood.shape, decoded.shape, score.shape) == ((0,), (0, STEPS), (0,))


def test_one_step(chain):
    one = {**chain, "inputs": chain["inputs"][:, :1], "tag_indices": chain["tag_indices"][:, :1]}
    one["sequence_lengths"] = np.array([1, 1, 1, 0, -3])
    x, tags, lengths, transitions = one.values()
    rows = np.where(lengths[:, None] > 0, x[:, 0], 0)
    log_norm = np.where(lengths > 0, np.log(np.exp(rows).sum(1)), 0)
    score = rows[np.arange(BATCH), tags[:, 0]]
    likelihood, _ = tfa.text.crf_log_likelihood(x, tags, lengths, transitions)
    np.testing.assert_allclose(likelihood, score - log_norm, atol=1e-12)
    everything = np.ones_like(x, bool)
    multitag = tfa.text.crf_multitag_sequence_score(x, everything, lengths, transitions)
    np.testing.assert_allclose(multitag, log_norm, atol=1e-12)
    decoded, best = tfa.text.crf_decode(x, transitions, lengths)
    np.testing.assert_array_equal(decoded[:, 0], np.where(lengths > 0, x[:, 0].argmax(1), 0))
    np.testing.assert_allclose(best, np.where(lengths > 0, x[:, 0].max(1), 0))


def test_ties_go_to_the_lowest_tag():
    decoded, score = tfa.text.crf_decode(np.zeros((1, 3, 4)), np.zeros((4, 4)), [3])
    np.testing.assert_array_equal(decoded, [[0, 0, 0]])
    assert float(score[0]) == 0
    assert tfa.text.viterbi_decode(np.zeros((3, 4)), np.zeros((4, 4)))[0] == [0, 0, 0]


def test_bitmaps_allow_the_sequences_that_fit(chain, rng):
    x, tags, lengths, transitions = chain.values()
    bitmap = rng.random(x.shape) < 0.5
    bitmap |= np.arange(NUM_TAGS) == tags[..., None]
    log_norm, _, path, best = exact(chain, bitmap)
    multitag = tfa.text.crf_multitag_sequence_score(x, bitmap.astype(int), lengths, transitions)
    np.testing.assert_allclose(multitag, log_norm, atol=1e-12)
    decoded, score = tfa.text.crf_constrained_decode(x, bitmap, transitions, lengths)
    np.testing.assert_array_equal(decoded, path)
    np.testing.assert_allclose(score, best, atol=1e-12)
    filtered = tfa.text.crf_filtered_inputs(x, bitmap)
    np.testing.assert_array_equal(filtered, np.where(bitmap, x, -np.inf))
    one_hot = np.arange(NUM_TAGS) == tags[..., None]
    np.testing.assert_allclose(
        tfa.text.crf_multitag_sequence_score(x, one_hot, lengths, transitions),
        tfa.text.crf_sequence_score(x, tags, lengths, transitions),
        atol=1e-12,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_variables_are_sums_over_the_paths_that_end_in_a_tag(dtype, chain):
    chain["transition_params"][0, 1] = -np.inf
    given = as_dtype(chain, dtype)
    rounded = {name: np.asarray(tf.cast(given[name], "float64")) for name in given}
    x, _, lengths, transitions = given.values()
    alpha = tfa.text.crf_forward(x[:, 1:], x[:, 0], transitions, lengths)
    assert alpha.dtype == dtype
    for b, (steps, paths, scores) in enumerate(enumerated(rounded)):
        expected = (
            [probabilities(scores[paths[:, -1] == tag])[0] for tag in range(NUM_TAGS)]
            if steps
            else rounded["inputs"][b, 0]  # for an empty sequence, as in TensorFlow Addons
        )
        tolerance = 4 * TOLERANCE[dtype]
        np.testing.assert_allclose(
            tf.cast(alpha[b], "float64"), np.array(expected, float), rtol=tolerance, atol=tolerance
        )
    of_one_step = tfa.text.crf_forward(x[:, 1:1], x[:, 0], transitions, lengths)
    np.testing.assert_array_equal(of_one_step, x[:, 0])


def test_forward_variables_have_gradients_where_a_tag_cannot_be_reached(chain):
    x, _, lengths, transitions = chain.values()
    transitions[:, 1] = -np.inf
    x, transitions = tf.constant(x), tf.constant(transitions)
    with tf.GradientTape() as tape:
        tape.watch((x, transitions))
        alpha = tfa.text.crf_forward(x[:, 1:], x[:, 0], transitions, lengths)
        total = tf.reduce_sum(tf.reduce_logsumexp(alpha, axis=1)[:2])
    gradients = tape.gradient(total, (x, transitions))
    assert not any(np.isnan(g).any() for g in gradients)
    np.testing.assert_allclose(tf.reduce_sum(gradients[0], axis=2)[:2], [[1] * 4, [1, 1, 0, 0]])


def decoded_in_halves(x, transitions, lengths):
    """Compose the two halves as the documentation of TensorFlow Addons does."""
    less_one = tf.maximum(lengths - 1, 0)
    pointers, last_score = tfa.text.crf_decode_forward(x[:, 1:], x[:, 0], transitions, less_one)
    reversed_pointers = tf.reverse_sequence(pointers, less_one, seq_axis=1)
    last = tf.argmax(last_score, axis=1, output_type=tf.int32)[:, None]
    before = tfa.text.crf_decode_backward(reversed_pointers, last)
    tags = tf.concat([last, tf.squeeze(before, axis=2)], axis=1)
    return tf.reverse_sequence(tags, tf.maximum(lengths, 1), seq_axis=1), last_score, pointers


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_two_halves_of_decoding_are_the_whole(dtype, chain):
    given = as_dtype(chain, dtype)
    x, _, lengths, transitions = given.values()
    lengths = np.maximum(lengths, 1)
    tags, last_score, pointers = decoded_in_halves(x, transitions, lengths)
    decoded, score = tfa.text.crf_decode(x, transitions, lengths)
    assert (pointers.dtype, last_score.dtype, tags.dtype) == (tf.int32, dtype, tf.int32)
    assert pointers.shape == (BATCH, STEPS - 1, NUM_TAGS)
    for b, length in enumerate(lengths):
        np.testing.assert_array_equal(pointers[b, length - 1 :], 0)
    if dtype not in ("float16", "bfloat16"):  # in which the two halves round at every step
        np.testing.assert_array_equal(tags, decoded)
        np.testing.assert_allclose(tf.reduce_max(last_score, axis=1), score, rtol=1e-6)


def test_the_cell_runs_in_a_recurrent_layer_and_is_restored(chain):
    x, _, _, transitions = (np.asarray(value, "float32") for value in chain.values())
    cell = tfa.text.CrfDecodeForwardRnnCell(transitions)
    assert (cell.state_size, cell.output_size) == (NUM_TAGS, NUM_TAGS)
    config = cell.get_config()
    assert config["transition_params"] == transitions.tolist()
    restored = tfa.text.CrfDecodeForwardRnnCell.from_config(config)
    layer = keras.layers.RNN(restored, return_sequences=True, return_state=True)
    pointers, state = layer(x[:, 1:], initial_state=[x[:, 0]])
    lengths = np.full(BATCH, STEPS - 1)
    expected = tfa.text.crf_decode_forward(x[:, 1:], x[:, 0], transitions, lengths)
    np.testing.assert_array_equal(pointers, expected[0])
    np.testing.assert_allclose(state, expected[1], rtol=1e-6)


def test_viterbi_decode_takes_one_array(chain):
    x, _, _, transitions = chain.values()
    _, _, path, best = exact({**chain, "sequence_lengths": np.full(BATCH, STEPS)})
    for b in range(BATCH):
        tags, score = tfa.text.viterbi_decode(x[b], transitions)
        assert isinstance(tags, list)
        assert tags == path[b].tolist()
        assert abs(score - best[b]) < 1e-12
    with pytest.raises(ValueError, match=r"score must have shape .* got \(0, 3\)"):
        tfa.text.viterbi_decode(x[0, :0], transitions)


def test_gradients_are_those_of_enumeration_and_never_nan(chain):
    x, tags, lengths, transitions = chain.values()
    transitions[:, 1] = -np.inf
    tags[tags == 1] = 0
    x[0, 2, 2] = -np.inf
    tags[0, 2] = 0
    given = tf.constant(x), tf.constant(transitions)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(given)
        value, _ = tfa.text.crf_log_likelihood(given[0], tags, lengths, given[1])
    gradients = tape.gradient(value, given)
    for b, (steps, paths, scores) in enumerate(enumerated(chain)):
        _, probability = probabilities(scores)
        expected = np.zeros((STEPS, NUM_TAGS))
        for t in range(steps):
            expected[t] = [probability[paths[:, t] == tag].sum() for tag in range(NUM_TAGS)]
            expected[t] = np.eye(NUM_TAGS)[tags[b, t]] - expected[t]
        np.testing.assert_allclose(gradients[0][b], expected, atol=1e-12)
    assert not np.isnan(gradients[1]).any()
    again = tape.gradient(value, given)  # the tape is persistent
    np.testing.assert_array_equal(again[1], gradients[1])


def test_an_impossible_sequence_has_no_gradient_and_no_nan(chain):
    x, tags, lengths, transitions = chain.values()
    x[0, 1] = -np.inf
    given = tf.constant(x), tf.constant(transitions)
    with tf.GradientTape() as tape:
        tape.watch(given)
        value, _ = tfa.text.crf_log_likelihood(given[0], tags, lengths, given[1])
    gradients = tape.gradient(value, given)
    assert np.isneginf(value[0])
    np.testing.assert_array_equal(gradients[0][0], 0)
    assert not any(np.isnan(g).any() for g in gradients)


def gradient_of(function, scores, direction):
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = tf.reduce_sum(function(*scores))
    gradients = tape.gradient(value, scores, unconnected_gradients="zero")
    return sum(tf.reduce_sum(g * d) for g, d in zip(gradients, direction, strict=True))


@pytest.mark.parametrize(  # not all in both modes: tracing takes seconds
    ("function", "in_a_graph"),
    [("log_likelihood", True), ("log_norm", False), ("sequence_score", False)],
)
def test_second_derivatives_are_those_of_finite_differences(function, in_a_graph, chain, rng):
    x, tags, lengths, transitions = chain.values()
    scores = tf.constant(x), tf.constant(transitions)
    direction, other = ([tf.constant(rng.normal(size=s.shape)) for s in scores] for _ in "12")

    def value(inputs, transitions):
        if function == "log_likelihood":
            return tfa.text.crf_log_likelihood(inputs, tags, lengths, transitions)[0] ** 2
        if function == "log_norm":
            return tfa.text.crf_log_norm(inputs, lengths, transitions) ** 2
        return tfa.text.crf_sequence_score(inputs, tags, lengths, transitions) ** 2

    def second(*scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            first = gradient_of(value, scores, direction)
        gradients = tape.gradient(first, scores)
        return sum(tf.reduce_sum(g * d) for g, d in zip(gradients, other, strict=True))

    result = (tf.function(second) if in_a_graph else second)(*scores)
    h = 1e-3
    at = {
        k: float(
            gradient_of(
                value, [s + k * h * d for s, d in zip(scores, other, strict=True)], direction
            )
        )
        for k in (-2, -1, 1, 2)
    }
    expected = (at[-2] - 8 * at[-1] + 8 * at[1] - at[2]) / (12 * h)
    np.testing.assert_allclose(float(result), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("jit_compile", (False, True))
def test_graphs_of_unknown_batch_and_steps_give_the_eager_results(jit_compile, chain):
    x, tags, lengths, transitions = chain.values()
    x, transitions = x.astype("float32"), transitions.astype("float32")

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[
            tf.TensorSpec((None, None, NUM_TAGS)),
            tf.TensorSpec((None, None), tf.int64),
            tf.TensorSpec((None,), tf.int64),
            tf.TensorSpec((NUM_TAGS, NUM_TAGS)),
        ],
    )
    def everything(x, tags, lengths, transitions):
        with tf.GradientTape() as tape:
            tape.watch((x, transitions))
            value, _ = tfa.text.crf_log_likelihood(x, tags, lengths, transitions)
        decoded = tfa.text.crf_decode(x, transitions, lengths)
        unary = tfa.text.crf_unary_score(tags, lengths, x)
        binary = tfa.text.crf_binary_score(tags, lengths, transitions)
        alpha = tfa.text.crf_forward(x[:, 1:], x[:, 0], transitions, lengths)
        halves = tfa.text.crf_decode_forward(x[:, 1:], x[:, 0], transitions, lengths - 1)
        gradients = tape.gradient(value, (x, transitions))
        return value, *decoded, unary, binary, alpha, *halves, *gradients

    with_two_steps = [x[:2, :2], tags[:2, :2], np.array([2, 1])]
    for given in ([x, tags, lengths], with_two_steps):
        arguments = [tf.constant(a) for a in (*given, transitions)]
        for result, eager in zip(
            everything(*arguments), everything.python_function(*arguments), strict=True
        ):
            np.testing.assert_allclose(result, eager, rtol=1e-5, atol=2e-6)


def test_another_backend_is_named(monkeypatch):
    module = sys.modules["fastkeras.compat.addons.text.crf"]
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"needs the TensorFlow backend of Keras .* got 'jax'"):
        importlib.reload(module)


@pytest.mark.parametrize("first", ("layers", "text"))
def test_either_part_can_be_imported_first(first):
    code = f"from fastkeras.compat.addons.{first} import *; import fastkeras.compat.addons as tfa; "
    code += "print(tfa.layers.CRF, tfa.text.CRFModelWrapper)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_importing_loads_nothing_and_other_addons_are_not_there():
    code = "import fastkeras.compat.addons, sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "numpy"} & set(ran.stdout.split())
    with pytest.raises(AttributeError, match="of TensorFlow Addons there is the CRF"):
        _ = tfa.optimizers
