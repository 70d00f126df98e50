"""Malformed input at each door of the compiled CRF: refused with the argument's name, or harmless.

The doors are the functions of the extension module, the TensorFlow ops, and the calls of their
kernels in XLA programs. Python functions check before them, but a saved graph calls the ops alone.
"""

import numpy as np
import pytest

from engine_parameters import engines_of
from fastkeras import crf
from fastkeras.crf import arguments

BATCH, STEPS, NUM_TAGS, MAX_LENGTH = 2, 3, 4, 2
WORKSPACE = BATCH * STEPS * (2 * NUM_TAGS + 1) + BATCH
KEPT = BATCH * (NUM_TAGS**2 + STEPS + 2)  # the workspace of second-order chains
HUGE = 2**31 - 1


def good(dtype="float32"):
    """Correct arguments for every function and op."""
    rng = np.random.default_rng(0)

    def scores(*shape):
        return rng.standard_normal(shape).astype(dtype)

    return {
        "emissions": scores(BATCH, STEPS, NUM_TAGS),
        "tags": rng.integers(0, NUM_TAGS, (BATCH, STEPS)).astype("int32"),
        "transitions": scores(NUM_TAGS, NUM_TAGS),
        "durations": scores(MAX_LENGTH, NUM_TAGS),
        "lengths": np.array([3, 2], "int32"),
        "mask": np.ones((BATCH, STEPS), bool),
        "start_transitions": scores(NUM_TAGS),
        "end_transitions": scores(NUM_TAGS),
        "weights": scores(BATCH),
        "uniforms": rng.random((5, BATCH, STEPS)).astype(dtype),
        "value": np.zeros(BATCH, dtype),
        "workspace": np.zeros(WORKSPACE, dtype),
        "triples": scores(NUM_TAGS, NUM_TAGS, NUM_TAGS),
        "kept": np.zeros(KEPT, dtype),
        "keep_workspace": True,
        "quantity": 2,
        "k": 3,
    }


CHAIN = ("transitions", "lengths", "mask", "start_transitions", "end_transitions")
SEMI_CHAIN = ("transitions", "durations", "lengths", "start_transitions", "end_transitions")
FUNCTIONS = {  # of the extension module: their arguments in order
    "crf_value": ("emissions", "tags", *CHAIN, "quantity"),
    "crf_value_and_workspace": ("emissions", "tags", *CHAIN, "quantity"),
    "crf_gradient": ("emissions", "tags", *CHAIN, "value", "workspace", "weights", "quantity"),
    "crf_value_and_gradient": ("emissions", "tags", *CHAIN, "weights", "quantity"),
    "crf_marginals": ("emissions", *CHAIN),
    "crf_viterbi": ("emissions", *CHAIN),
    "crf_k_best": ("emissions", *CHAIN, "k"),
    "crf_sample": ("emissions", *CHAIN, "uniforms"),
    "second_order_value": ("emissions", *CHAIN, "triples", "tags", "quantity", "keep_workspace"),
    "second_order_gradient": (
        "emissions",
        *CHAIN,
        "triples",
        "tags",
        "value",
        "kept",
        "weights",
        "quantity",
    ),
    "second_order_marginals": ("emissions", *CHAIN, "triples"),
    "second_order_viterbi": ("emissions", *CHAIN, "triples"),
    "semi_markov_log_partition": ("emissions", *SEMI_CHAIN),
    "semi_markov_marginals": ("emissions", *SEMI_CHAIN),
    "semi_markov_viterbi": ("emissions", *SEMI_CHAIN),
}
CHAIN_OF_OP = (
    "emissions",
    "transitions",
    "start_transitions",
    "end_transitions",
    "lengths",
    "mask",
)
OPS = {  # their inputs in order, and attributes
    "crf_value": ((*CHAIN_OF_OP, "tags"), ("quantity",)),
    "crf_gradient": ((*CHAIN_OF_OP, "tags", "value", "workspace", "weights"), ("quantity",)),
    "crf_marginals": (CHAIN_OF_OP, ()),
    "crf_viterbi": (CHAIN_OF_OP, ()),
    "crf_k_best": (CHAIN_OF_OP, ("k",)),
    "crf_sample": ((*CHAIN_OF_OP, "uniforms"), ()),
    "second_order_value": ((*CHAIN_OF_OP, "triples", "tags"), ("quantity", "keep_workspace")),
    "second_order_gradient": (
        (*CHAIN_OF_OP, "triples", "tags", "value", "kept", "weights"),
        ("quantity",),
    ),
    "second_order_marginals": ((*CHAIN_OF_OP, "triples"), ()),
    "second_order_viterbi": ((*CHAIN_OF_OP, "triples"), ()),
    "semi_markov_log_partition": (("emissions", *SEMI_CHAIN), ()),
    "semi_markov_marginals": (("emissions", *SEMI_CHAIN), ()),
    "semi_markov_viterbi": (("emissions", *SEMI_CHAIN), ()),
}
WRONG_SHAPES = {
    "emissions": [(), (2,), (2, 3), (2, 3, 0), (0, 0, 0), (2, 3, 4, 1), (2, 3, 5), (3, 3, 4)],
    "tags": [(), (2,), (2, 2), (2, 4), (3, 3), (2, 3, 1), (6,)],
    "transitions": [(), (4,), (4, 5), (5, 4), (3, 3), (16,), (0, 0), (1, 4, 4)],
    "durations": [(), (4,), (0, 4), (2, 3), (2, 5), (2, 4, 1)],
    "lengths": [(), (1,), (3,), (2, 1), (0,)],
    "mask": [(), (2,), (2, 2), (3, 3), (2, 3, 1), (0, 3)],
    "start_transitions": [(), (3,), (5,), (4, 1), (0,)],
    "end_transitions": [(), (3,), (5,), (1, 4), (0,)],
    "weights": [(), (1,), (3,), (2, 1), (0,)],
    "uniforms": [(), (5,), (5, 2), (5, 3, 3), (5, 2, 2), (2, 3), (5, 2, 3, 1)],
    "value": [(), (1,), (3,), (2, 1)],
    "workspace": [(), (1,), (0,), (56, 1), (57,)],
    "triples": [(), (4,), (4, 4), (4, 4, 5), (3, 4, 4), (64,), (0, 0, 0), (1, 4, 4, 4)],
    "kept": [(), (1,), (0,), (42, 1), (43,), (56,)],
}
OUT_OF_RANGE = {
    "tags": [np.full((2, 3), tag, "int32") for tag in (-1, NUM_TAGS, HUGE, -HUGE - 1)],
    "lengths": [np.array([3, n], "int32") for n in (-1, STEPS + 1, HUGE, -HUGE - 1)],
    "quantity": [-1, 3, HUGE, -HUGE - 1],
    "k": [0, -1, HUGE, -HUGE - 1],
}
DTYPES = ("float16", "float64", "int8", "int32", "int64", "uint8", "bool", "complex64", "O", "S4")
LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "broadcast": lambda a: np.broadcast_to(a[..., :1], a.shape),
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "not aligned": lambda a: (
        np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    ),
}


