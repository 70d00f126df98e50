"""The `keras` engine on TensorFlow: graphs of unknown shapes, XLA, second order, export."""

import numpy as np
import pytest

import calls
from fastkeras import crf
from fastkeras.crf._engines.keras import recursions

tf = pytest.importorskip("tensorflow")

BATCH, STEPS, NUM_TAGS = 3, 6, 4
KINDS = ("lengths", "holes", "hard constraints")


def random_chain(rng, kind, dtype="float64"):
    """Return keyword arguments of `log_likelihood`; "hard constraints" need the domain of logs."""
    emissions = rng.normal(size=(BATCH, STEPS, NUM_TAGS))
    transitions = rng.normal(size=(NUM_TAGS, NUM_TAGS))
    start, end = rng.normal(size=(2, NUM_TAGS))
    lengths, mask = np.array([STEPS, 3, 0], "int32"), None
    if kind != "lengths":
        mask = rng.random((BATCH, STEPS)) < 0.7
        lengths = None
    if kind == "hard constraints":
        transitions[0, 1:3] = -np.inf, -1e4
        emissions[0, 1, 0] = start[1] = -np.inf
    tags = np.full((BATCH, STEPS), 3)  # always a possible path
    return {
        "emissions": emissions.astype(dtype),
        "tags": tags,
        "transitions": transitions.astype(dtype),
        "lengths": lengths,
        "mask": mask,
        "start_transitions": start.astype(dtype),
        "end_transitions": end.astype(dtype),
    }


def as_function(function, chain, **options):
    """Return a tf.function of the chain's arrays, traced with unknown batch and steps."""
    names = [n for n, v in chain.items() if v is not None]
    names = [n for n in names if n != "tags" or function not in calls.WITHOUT_TAGS]
    known = {"emissions": (None, None, NUM_TAGS), "tags": (None, None), "mask": (None, None)}
    arrays = [tf.constant(chain[n]) for n in names]
    signature = [
        tf.TensorSpec((None,) if n == "lengths" else known.get(n, a.shape), a.dtype)
        for n, a in zip(names, arrays, strict=True)
    ]

    def call(*tensors):
        arguments = dict(zip(names, tensors, strict=True))
        return getattr(crf, function)(**arguments, engine="keras")

    return tf.function(call, input_signature=signature, **options), arrays


@pytest.mark.parametrize("jit_compile", (False, True))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", calls.FUNCTIONS)
def test_graphs_of_unknown_shape_and_xla_agree_with_the_reference(function, kind, jit_compile, rng):
    chain = random_chain(rng, kind)
    compiled, arrays = as_function(function, chain, jit_compile=jit_compile)
    exact = calls.call_reference(function, chain, "float64")
    for result, truth in zip(tf.nest.flatten(compiled(*arrays)), exact, strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-12, atol=1e-13)


