"""A whole search in one compiled program finds what the loop in Python finds, on every backend."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from keras import ops  # noqa: E402

from fastkeras.seq2seq import BeamSearch, select  # noqa: E402
from small_models import END, RecurrentModel  # noqa: E402

# NumPy 2 warns when Keras on torch makes arrays with np.array(tensor)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BACKEND = keras.backend.backend()
PREFIX = np.array([[1, 2], [3, -1], [-1, -1]])
OPTIONS = (
    {},
    {"length_penalty": 1.0, "n_best": 4, "min_length": 3, "suppressed": (2,), "prefix": PREFIX},
    {"repetition_penalty": 1.4, "no_repeat_ngram": 2, "coverage_penalty": 0.5, "temperature": 1.3},
    {
        "num_groups": 2,
        "diversity_penalty": 0.4,
        "n_best": 2,
        "prefix_bias": 0.4,
        "prefix": PREFIX,
        "patience": 1.5,
        "return_attention": True,
        "length_penalty": -0.5,
    },
)


class Model(RecurrentModel):
    """The same in tensors."""

    def __init__(self, rng, vocabulary, batch, dtype="float32"):
        super().__init__(rng, vocabulary, batch)
        for name in ("w", "e", "u", "states", "context"):
            setattr(self, name, ops.convert_to_tensor(getattr(self, name), dtype))

    def step(self, tokens, states, context, ancestry):
        hidden = ops.matmul(states["h"][0], self.w) + ops.take(self.e, tokens, axis=0)
        hidden = ops.tanh(hidden)
        logits = ops.matmul(hidden, self.u) + context[:, None]
        return logits, {"h": [hidden]}, context, ops.softmax(3 * hidden[..., :3], axis=-1)


def compiled(function, how, shapes=None):
    """The function as one program; eager for torch, whose programs have no loops over data."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        signature = None
        if how == "any batch":
            signature = [tf.TensorSpec((None, *shape[1:]), dtype) for shape, dtype in shapes]
        return tf.function(function, input_signature=signature, jit_compile=how == "XLA")
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


HOW = ("graph", "XLA", "any batch") if BACKEND == "tensorflow" else ("compiled",)


def assert_same(found, expected, rtol):
    longest = expected.tokens.shape[2]
    arrays = [None if a is None else ops.convert_to_numpy(a) for a in found]
    tokens, lengths, scores, log_p, of_tokens, attention = arrays
    np.testing.assert_array_equal(tokens[..., :longest], expected.tokens)
    assert not tokens[..., longest:].any() and not of_tokens[..., longest + 1 :].any()
    np.testing.assert_array_equal(lengths, expected.lengths)
    np.testing.assert_allclose(scores, expected.scores, rtol=rtol)
    np.testing.assert_allclose(log_p, expected.log_likelihoods, rtol=rtol)
    each = of_tokens[..., : longest + 1]
    np.testing.assert_allclose(each, expected.token_log_likelihoods, rtol=rtol, atol=10 * rtol)
    if expected.attention is not None:
        given = attention[:, :, : longest + 1]
        np.testing.assert_allclose(given, expected.attention, rtol=rtol, atol=10 * rtol)


def search_of(model, options, num_beams=4, max_length=7):
    """A function of tensors that searches, and these tensors."""
    options = dict(options)
    given = {"prefix": options.pop("prefix", None), "source_mask": model.source_mask}
    search = BeamSearch(END, num_beams=num_beams, max_length=max_length, **options)

    def titles(states, context, start):
        return search(model.step, {"h": [states]}, context, start=start, **given)

    start = ops.convert_to_tensor(model.start, "int32")
    return titles, (model.states, model.context, start)


def of_arrays(seed):
    """The model of NumPy arrays, with its states in the structure that `Model` has."""
    model = RecurrentModel(np.random.default_rng(seed), 6, batch=3)
    step = model.step

    def in_order(tokens, states, *others):
        logits, states, *rest = step(tokens, states["h"][0], *others)
        return logits, {"h": [states]}, *rest

    model.step = in_order
    return model


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_compiled_search_is_the_search_of_arrays(options, how):
    titles, tensors = search_of(Model(np.random.default_rng(5), 6, batch=3), options)
    expected, arrays = search_of(of_arrays(5), options)
    expected = expected(*arrays)
    assert_same(titles(*tensors), expected, 1e-4)
    shapes = [(array.shape, keras.backend.standardize_dtype(array.dtype)) for array in tensors]
    assert_same(compiled(titles, how, shapes)(*tensors), expected, 1e-4)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="one backend is enough")