def malformed(names):
    """Yield wrong values of these arguments, as (name, value)."""
    arguments = good()
    for name in names:
        for shape in WRONG_SHAPES.get(name, ()):
            yield name, np.zeros(shape, arguments.get(name, np.zeros(0, "float32")).dtype)
        for value in OUT_OF_RANGE.get(name, ()):
            yield name, value


@pytest.fixture(scope="module")
def core():
    """The extension module, if the engine that calls it is ready."""
    (parameter,) = (p for p in engines_of("crf") if p.values[0] == "native")
    if parameter.marks:
        pytest.skip(parameter.marks[0].kwargs["reason"])
    from fastkeras import _core

    return _core


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_extension_module_refuses_what_does_not_fit(core, function):
    call, names = getattr(core, function), FUNCTIONS[function]
    call(*(good()[name] for name in names))
    for name, value in malformed(names):
        arguments = {**good(), name: value}
        # where emissions are wrong, others may be blamed for not fitting them
        named = {"emissions": r"\w+", "kept": "workspace"}.get(name, name)
        with pytest.raises(ValueError, match=f"^{named} must (have|be in)"):
            call(*(arguments[name] for name in names))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_extension_module_refuses_other_types(core, function):
    call, names = getattr(core, function), FUNCTIONS[function]
    for name in names:
        value = good()[name]
        others = [None, "words", [1.0], 2.5, 2**70, {}]
        if isinstance(value, np.ndarray):
            others += [value.astype(dtype) for dtype in DTYPES if value.dtype != dtype]
        if name == "mask":
            others.remove(None)
        for other in others:
            arguments = {**good(), name: other}
            with pytest.raises(TypeError):
                call(*(arguments[name] for name in names))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_another_layout_is_refused_or_read_right(core, function):
    call, names = getattr(core, function), FUNCTIONS[function]
    for name in names:
        if not isinstance(good()[name], np.ndarray):
            continue
        for change in LAYOUTS.values():
            changed = change(good()[name])
            plain = {**good(), name: np.array(changed, good()[name].dtype, order="C")}
            expected = call(*(plain[name] for name in names))
            try:
                found = call(*({**plain, name: changed}[name] for name in names))
            except (TypeError, ValueError):
                continue
            same(found, expected)


