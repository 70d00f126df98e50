"""The `keras` engine and the layer on the backend of the environment: JAX or torch.

Run by `make test-backends`, which sets KERAS_BACKEND in an environment for each backend.
"""

import keras
import numpy as np
import pytest
from keras import ops

from fastkeras import crf as functions
from fastkeras.crf import span_scores
from fastkeras.crf._engines import reference as _reference
from fastkeras.crf.chain import Chain
from fastkeras.layers import CRF
from fastkeras.metrics import CRFExactMatch, CRFSpanScore

# NumPy 2 complains about np.array(tensor), by which Keras on torch makes arrays
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

BATCH, STEPS, NUM_TAGS, WORDS, IGNORED = 4, 6, 3, 10, -100


def chain(rng, hard):
    """Return (arguments of the engine, tags): a masked first step, a hole, an empty sequence."""
    emissions = rng.normal(size=(BATCH, STEPS, NUM_TAGS))
    transitions = rng.normal(size=(NUM_TAGS, NUM_TAGS))
    start, end = rng.normal(size=(2, NUM_TAGS))
    mask = np.ones((BATCH, STEPS), bool)
    mask[0, [0, 2, 5]] = mask[1] = False
    if hard:
        transitions[0, 1:] = -np.inf, -1e4
        emissions[2, 3, 0] = -np.inf
    tags = np.where(mask, 2, IGNORED)
    arrays = (emissions, transitions, start, end)
    return [a.astype("float32") for a in arrays], mask, tags


def call(function, scores, mask, *tags):
    emissions, transitions, start, end = (ops.convert_to_tensor(a) for a in scores)
    result = getattr(functions, function)(
        emissions,
        *(ops.convert_to_tensor(t) for t in tags),
        transitions,
        mask=ops.convert_to_tensor(mask),
        start_transitions=start,
        end_transitions=end,
    )
    return [np.asarray(ops.convert_to_numpy(a)) for a in keras.tree.flatten(result)]


def reference(function, scores, mask, *tags):
    emissions, transitions, start, end = (a.astype("float64") for a in scores)
    tags = [np.where(mask, t, 0) for t in tags]
    weights = [np.ones(len(emissions))] if function == "log_likelihood_and_gradients" else []
    chain = Chain(emissions, transitions, None, mask, start, end)
    return keras.tree.flatten(getattr(_reference, function)(chain, *tags, *weights))


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="JAX has no int64 unless told so")
def test_an_integer_beyond_int32_does_not_wrap_into_range(rng):
    (emissions, transitions, *_), _, tags = chain(rng, False)
    tags = ops.convert_to_tensor(np.abs(tags).astype("int64") % NUM_TAGS + 2**32)
    emissions, transitions = map(ops.convert_to_tensor, (emissions, transitions))
    for engine in ("torch_native", "keras"):
        with pytest.raises(ValueError, match=r"tags must be in 0\.\.2"):
            functions.log_likelihood(emissions, tags, transitions, engine=engine)
        with pytest.raises(ValueError, match=r"lengths must be in 0\.\.6"):
            functions.log_partition(emissions, transitions, tags[:, 0], engine=engine)


