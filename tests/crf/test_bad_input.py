"""Wrong arguments raise a ValueError that names them; empty ones work; nothing crashes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import FUNCTIONS, WITHOUT_TAGS, call

BATCH, STEPS, NUM_TAGS = 2, 3, 4
GOOD = {
    "emissions": np.zeros((BATCH, STEPS, NUM_TAGS), "float32"),
    "tags": np.zeros((BATCH, STEPS), "int32"),
    "transitions": np.zeros((NUM_TAGS, NUM_TAGS), "float32"),
    "lengths": np.array([3, 1]),
    "mask": np.ones((BATCH, STEPS), bool),
    "start_transitions": np.zeros(NUM_TAGS, "float32"),
    "end_transitions": np.zeros(NUM_TAGS, "float32"),
}
EMPTY_SHAPES = ((0, 3, 4), (2, 0, 4), (0, 0, 4))
WRONG_SHAPES = [
    ("emissions", (BATCH, STEPS)),
    ("emissions", (BATCH, STEPS, NUM_TAGS, 1)),
    ("emissions", ()),
    ("emissions", (BATCH, STEPS, 0)),
    ("tags", (BATCH,)),
    ("tags", (BATCH, STEPS + 1)),
    ("tags", (BATCH + 1, STEPS)),
    ("tags", (BATCH, STEPS, NUM_TAGS)),
    ("transitions", (NUM_TAGS,)),
    ("transitions", (NUM_TAGS, NUM_TAGS + 1)),
    ("transitions", (NUM_TAGS + 1, NUM_TAGS + 1)),
    ("transitions", (1, 1)),
    ("lengths", ()),
    ("lengths", (BATCH + 1,)),
    ("lengths", (BATCH, 1)),
    ("mask", (BATCH,)),
    ("mask", (BATCH, STEPS + 1)),
    ("mask", (1, STEPS)),
    ("start_transitions", ()),
    ("start_transitions", (NUM_TAGS + 1,)),
    ("start_transitions", (1, NUM_TAGS)),
    ("end_transitions", (1,)),
    ("end_transitions", (NUM_TAGS, NUM_TAGS)),
]
WRONG_DTYPES = [
    ("emissions", "complex64"),
    ("emissions", "U3"),
    ("emissions", "bool"),
    ("emissions", "object"),
    ("transitions", "complex128"),
    ("transitions", "U3"),
    ("start_transitions", "datetime64[s]"),
    ("end_transitions", "U3"),
    ("tags", "float32"),
    ("tags", "bool"),
    ("tags", "U3"),
    ("lengths", "float64"),
    ("lengths", "bool"),
    ("lengths", "complex64"),
    ("mask", "float32"),
    ("mask", "U3"),
]
OUT_OF_RANGE = [
    ("lengths", [-1, 3]),
    ("lengths", [3, STEPS + 1]),
    ("lengths", [3, 2**40]),
    ("tags", [[0, 0, NUM_TAGS], [0, 0, 0]]),
    ("tags", [[0, 0, 0], [-1, 0, 0]]),
    ("tags", [[0, 2**40, 0], [0, 0, 0]]),
]
with_tags = pytest.mark.parametrize("function", [f for f in FUNCTIONS if f not in WITHOUT_TAGS])


def functions_that_take(name):
    return [f for f in FUNCTIONS if name != "tags" or f not in WITHOUT_TAGS]


@pytest.mark.parametrize(("name", "shape"), WRONG_SHAPES, ids=str)
def test_a_wrong_shape_names_the_argument(engine, name, shape):
    bad = {**GOOD, name: np.zeros(shape, GOOD[name].dtype)}
    for function in functions_that_take(name):
        with pytest.raises(ValueError, match=f"^{name} must "):
            call(function, bad, engine)


@pytest.mark.parametrize(("name", "dtype"), WRONG_DTYPES, ids=str)
def test_a_wrong_dtype_names_the_argument(engine, name, dtype):
    bad = {**GOOD, name: np.zeros(GOOD[name].shape, dtype)}
    for function in functions_that_take(name):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            call(function, bad, engine)


@pytest.mark.parametrize(("name", "values"), OUT_OF_RANGE, ids=str)
def test_a_value_out_of_range_names_the_argument(engine, name, values):
    bad = {**GOOD, name: np.array(values)}
    for function in functions_that_take(name):
        with pytest.raises(ValueError, match=f"^{name} must be in 0..{STEPS}"):
            call(function, bad, engine)


def test_lengths_that_are_nan_are_no_integers(engine):
    bad = {**GOOD, "lengths": np.array([np.nan, 1])}
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"^lengths must be integers, got float64"):
            call(function, bad, engine)


@with_tags
def test_tags_are_required(engine, function):
    with pytest.raises(ValueError, match=r"^tags must be integers .* got None"):
        call(function, {**GOOD, "tags": None}, engine)


@with_tags
def test_tags_out_of_range_at_masked_steps_are_fine(engine, function):
    mask = np.array([[True, True, False], [False, True, True]])
    tags = np.array([[1, 2, -100], [99, 0, 3]])
    chain = {**GOOD, "lengths": None, "mask": mask, "tags": tags}
    clean = {**chain, "tags": np.where(mask, tags, 0)}
    results, expected = call(function, chain, engine), call(function, clean, engine)
    for result, same in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, same)


@pytest.mark.parametrize("weights", (np.zeros(3), np.zeros((2, 1)), np.array(["a", "b"])), ids=str)
def test_wrong_weights_name_the_argument(engine, weights):
    with pytest.raises(ValueError, match=r"^weights must be numbers"):
        call("log_likelihood_and_gradients", GOOD, engine, weights=weights)


@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_empty_batch_or_no_steps_works(engine, function, dtype, shape):
    batch, steps, num_tags = shape
    chain = {
        "emissions": np.zeros(shape, dtype),
        "tags": np.zeros((batch, steps), int),
        "transitions": np.ones((num_tags, num_tags), dtype),
    }
    for more in ({}, {"mask": np.ones((batch, steps), bool)}, {"lengths": np.zeros(batch, int)}):
        results = call(function, {**chain, **more}, engine)
        expected = call(function, {**chain, **more}, "reference")
        for result, zeros in zip(results, expected, strict=True):
            assert result.dtype == zeros.dtype
            np.testing.assert_array_equal(result, np.zeros(zeros.shape))


@pytest.mark.parametrize(("name", "shape"), WRONG_SHAPES, ids=str)
def test_a_wrong_shape_of_a_tensor_names_the_argument(name, shape):
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    bad = {**GOOD, name: np.zeros(shape, GOOD[name].dtype)}
    tensors = {key: tf.constant(value) for key, value in bad.items()}
    for function in functions_that_take(name):
        with pytest.raises(ValueError, match=f"^{name} must "):
            call(function, tensors, None)


@pytest.mark.parametrize(("name", "dtype"), WRONG_DTYPES, ids=str)
def test_a_wrong_dtype_of_a_tensor_names_the_argument(name, dtype):
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    if dtype in ("U3", "object", "datetime64[s]"):
        dtype = "S3"  # TensorFlow has strings, but neither objects nor dates
    bad = {**GOOD, name: np.zeros(GOOD[name].shape, dtype)}
    tensors = {key: tf.constant(value) for key, value in bad.items()}
    for function in functions_that_take(name):
        with pytest.raises(ValueError, match=f"^{name} must be "):
            call(function, tensors, None)


@pytest.mark.parametrize("value", (2**32, 2**32 + 1, 2**63 - 1, -(2**63)))
@pytest.mark.parametrize("name", ("tags", "lengths"))
@pytest.mark.parametrize("tensor_engine", ("tensorflow_native", "keras"))
def test_an_integer_beyond_int32_does_not_wrap_into_range(tensor_engine, name, value):
    tf = pytest.importorskip("tensorflow", reason="tensors need TensorFlow")
    bad = {**GOOD, name: np.full(GOOD[name].shape, value)}
    tensors = {key: tf.constant(bad[key]) for key in bad}
    for function in functions_that_take(name):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=f"{name} must be"):
            call(function, tensors, tensor_engine)


SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
DTYPES = st.sampled_from(("float16", "float32", "float64", "int32", "int64", "bool", "U2"))


@pytest.mark.parametrize("function", FUNCTIONS)
@given(data=st.data())
def test_anything_at_all_is_answered_or_refused_by_name(engine, function, data):
    batch, steps, num_tags = data.draw(st.tuples(*[st.integers(0, 3)] * 3))
    shapes = {
        "emissions": (batch, steps, num_tags),
        "tags": (batch, steps),
        "transitions": (num_tags, num_tags),
        "lengths": (batch,),
        "mask": (batch, steps),
        "start_transitions": (num_tags,),
        "end_transitions": (num_tags,),
    }
    optional = ("lengths", "mask", "start_transitions", "end_transitions")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    chain = {}
    for name, shape in shapes.items():
        if name in optional and data.draw(st.booleans()):
            chain[name] = None
            continue
        if data.draw(st.integers(0, 9)) == 0:
            shape = data.draw(SHAPES)
        dtype = GOOD[name].dtype
        if data.draw(st.integers(0, 9)) == 0:
            dtype = data.draw(DTYPES)
        chain[name] = rng.integers(-1, 5, shape).astype(dtype)
    try:
        results = call(function, chain, engine)
    except ValueError as error:
        lacks = f"engine={engine!r} does not take transitions that vary"
        assert str(error).split(" must ")[0] in shapes or str(error).startswith(lacks)
        return
    batch, steps, num_tags = chain["emissions"].shape  # may differ from the shape drawn first
    first = (batch, steps) if function == "viterbi" else (batch,)
    first = (batch, steps, num_tags) if function == "marginals" else first
    assert results[0].shape == first
    for result in results:
        assert not np.isnan(result.astype("float64")).any()