def weighted_gradient(chain, tensors):
    """Return the gradients of a weighted sum of log-likelihoods."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = crf.log_likelihood(**{**chain, **tensors}, engine="keras")
        value = tf.reduce_sum(value * tf.constant([1.0, -2.0, 0.5], value.dtype))
    return tape.gradient(value, tensors)


def scores(chain):
    names = ("emissions", "transitions", "start_transitions", "end_transitions")
    return {name: tf.constant(chain[name]) for name in names}


@pytest.mark.parametrize("mode", ("eager", "graph", "xla"))
@pytest.mark.parametrize("kind", KINDS)
def test_the_tape_gives_the_gradient_of_the_reference(kind, mode, rng):
    chain = random_chain(rng, kind)
    gradient = weighted_gradient
    if mode != "eager":
        gradient = tf.function(
            lambda _, tensors: weighted_gradient(chain, tensors), jit_compile=mode == "xla"
        )
    weights = np.array([1.0, -2.0, 0.5])
    exact = calls.call_reference("log_likelihood_and_gradients", chain, "float64", weights)[1:]
    for result, truth in zip(gradient(chain, scores(chain)).values(), exact, strict=True):
        np.testing.assert_allclose(result, truth, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_second_order_gradients_are_the_differences_of_the_first(kind, rng):
    chain = random_chain(rng, kind)
    weights = {name: rng.normal(size=value.shape) for name, value in scores(chain).items()}

    @tf.function
    def projection(tensors):
        first = weighted_gradient(chain, tensors)
        return tf.add_n([tf.reduce_sum(first[name] * weights[name]) for name in weights])

    tensors = scores(chain)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = projection(tensors)
    second = tape.gradient(value, tensors)
    step = 1e-3
    for name, tensor in tensors.items():
        assert np.isfinite(second[name]).all()
        direction = rng.normal(size=tensor.shape)
        values = [
            float(projection({**tensors, name: tensor + k * step * direction}))
            for k in (-2, -1, 1, 2)
        ]
        numeric = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)
        expected = float(tf.reduce_sum(second[name] * direction))
        np.testing.assert_allclose(expected, numeric, rtol=1e-7, atol=1e-9)


def test_no_gradient_is_nan_where_nothing_is_possible(rng):
    chain = random_chain(rng, "lengths")
    chain["emissions"][0, 2] = -np.inf
    chain["tags"][:, 2] = 0
    value = crf.log_likelihood(**{**chain, **scores(chain)}, engine="keras").numpy()
    assert value[0] == -np.inf
    assert np.isfinite(value[1:]).all()
    gradients = weighted_gradient(chain, scores(chain))
    np.testing.assert_array_equal(gradients["emissions"][0], 0)
    assert np.abs(gradients["emissions"][1]).max() > 0.01
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@pytest.mark.parametrize("function", ("sequence_score", "log_likelihood"))
def test_a_tag_out_of_range_raises_eagerly_and_is_nan_in_a_graph(function, rng):
    chain = random_chain(rng, "lengths")
    chain["tags"][1, 5] = 77  # past the length
    chain["tags"][0, 1] = NUM_TAGS
    eager = {n: None if v is None else tf.constant(v) for n, v in chain.items()}
    with pytest.raises(ValueError, match=r"tags must be in 0..3 at valid steps, got 4 at \[0, 1\]"):
        getattr(crf, function)(**eager, engine="keras")
    compiled, arrays = as_function(function, chain)
    np.testing.assert_array_equal(np.isnan(compiled(*arrays)), [True, False, False])


@pytest.mark.parametrize("kind", ("lengths", "holes"))
def test_a_graph_takes_labels_and_steps_as_constants(kind, rng):
    chain = random_chain(rng, kind)
    scores = {n: tf.constant(chain[n]) for n in ("emissions", "transitions")}
    fixed = {n: tf.constant(chain[n]) for n in ("lengths", "mask") if chain[n] is not None}

    @tf.function(input_signature=[tf.TensorSpec((BATCH, None, NUM_TAGS), tf.float64)])
    def likelihood(emissions):
        tags = tf.constant(chain["tags"])
        return crf.log_likelihood(emissions, tags, scores["transitions"], **fixed, engine="keras")

    constants = tf.constant(chain["tags"])  # made outside the graph, which sees their values
    of_constants = tf.function(
        lambda emissions: crf.log_likelihood(
            emissions, constants, scores["transitions"], **fixed, engine="keras"
        )
    )
    exact = crf.log_likelihood(scores["emissions"], constants, scores["transitions"], **fixed)
    for compiled in (likelihood, of_constants):
        np.testing.assert_allclose(compiled(scores["emissions"]), exact, rtol=1e-12, atol=1e-13)


def test_lengths_out_of_range_raise_eagerly(rng):
    chain = random_chain(rng, "lengths")
    eager = {n: tf.constant(chain[n]) for n in ("emissions", "transitions")}
    with pytest.raises(ValueError, match=r"lengths must be in 0..6 .* got values in 0..7"):
        crf.log_partition(**eager, lengths=tf.constant([1, 7, 0]), engine="keras")


@pytest.mark.parametrize("function", calls.FUNCTIONS)
def test_no_steps_at_all(function):
    emissions, transitions = tf.zeros((2, 0, 3)), tf.zeros((3, 3))
    tags = {} if function in calls.WITHOUT_TAGS else {"tags": tf.zeros((2, 0), tf.int32)}
    result = getattr(crf, function)(emissions, transitions=transitions, engine="keras", **tags)
    for array in tf.nest.flatten(result):
        np.testing.assert_array_equal(array, np.zeros(array.shape))


def test_weights_may_be_tensors(rng):
    chain = random_chain(rng, "lengths")
    tensors = {n: None if v is None else tf.constant(v) for n, v in chain.items()}
    weights = np.array([2, 0, 1])
    results = [
        crf.log_likelihood_and_gradients(**tensors, weights=w, engine="keras")[1].emissions
        for w in (weights, tf.constant(weights), tf.constant(weights, tf.float32))
    ]
    exact = calls.call_reference("log_likelihood_and_gradients", chain, "float64", weights)
    for result in results:
        np.testing.assert_allclose(result, exact[1], rtol=1e-11, atol=1e-12)
    with pytest.raises(ValueError, match="weights must be numbers of shape"):
        crf.log_likelihood_and_gradients(**tensors, weights=tf.ones(7), engine="keras")


def test_both_domains_agree_where_both_are_sound(rng, monkeypatch):
    chain = random_chain(rng, "holes")
    scaled = calls.call("marginals", chain, "keras")
    monkeypatch.setitem(recursions.FARTHEST, "float64", -1.0)
    logs = tf.function(
        lambda: crf.marginals(
            *(tf.constant(chain[n]) for n in ("emissions", "transitions")),
            mask=tf.constant(chain["mask"]),
            start_transitions=tf.constant(chain["start_transitions"]),
            end_transitions=tf.constant(chain["end_transitions"]),
            engine="keras",
        )
    )()
    for one, other in zip(scaled, logs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-13)


def test_a_saved_model_needs_no_op_of_ours(rng, tmp_path):
    module = tf.Module()
    chain = random_chain(rng, "lengths")
    module.decode, arrays = as_function("viterbi", chain)
    tf.saved_model.save(module, tmp_path)
    assert b"Fastkeras" not in (tmp_path / "saved_model.pb").read_bytes()
    tags, _ = tf.saved_model.load(tmp_path).decode(*arrays)
    np.testing.assert_array_equal(tags, calls.call_reference("viterbi", chain, "float64")[0])