def test_in_float64_it_is_the_search_of_arrays_to_the_last_digits():
    titles, tensors = search_of(Model(np.random.default_rng(5), 6, 3, "float64"), OPTIONS[2])
    expected, arrays = search_of(of_arrays(5), OPTIONS[2])
    assert_same(compiled(titles, "graph")(*tensors), expected(*arrays), 1e-12)


@pytest.mark.skipif(BACKEND != "torch", reason="needs torch")
def test_torch_compiles_what_is_around_a_search(rng):
    import torch

    titles, tensors = search_of(Model(rng, 6, batch=3), {})
    expected = titles(*tensors)
    around = torch.compile(
        lambda states, context, start: titles(2 * states, 2 * context, start), backend="eager"
    )
    halves = (tensor / 2 for tensor in tensors[:2])
    assert_same(around(*halves, tensors[2]), expected, 1e-4)


@pytest.mark.skipif(BACKEND != "torch", reason="needs torch")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compiles_a_step(backend):
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 50, generator=generator)
    scores = torch.randn(3, 2, generator=generator)
    history = torch.randint(50, (3, 2, 5), generator=generator, dtype=torch.int32)

    def step(logits, scores, history):
        penalties = {"repetition_penalty": 1.2, "no_repeat_ngram": 2}
        return select(2 * logits, scores, history=history, **penalties)

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    inputs = logits, scores, history
    for found, expected in zip(compiled(*inputs), step(*inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.skipif(BACKEND == "torch", reason="a search on torch is not one program")
@pytest.mark.parametrize("how", HOW[:2])
def test_it_stops_early_and_marks_sentences_that_are_not_sound(how, rng):
    model = Model(rng, 6, batch=3)
    context = ops.convert_to_numpy(model.context).copy()
    context[:, END] += 20  # so that every sentence ends at once
    context[1] = np.nan

    def step(tokens, states, context, ancestry):
        logits, *others = Model.step(model, tokens, states, context, ancestry)
        is_late = ops.any(ancestry[..., 3:] >= 0)  # nothing may depend on these
        return ops.where(is_late, float("nan"), logits), *others

    model.context, model.step = ops.convert_to_tensor(context), step
    titles, tensors = search_of(model, {}, max_length=40)
    found = compiled(titles, how)(*tensors)
    scores = ops.convert_to_numpy(found.scores)
    assert np.isnan(scores[1]).all() and np.isfinite(scores[[0, 2]]).all()
    assert not ops.convert_to_numpy(found.lengths).any()


@pytest.mark.skipif(BACKEND == "torch", reason="a search on torch is not one program")
def test_a_rule_of_tokens_is_compiled_too(rng):
    model = Model(rng, 6, batch=3)
    search = BeamSearch(END, num_beams=3, max_length=5)

    def allowed(t, history, sentences):  # no token twice in succession, nor that of the sentence
        words, columns = ops.arange(6), ops.arange(history.shape[2])
        last = ops.sum(ops.where(columns == t - 1, history, 0), axis=2)[..., None]
        return ((words != last) & (words != sentences[:, None, None] + 1)) | (words == END)

    def titles(states, context, start):
        return search(model.step, {"h": [states]}, context, start=start, allowed=allowed)

    tensors = model.states, model.context, ops.convert_to_tensor(model.start, "int32")
    expected = titles(*tensors)
    assert_same(compiled(titles, "graph")(*tensors), expected, 1e-5)
    assert (expected.tokens[..., 1:] != expected.tokens[..., :-1])[
        expected.tokens[..., 1:] > 0
    ].all()
    assert (expected.tokens != np.arange(1, 4)[:, None, None]).all()


def test_a_step_that_changes_its_states_is_refused(rng):
    if BACKEND == "torch":
        pytest.skip("a search on torch is not one program")
    model = Model(rng, 6, batch=3)

    def longer(tokens, states, *others):
        logits, states, *rest = Model.step(model, tokens, states, *others)
        return logits, {"h": [*states["h"], logits]}, *rest

    def halves(*given):
        logits, states, *rest = Model.step(model, *given)
        return logits, {"h": [ops.cast(states["h"][0], "float16")]}, *rest

    for step, message in ((longer, "of the same structure"), (halves, "of the dtypes it gets")):
        model.step = step
        titles, tensors = search_of(model, {})
        with pytest.raises(ValueError, match=f"step must return .* {message}"):
            compiled(titles, "graph")(*tensors)