def same(found, expected):
    found, expected = (a if isinstance(a, tuple) else (a,) for a in (found, expected))
    for part, other in zip(found, expected, strict=True):
        if part.shape not in ((WORKSPACE,), (KEPT,)):  # workspaces are only partly written
            np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_only_read_may_be_read_only(core, function):
    call, names = getattr(core, function), FUNCTIONS[function]
    arguments = good()
    expected = call(*(arguments[name] for name in names))
    for name in names:
        if isinstance(arguments[name], np.ndarray):
            arguments[name].flags.writeable = False
    same(call(*(arguments[name] for name in names)), expected)


def test_any_byte_but_zero_is_true_in_a_mask(core):
    arguments = good()
    arguments["mask"] = np.array([[2, 0, 255], [0, 128, 1]], np.uint8).view(bool)
    plain = {**arguments, "mask": np.array([[1, 0, 1], [0, 1, 1]], bool)}
    for function in ("crf_value_and_gradient", "crf_marginals", "crf_viterbi"):
        names = FUNCTIONS[function]
        found, expected = (
            getattr(core, function)(*(given[name] for name in names))
            for given in (arguments, plain)
        )
        same(found, expected)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0), (0, 2**40), (0, HUGE)], ids=str)
def test_sizes_of_zero(core, function, sizes):
    batch, steps = sizes
    arguments = good()
    arguments["emissions"] = np.zeros((batch, steps, NUM_TAGS), "float32")
    arguments["tags"] = np.zeros((batch, steps), "int32")
    arguments["lengths"] = np.zeros(batch, "int32")
    arguments["mask"] = np.zeros((batch, steps), bool)
    arguments["weights"] = np.zeros(batch, "float32")
    arguments["uniforms"] = np.zeros((2, batch, steps), "float32")
    arguments["value"] = np.zeros(batch, "float32")
    arguments["workspace"] = np.zeros(batch * steps * (2 * NUM_TAGS + 1) + batch, "float32")
    kept = batch * ((steps + 5) // 8 * NUM_TAGS**2 + steps + 2)
    arguments["kept"] = np.zeros(kept, "float32")
    try:
        results = getattr(core, function)(*(arguments[name] for name in FUNCTIONS[function]))
    except ValueError as error:
        assert "steps" in str(error) and steps > HUGE
        return
    if function in ("crf_value_and_workspace", "second_order_value"):
        results = results[0]
    for result in results if isinstance(results, tuple) else (results,):
        assert not np.nan_to_num(result, neginf=0).any()


@pytest.mark.parametrize("value", (np.nan, -1.0, 1.0, 2.0, np.inf, -np.inf))
def test_numbers_that_are_not_below_one_draw_tags_in_range(core, value):
    for dtype, num_samples in (("float32", 1), ("float32", 40), ("float64", 3)):
        arguments = good(dtype)
        arguments["uniforms"] = np.full((num_samples, BATCH, STEPS), value, dtype)
        tags = core.crf_sample(*(arguments[name] for name in FUNCTIONS["crf_sample"]))
        assert (tags >= 0).all() and (tags < NUM_TAGS).all()


@pytest.fixture(scope="module")
def library():
    """The TensorFlow ops, if the engine that calls them is ready."""
    (parameter,) = (p for p in engines_of("crf") if p.values[0] == "tensorflow_native")
    if parameter.marks:
        pytest.skip(parameter.marks[0].kwargs["reason"])
    from fastkeras._ops import tensorflow as tensorflow_ops

    return tensorflow_ops.library


def caller(library, op, attributes, compiled):
    """A function that calls an op with its inputs, eagerly or compiled by XLA."""
    import tensorflow as tf

    def call(*inputs):
        return getattr(library, f"fastkeras_{op}")(*inputs, **attributes)

    return tf.function(call, jit_compile=True) if compiled else call


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "XLA"))
def test_an_op_refuses_what_does_not_fit(library, op, compiled):
    import tensorflow as tf

    inputs, attributes = OPS[op]
    arguments = good()
    call = caller(library, op, {name: arguments[name] for name in attributes}, compiled)
    call(*(tf.constant(arguments[name]) for name in inputs))
    for name, value in malformed((*inputs, *attributes)):
        if compiled and name in attributes:
            call = caller(library, op, {name: value}, compiled)
        wrong = {**arguments, name: value}
        if not compiled:
            call = caller(library, op, {name: wrong[name] for name in attributes}, compiled)
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            call(*(tf.constant(wrong[name]) for name in inputs))


