"""The op library: shapes, errors, gradients in graphs and outside."""

import numpy as np
import pytest
import tensorflow as tf

from fastkeras import crf
from fastkeras._ops.tensorflow import library
from fastkeras.crf._engines import reference, tensorflow_native
from fastkeras.crf.chain import Chain

BATCH, STEPS, NUM_TAGS = 3, 5, 4
UNKNOWN = (  # emissions, tags, transitions, lengths of any batch and number of steps
    tf.TensorSpec((None, None, NUM_TAGS)),
    tf.TensorSpec((None, None), tf.int32),
    tf.TensorSpec((NUM_TAGS, NUM_TAGS)),
    tf.TensorSpec((None,), tf.int32),
)
VALUES = ("log_partition", "sequence_score", "log_likelihood")


def chain(batch=BATCH, steps=STEPS, num_tags=NUM_TAGS, dtype="float32"):
    rng = np.random.default_rng(7)
    return {
        "emissions": rng.standard_normal((batch, steps, num_tags)).astype(dtype),
        "tags": rng.integers(0, num_tags, (batch, steps)).astype("int32"),
        "transitions": rng.standard_normal((num_tags, num_tags)).astype(dtype),
        "lengths": rng.integers(0, steps + 1, batch).astype("int32"),
    }


def arguments_of(function, arguments):
    """The arguments for an engine: a chain with zero start and end, and tags if they are needed."""
    x, tags, transitions, lengths = arguments.values()
    zeros = np.zeros(transitions.shape[0], transitions.dtype)
    checked = Chain(x, transitions, lengths, None, zeros, zeros)
    return (checked, tags) if function in VALUES[1:] else (checked,)


def close(actual, expected):
    expected = np.asarray(expected)
    resolution = 30 * np.finfo(expected.dtype).eps if expected.dtype.kind == "f" else 0
    np.testing.assert_allclose(actual, expected, rtol=resolution, atol=resolution)


def reference_gradient(chain):
    ones = np.ones(len(chain["emissions"]), chain["emissions"].dtype)
    return reference.log_likelihood_and_gradients(*arguments_of("log_likelihood", chain), ones)[1]


def value_ops(function, *arguments):
    graph = function.get_concrete_function(*arguments).graph
    return [op for op in graph.get_operations() if op.type == "Fastkeras>CrfValue"]


@tf.function(input_signature=UNKNOWN)
def log_likelihood(emissions, tags, transitions, lengths):
    return crf.log_likelihood(emissions, tags, transitions, lengths)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch, steps, num_tags", [(3, 5, 4), (1, 1, 1), (2, 9, 33)])
def test_graph_answers_like_the_reference(batch, steps, num_tags, dtype):
    given = chain(batch, steps, num_tags, dtype)
    for function in (*VALUES, "marginals", "viterbi"):
        arguments = arguments_of(function, given)
        in_graph = tf.function(getattr(tensorflow_native, function))
        expected = getattr(reference, function)(*arguments)
        got_all, want_all = tf.nest.flatten(in_graph(*arguments)), tf.nest.flatten(expected)
        for got, want in zip(got_all, want_all, strict=True):
            assert got.dtype == want.dtype
            close(got, want)


def test_one_trace_serves_every_batch_and_number_of_steps():
    traces = []

    @tf.function(input_signature=UNKNOWN)
    def train(emissions, tags, transitions, lengths):
        traces.append(None)
        with tf.GradientTape() as tape:
            tape.watch(emissions)
            value = crf.log_likelihood(emissions, tags, transitions, lengths)
        return value, tape.gradient(value, emissions)

    for batch, steps in ((3, 5), (1, 1), (6, 2), (0, 4), (2, 0), (0, 0)):
        given = chain(batch, steps)
        value, gradient = train(*given.values())
        close(value, reference.log_likelihood(*arguments_of("log_likelihood", given)))
        close(gradient, reference_gradient(given).emissions)
    assert len(traces) == 1