@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize("function", ("log_partition", "marginals", "viterbi"))
def test_functions_without_tags_agree_with_the_reference(function, hard, rng):
    scores, mask, _ = chain(rng, hard)
    results = call(function, scores, mask), reference(function, scores, mask)
    for result, exact in zip(*results, strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hard", (False, True))
@pytest.mark.parametrize(
    "function", ("sequence_score", "log_likelihood", "log_likelihood_and_gradients")
)
def test_functions_of_tags_agree_with_the_reference(function, hard, rng):
    scores, mask, tags = chain(rng, hard)
    results = call(function, scores, mask, tags), reference(function, scores, mask, tags)
    for result, exact in zip(*results, strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


def test_a_tag_out_of_range_raises(rng):
    scores, mask, tags = chain(rng, False)
    tags[2, 1] = NUM_TAGS
    with pytest.raises(ValueError, match=r"tags must be in 0\.\.2 at valid steps, got 3 at \[2, 1"):
        call("log_likelihood", scores, mask, tags)


@pytest.mark.parametrize("engine", (None, "keras"))
def test_a_program_takes_labels_and_lengths_as_constants(engine, rng):
    jax = pytest.importorskip("jax", reason="programs of constants are JAX'")
    scores, _, _ = chain(rng, False)
    emissions, transitions, *_ = (ops.convert_to_tensor(a) for a in scores)
    tags = ops.convert_to_tensor(np.full((BATCH, STEPS), 2))
    lengths = ops.convert_to_tensor(np.array([STEPS, 2, 1, 0]))

    def likelihood(emissions):
        return functions.log_likelihood(emissions, tags, transitions, lengths, engine=engine)

    close = np.testing.assert_allclose
    close(jax.jit(likelihood)(emissions), likelihood(emissions), rtol=1e-5, atol=1e-5)


def log_likelihood(scores, mask, tags, transitions):
    """Return Σ log p as a function of a tensor of transitions."""
    emissions, _, start, end = (ops.convert_to_tensor(a) for a in scores)
    likelihood = functions.log_likelihood(
        emissions,
        ops.convert_to_tensor(tags),
        transitions,
        mask=ops.convert_to_tensor(mask),
        start_transitions=start,
        end_transitions=end,
        engine="keras",  # the kernels have only the first derivative
    )
    return ops.sum(likelihood)


def first_and_second_derivative(function, point):
    """Return the gradient, and the Hessian as (size, size), of a function of a tensor."""
    if keras.backend.backend() == "jax":
        import jax

        point = ops.convert_to_tensor(point)
        first, second = jax.grad(function)(point), jax.jacrev(jax.grad(function))(point)
    else:
        import torch

        point = torch.tensor(point, requires_grad=True)
        (first,) = torch.autograd.grad(function(point), point, create_graph=True)
        rows = [torch.autograd.grad(d, point, retain_graph=True)[0] for d in first.flatten()]
        first, second = first.detach(), torch.stack(rows)
    return np.asarray(first), np.asarray(second).reshape(NUM_TAGS**2, NUM_TAGS**2)


@pytest.mark.parametrize("hard", (False, True))
def test_the_backend_differentiates_once_and_twice(hard, rng):
    scores, mask, tags = chain(rng, hard)
    first, second = first_and_second_derivative(
        lambda transitions: log_likelihood(scores, mask, tags, transitions), scores[1]
    )
    np.testing.assert_allclose(first, exact_gradient(scores, mask, tags), rtol=1e-4, atol=1e-5)

    step, size = 1e-5, NUM_TAGS**2
    numeric = np.zeros((size, size))
    for i in range(size):
        change = np.zeros(size)
        change[i] = step
        higher, lower = (
            exact_gradient(scores, mask, tags, sign * change.reshape(NUM_TAGS, NUM_TAGS))
            for sign in (1, -1)
        )
        numeric[i] = (higher - lower).ravel() / (2 * step)
    np.testing.assert_allclose(second, numeric, rtol=1e-3, atol=1e-4)


def exact_gradient(scores, mask, tags, change=0):
    """Return the reference's derivative with respect to the transitions, in float64."""
    emissions, transitions, start, end = (a.astype("float64") for a in scores)
    scores = (emissions, transitions + change, start, end)
    return reference("log_likelihood_and_gradients", scores, mask, tags)[2]


@pytest.fixture
def data(rng):
    """Words with 0 as padding, and tags determined by a word and the word before."""
    keras.utils.set_random_seed(0)  # for the initial weights
    words = rng.integers(1, WORDS, (16, 7))
    words[np.arange(7) >= rng.integers(2, 8, 16)[:, None]] = 0
    words[0] = [0, 3, 0, 5, 7, 0, 0]
    tags = np.where(np.roll(words, 1, axis=1) > 5, 0, words % NUM_TAGS)
    tags[words == 0] = IGNORED
    return words.astype("int32"), tags.astype("int32")


def test_fit_save_load_and_decode(data, tmp_path):
    words, tags = data
    crf = CRF(NUM_TAGS, use_kernel=True)
    inputs = keras.Input((7,), dtype="int32")
    embedded = keras.layers.Embedding(WORDS, 8, mask_zero=True)(inputs)
    model = keras.Model(inputs, crf(embedded))
    optimizer = keras.optimizers.Adam(0.05)
    metrics = [crf.accuracy, CRFExactMatch(crf), CRFSpanScore(crf, ["O", "B", "I"])]
    model.compile(optimizer, crf.loss, metrics=metrics, weighted_metrics=[crf.accuracy])
    history = model.fit(words, tags, epochs=10, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.8 * history["loss"][0]

    weights = np.linspace(0, 2, len(words)).astype("float32")
    found = crf.decode(model).predict(words, batch_size=16, verbose=0)
    emissions = model.predict(words, batch_size=16, verbose=0)
    scores = (crf.transitions, crf.start_transitions, crf.end_transitions)
    scores = [emissions, *(np.asarray(ops.convert_to_numpy(s)) for s in scores)]
    mask = words > 0
    decoded, _ = reference("viterbi", scores, mask)
    (likelihood,) = reference("log_likelihood", scores, mask, tags)
    np.testing.assert_array_equal(found, decoded)
    right, steps = (found == tags) & mask, mask * weights[:, None]
    expected = {
        "loss": -(likelihood * weights).mean(),
        "accuracy": right.sum() / mask.sum(),
        "weighted_accuracy": (right * steps).sum() / steps.sum(),
        "exact_match": (right == mask).all(axis=1).mean(),
        "span_f1": span_scores(tags, found, ["O", "B", "I"])["micro avg"].f1,
    }
    options = {"sample_weight": weights, "batch_size": 16, "verbose": 0, "return_dict": True}
    results = model.evaluate(words, tags, **options)
    assert results == pytest.approx(expected, rel=1e-4)

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(words, tags, **options) == pytest.approx(expected, rel=1e-4)
    again = loaded.fit(words, tags, epochs=2, batch_size=8, verbose=0).history
    assert again["loss"][-1] < history["loss"][-1]
    tags_again, probability = (
        loaded.layers[-1].decode(loaded, confidence=True).predict(words, batch_size=16, verbose=0)
    )
    assert tags_again.dtype == np.int32
    assert (probability[mask] > 0.2).all() and (probability[~mask] == 0).all()


def test_two_layers_of_different_tags_have_metrics_of_their_own(rng):
    inputs = keras.Input((None, 4))
    layers = {name: CRF(tags, use_kernel=True, name=name) for name, tags in (("a", 3), ("b", 4))}
    model = keras.Model(inputs, {name: crf(inputs) for name, crf in layers.items()})
    model.compile(
        "adam",
        {name: crf.loss for name, crf in layers.items()},
        metrics={"a": CRFSpanScore(layers["a"], ["O", "B", "I"]), "b": layers["b"].accuracy},
    )
    x = rng.standard_normal((5, 6, 4)).astype("float32")
    tags = {name: rng.integers(0, crf.num_tags, (5, 6)) for name, crf in layers.items()}
    assert np.isfinite(model.fit(x, tags, verbose=0).history["loss"]).all()
    found = model.evaluate(x, tags, verbose=0, return_dict=True)
    outputs = {name: ops.convert_to_numpy(y) for name, y in model(x).items()}
    decoded = {
        name: ops.convert_to_numpy(layers[name].viterbi(y)[0]) for name, y in outputs.items()
    }
    expected = span_scores(tags["a"], decoded["a"], ["O", "B", "I"])["micro avg"].f1
    assert found["a_span_f1"] == pytest.approx(expected, abs=1e-6)
    assert found["b_accuracy"] == pytest.approx((decoded["b"] == tags["b"]).mean())


def test_one_step_without_compilation(data):
    words, tags = data
    crf = CRF(NUM_TAGS, use_kernel=True, learning_rate_multiplier=2.0)
    model = keras.Sequential([keras.layers.Embedding(WORDS, 8, mask_zero=True), crf])
    model.compile("adam", crf.loss, metrics=[crf.accuracy], run_eagerly=True)
    first = model.train_on_batch(words, tags, return_dict=True)
    assert np.isfinite(first["loss"]) and 0 < first["accuracy"] < 1
    assert model.evaluate(words, tags, verbose=0)[0] < first["loss"]


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch.compile is torch's")
def test_an_output_that_lost_its_mask_is_refused_on_torch(data):
    words, tags = data
    crf = CRF(NUM_TAGS, use_kernel=True)
    emissions = crf(keras.layers.Embedding(WORDS, 8, mask_zero=True)(words))
    assert crf.loss(tags, emissions).item() > 0
    with pytest.raises(ValueError, match=r"torch\.compile loses that, and the mask"):
        crf.loss(tags, emissions.clone())


def kept_and_gradient(function, *points):
    """Return how many numbers are kept for the gradient of a sum, and the gradient."""
    if keras.backend.backend() == "jax":
        import jax

        value, pullback = jax.vjp(function, *points)
        kept = sum(leaf.size for leaf in jax.tree.leaves(pullback))
        return kept, [np.asarray(g) for g in pullback(np.ones_like(value))]
    import torch

    sizes, points = {}, [torch.tensor(point, requires_grad=True) for point in points]

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(*points)
    return sum(sizes.values()), [g.numpy() for g in torch.autograd.grad(value, points)]


@pytest.mark.parametrize("hard", (False, True))
def test_checkpoints_keep_less_for_the_same_gradient(hard, rng):
    emissions = rng.normal(size=(2, 200, 5)).astype("float32")
    transitions = rng.normal(size=(5, 5)).astype("float32")
    tags = np.full((2, 200), 2)
    if hard:
        transitions[0, 1:3] = -np.inf, -1e4

    def log_likelihood(checkpoint):
        more = {"checkpoint": checkpoint, "engine": "keras"}
        return lambda x, a: ops.sum(functions.log_likelihood(x, tags, a, **more))

    (kept, expected), (kept_less, results) = (
        kept_and_gradient(log_likelihood(checkpoint), emissions, transitions)
        for checkpoint in (False, True)
    )
    # the relative emissions, and the arrays that select from them, are still kept
    assert kept_less < kept - emissions.size / 2
    for result, exact in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=1e-4, atol=2e-5)


def test_transitions_that_vary(rng):
    emissions, transitions = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 4, 2, 2))
    transitions[0, 1, 0] = -np.inf
    tags, mask = np.full((3, 5), 1), rng.random((3, 5)) < 0.8
    arrays = emissions.astype("float32"), transitions.astype("float32"), np.zeros(2), np.zeros(2)
    for function in ("log_partition", "marginals", "viterbi", "log_likelihood_and_gradients"):
        tags_if_any = (tags,) if "gradients" in function else ()
        results = call(function, arrays, mask, *tags_if_any)
        expected = reference(function, [np.asarray(a) for a in arrays], mask, *tags_if_any)
        for result, exact in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)