@pytest.mark.parametrize("compiled", (False, True), ids=("eager", "XLA"))
def test_a_gradient_of_numbers_from_elsewhere_is_harmless(library, compiled):
    import tensorflow as tf

    inputs, _ = OPS["crf_gradient"]
    call = caller(library, "crf_gradient", {"quantity": 2}, compiled)
    rng = np.random.default_rng(1)
    for _ in range(20):
        arguments = good()
        for name in ("value", "workspace", "weights"):
            size = arguments[name].size
            arguments[name] = np.frombuffer(rng.bytes(4 * size), "float32")
        gradients = call(*(tf.constant(arguments[name]) for name in inputs))
        assert [tuple(g.shape) for g in gradients] == [(2, 3, 4), (4, 4), (4,), (4,)]


@pytest.mark.parametrize("num_threads", (-HUGE - 1, -1, 0, 1, HUGE))
def test_any_number_of_threads_may_be_asked_for(library, num_threads):
    import tensorflow as tf

    arguments = good()
    for op, (inputs, attributes) in OPS.items():
        given = {name: arguments[name] for name in attributes}
        call = caller(library, op, {**given, "num_threads": num_threads}, compiled=False)
        plain = caller(library, op, given, compiled=False)
        tensors = [tf.constant(arguments[name]) for name in inputs]
        for found, expected in zip(
            *(tf.nest.flatten(function(*tensors)) for function in (call, plain)), strict=True
        ):
            if "value" not in op or found.shape == (BATCH,):  # skips the workspace
                np.testing.assert_array_equal(found, expected)


def test_a_saved_graph_refuses_tags_out_of_range(library, tmp_path):
    import tensorflow as tf

    inputs, _ = OPS["crf_value"]
    arguments = good()
    tensors = [tf.constant(arguments[name]) for name in inputs]

    class Scorer(tf.Module):
        @tf.function
        def __call__(self, *tensors):
            return library.fastkeras_crf_value(*tensors, quantity=2)[0]

    scorer = Scorer()
    expected = scorer(*tensors)
    tf.saved_model.save(scorer, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded(*tensors), expected)
    for tags in OUT_OF_RANGE["tags"]:
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"tags must be in 0\.\.3"):
            loaded(*tensors[:-1], tf.constant(tags))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("integers", ["int32", "int64", "int16"])
@pytest.mark.parametrize("of_steps", ["lengths", "mask", "both", "none"])
@pytest.mark.parametrize("ends", [False, True])
def test_the_quick_check_makes_the_chain_that_the_long_one_makes(
    monkeypatch, dtype, integers, of_steps, ends, rng
):
    pytest.importorskip("fastkeras._core")
    x, transitions = rng.normal(size=(3, 4, 2)).astype(dtype), np.eye(2, dtype=dtype)
    lengths, mask = np.array([4, 0, 2], integers), rng.integers(0, 2, (3, 4)).astype(bool)
    lengths = lengths if of_steps in ("lengths", "both") else None
    mask = mask if of_steps in ("mask", "both") else None
    start, end = (x[0, 0], x[0, 1]) if ends else (None, None)
    given = x, transitions, lengths, mask, start, end
    quick = arguments.chain_of(*given)
    tags = np.where(quick.valid_steps(), rng.integers(0, 2, (3, 4)), -100).astype(integers)
    quick = *quick, arguments.tags_of(quick, tags)
    for name in ("crf_ready_chain", "crf_ready_tags"):
        monkeypatch.setattr(arguments, name, lambda *_: None)
    long = arguments.chain_of(*given)
    long = *long, arguments.tags_of(long, tags)
    for a, b in zip(quick, long, strict=True):
        assert a is b is None or (a.dtype == b.dtype and np.array_equal(a, b))


@pytest.mark.parametrize("tag", [-1, 2, 2**40])
def test_the_quick_check_leaves_wrong_values_to_the_message(tag):
    x, transitions = np.zeros((1, 3, 2)), np.zeros((2, 2))
    with pytest.raises(ValueError, match=rf"tags must be in 0..1 at valid steps, got {tag} at"):
        crf.log_likelihood(x, np.array([[0, tag, 0]]), transitions)
    crf.log_likelihood(x, np.array([[0, tag, 0]]), transitions, np.array([1]))
    with pytest.raises(ValueError, match=r"lengths must be in 0..3 .the steps of emissions., got"):
        crf.viterbi(x, transitions, np.array([2 * tag + (tag > 0)]))