def test_graph_knows_the_shapes_of_the_results():
    batch, steps = None, 5
    x = tf.TensorSpec((batch, steps, NUM_TAGS))

    @tf.function(input_signature=(x, *UNKNOWN[2:]))
    def results(emissions, transitions, lengths):
        chain = (emissions, transitions, lengths)
        return crf.log_partition(*chain), *crf.marginals(*chain), *crf.viterbi(*chain)

    shapes = [list(output.shape) for output in results.get_concrete_function().outputs]
    assert shapes == [
        [batch],
        [batch, steps, NUM_TAGS],
        [batch, NUM_TAGS, NUM_TAGS],
        [batch, steps],
        [batch],
    ]


@pytest.mark.parametrize("inside", [True, False], ids=["tape inside", "tape outside"])
@pytest.mark.parametrize("traced_before", [False, True])
def test_gradient_through_a_function(inside, traced_before):
    given = chain()
    given["start_transitions"], given["end_transitions"] = np.float32([[1, 2, 3, 4], [4, 1, 3, 2]])
    scores = {name: tf.constant(v) for name, v in given.items() if v.dtype == np.float32}
    rest = {name: tf.constant(v) for name, v in given.items() if name not in scores}

    @tf.function
    def value(scores):
        return crf.log_likelihood(**scores, **rest)

    def gradient(scores):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            result = value(scores)
        return tape.gradient(result, scores)

    if traced_before:  # without a tape, so that the workspace is computed later
        value(scores)
    got = (tf.function(gradient) if inside else gradient)(scores)
    _, want = crf.log_likelihood_and_gradients(**given, engine="reference")
    for name, gradient in got.items():
        close(gradient, getattr(want, name))


def test_upstream_gradients_weigh_the_sequences():
    given, weights = chain(), np.float32([2, -1, 0.5])
    x = tf.constant(given["emissions"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = crf.log_likelihood(**{**given, "emissions": x})
        total = tf.reduce_sum(weights * value)
    want = reference_gradient(given).emissions * weights[:, None, None]
    close(tape.gradient(total, x), want)


def test_gradient_inside_a_loop():
    given = chain()

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            _, total = tf.while_loop(
                lambda turn, total: turn < 3,
                lambda turn, total: (
                    turn + 1,
                    total + tf.reduce_sum(crf.log_likelihood(**{**given, "emissions": x})),
                ),
                (0, 0.0),
            )
        return tape.gradient(total, x)

    close(gradient(tf.constant(given["emissions"])), 3 * reference_gradient(given).emissions)


def test_workspace_is_kept_only_under_a_tape():
    arguments = [tf.constant(value) for value in chain().values()]

    @tf.function
    def train(*arguments):
        with tf.GradientTape() as tape:
            tape.watch(arguments[0])
            value = crf.log_likelihood(*arguments)
        return tape.gradient(value, arguments[0])

    infer = tf.function(crf.log_likelihood)
    assert [op.get_attr("keep_workspace") for op in value_ops(infer, *arguments)] == [False]
    assert [op.get_attr("keep_workspace") for op in value_ops(train, *arguments)] == [True]


@pytest.mark.parametrize("lengths", [[5, -1, 0], [6, 0, 0]])
def test_lengths_out_of_range(lengths):
    message = rf"lengths must be in 0\.\.5 \(the steps of emissions\), got {min(lengths) or 6} at"
    given = {**chain(), "lengths": np.int32(lengths)}
    for function in (log_likelihood, crf.log_likelihood):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            function(*map(tf.constant, given.values()))


@pytest.mark.parametrize("tag", [-1, -100, NUM_TAGS, 2**31 - 1])
def test_tag_out_of_range(tag):
    given = {**chain(), "lengths": np.int32([5, 3, 0])}
    given["tags"][1, 2] = tag
    message = rf"tags must be in 0\.\.3 at valid steps, got {tag} at \[1, 2\]"
    for function in (log_likelihood, crf.log_likelihood, crf.sequence_score):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            function(*map(tf.constant, given.values()))
    given["lengths"][1] = 2  # now the tag is at a step that is not valid
    assert np.isfinite(log_likelihood(*given.values())).all()


def test_shapes_that_only_the_kernel_sees():
    given = chain()
    short = {**given, "tags": given["tags"][:, 1:]}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"tags must have shape \(3, 5\), got"):
        log_likelihood(*short.values())
    few = {**given, "lengths": given["lengths"][:2]}
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"lengths must have shape \(3,\), got"
    ):
        log_likelihood(*few.values())