def test_constraints_hold_in_training_and_decoding(data):
    words, _ = data
    rules = functions.constraints.allowed("BIO", ["O", "B", "I"])
    tags = np.where(words > 5, 1, 0)
    tags = np.where((np.roll(tags, 1, axis=1) == 1) & (words % 2 == 0), 2, tags)
    tags[np.roll(words, 1, axis=1) == 0] = 0  # nothing continues from a masked step
    tags[words == 0] = IGNORED
    for row, word in zip(tags, words, strict=True):  # I follows only B or I
        before = 0
        for t in np.flatnonzero(word):
            row[t] = 1 if row[t] == 2 and before == 0 else row[t]
            before = row[t]
    crf = CRF(NUM_TAGS, use_kernel=True, constraints=rules)
    model = keras.Sequential([keras.layers.Embedding(WORDS, 8, mask_zero=True), crf])
    model.compile(keras.optimizers.Adam(0.05), crf.loss, metrics=[crf.accuracy])
    history = model.fit(words, tags, epochs=4, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    found = crf.decode(model).predict(words, batch_size=16, verbose=0)
    for row, word in zip(found, words, strict=True):
        path = row[word > 0]
        assert path[0] != 2
        assert not ((path[:-1] == 0) & (path[1:] == 2)).any()
    scores = crf.transitions, crf.start_transitions
    transitions, start = (np.asarray(ops.convert_to_numpy(s)) for s in scores)
    np.testing.assert_array_equal(np.isneginf(transitions), ~rules.transitions)
    np.testing.assert_array_equal(np.isneginf(start), ~rules.start)