RANKS = dict(emissions=3, transitions=2, start_transitions=1, end_transitions=1, lengths=1, mask=2)
SHAPES = {
    "emissions": (2, 3, 4),
    "transitions": (4, 4),
    "start_transitions": (4,),
    "end_transitions": (4,),
    "lengths": (2,),
    "mask": (0, 0),
}
OTHER_SHAPES = {
    "emissions": [(2, 3), (2, 3, 0), (2, 3, 5)],
    "transitions": [(4, 5), (5, 4), (16,), ()],
    "start_transitions": [(5,), (4, 1)],
    "end_transitions": [(3,), ()],
    "lengths": [(3,), (2, 1)],
    "mask": [(2, 4), (3, 3), (0, 3), (2, 3, 1)],
}


def op_arguments(**shapes):
    dtypes = {"lengths": "int32", "mask": "bool"}
    return [
        tf.zeros(shape, dtypes.get(name, "float32")) for name, shape in {**SHAPES, **shapes}.items()
    ]


@pytest.mark.parametrize(
    "name, shape", [(name, shape) for name, shapes in OTHER_SHAPES.items() for shape in shapes]
)
@pytest.mark.parametrize("op", [library.fastkeras_crf_marginals, library.fastkeras_crf_viterbi])
def test_op_called_with_a_wrong_shape(op, name, shape):
    culprit = "transitions" if shape == (2, 3, 5) else name  # emissions define the sizes
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{culprit} must have"):
        op(*op_arguments(**{name: shape}))
    if len(shape) != len(SHAPES[name]):
        with pytest.raises(ValueError, match=f"must be rank {len(SHAPES[name])} but is rank"):
            tf.function(op)(*op_arguments(**{name: shape}))


def test_gradient_op_called_with_a_wrong_workspace():
    arguments = [*op_arguments(), tf.zeros((0, 0), tf.int32), tf.zeros(2)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="workspace must have shape"):
        library.fastkeras_crf_gradient(*arguments, tf.zeros(1), tf.zeros(2), quantity=0)


def varying_chain():
    given = chain()
    transitions = np.random.default_rng(8).standard_normal((BATCH, STEPS - 1, NUM_TAGS, NUM_TAGS))
    return {**given, "transitions": transitions.astype("float32"), "lengths": np.int32([5, 3, 4])}


def weighted_gradients(given, weights):
    scores = [tf.convert_to_tensor(given[name]) for name in ("emissions", "transitions")]
    with tf.GradientTape() as tape:
        tape.watch(scores)
        value = crf.log_likelihood(scores[0], given["tags"], scores[1], given["lengths"])
    return tape.gradient(value, scores, weights)


@pytest.mark.parametrize("compiled", [False, True], ids=["eagerly", "in a graph"])
@pytest.mark.parametrize("weights", [[1, 1, 1], [2, -1, 0.5], [0, 1, 0]])
def test_weights_of_sequences_whose_transitions_vary(weights, compiled):
    given, weights = varying_chain(), np.float32(weights)
    function = tf.function(weighted_gradients) if compiled else weighted_gradients
    _, want = crf.log_likelihood_and_gradients(**given, weights=weights, engine="reference")
    for _ in range(2):  # the second call finds the first one's memory
        emissions, transitions = function(given, tf.constant(weights))
        close(emissions, want.emissions)
        close(transitions, want.transitions)


def test_a_weight_that_is_not_finite_spoils_its_sequence_alone():
    given = varying_chain()
    emissions, transitions = weighted_gradients(given, tf.constant([np.nan, 1, np.inf]))
    valid = np.arange(STEPS) < given["lengths"][:, None]
    spoiled = valid & np.array([True, False, True])[:, None]
    np.testing.assert_array_equal(np.isnan(emissions), np.repeat(spoiled[..., None], NUM_TAGS, -1))
    np.testing.assert_array_equal(np.isnan(transitions).any((2, 3)), spoiled[:, 1:])


def test_a_sequence_without_a_path_has_no_gradient_whatever_its_weight():
    given = varying_chain()
    given["transitions"][0] = -np.inf
    for array in weighted_gradients(given, tf.constant([np.nan, 1, np.inf])):
        assert not np.any(array[0])
        assert np.isfinite(array[1]).all()
        assert np.isnan(array[2]).any()


def test_gradients_that_somebody_else_needs_are_not_overwritten():
    given = varying_chain()
    ends = [tf.zeros(NUM_TAGS)] * 2
    mask = tf.zeros((0, 0), tf.bool)
    scores = given["emissions"], given["transitions"], *ends
    inputs = *scores, given["lengths"], mask, given["tags"]

    @tf.function
    def twice():
        value, *gradients = library.fastkeras_crf_varying_value(*inputs, quantity=2)
        rest = value, given["lengths"], mask
        weighed = [
            library.fastkeras_crf_weigh(*gradients, *rest, tf.fill((BATCH,), weight))[:2]
            for weight in (2.0, 3.0)
        ]
        return gradients, *weighed

    one, two, three = twice()
    for k in range(2):
        close(two[k], 2 * one[k])
        close(three[k], 3 * one[k])


def test_transitions_that_vary_are_differentiated_at_once_only_under_a_tape():
    def kernels(function, *arguments):
        graph = tf.function(function).get_concrete_function(*arguments).graph
        return {op.type for op in graph.get_operations() if op.type.startswith("Fastkeras>")}

    given = {name: tf.constant(array) for name, array in varying_chain().items()}
    weights = tf.ones(BATCH)
    assert kernels(lambda: crf.log_likelihood(**given)) == {"Fastkeras>CrfValue"}
    assert kernels(lambda: weighted_gradients(given, weights)) == {
        "Fastkeras>CrfVaryingValue",
        "Fastkeras>CrfWeigh",
    }


@pytest.mark.parametrize("wrong", range(6))
def test_weigh_op_called_with_a_wrong_shape(wrong):
    shapes = [(2, 3, 4), (2, 2, 4, 4), (2,), (2,), (2, 3), (2,)]
    shapes[wrong] = tuple(size + 1 for size in shapes[wrong])
    dtypes = ("float32",) * 3 + ("int32", "bool", "float32")
    arguments = [tf.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have shape"):
        library.fastkeras_crf_weigh(*arguments)


def test_op_called_with_an_unknown_quantity():
    arguments = [*op_arguments(), tf.zeros((0, 0), tf.int32)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"quantity must be in 0\.\.2, got 3"):
        library.fastkeras_crf_value(*arguments, quantity=3)


def test_second_derivative_names_the_engine_that_has_it():
    given = chain()
    x = tf.constant(given["emissions"])
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            value = crf.log_likelihood(**{**given, "emissions": x})
        gradient = inner.gradient(value, x)
    with pytest.raises(NotImplementedError, match="engine='keras'"):
        outer.gradient(gradient, x)


@pytest.mark.parametrize(
    "function, advice", [("marginals", "engine='keras'"), ("viterbi", "sequence_score")]
)
def test_what_has_no_derivative_names_what_has(function, advice):
    given = chain()
    x = tf.constant(given["emissions"])
    with tf.GradientTape() as tape:
        tape.watch(x)
        results = getattr(crf, function)(x, given["transitions"])
    result = next(result for result in results if result.dtype.is_floating)
    with pytest.raises(NotImplementedError, match=f"{function} cannot be .*{advice}"):
        tape.gradient(result, x)
