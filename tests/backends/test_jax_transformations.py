"""The engines `jax_native` under JAX's transformations: the same bits, and one call."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are of JAX")
if __import__("keras").backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402

from fastkeras import crf  # noqa: E402
from fastkeras.crf import semi_markov  # noqa: E402
from fastkeras.crf._engines import jax_native  # noqa: E402
from fastkeras.crf.arguments import chain_of  # noqa: E402

BATCH, STEPS, NUM_TAGS, ELEMENTS = 3, 6, 4, 5
PARTS = {  # the arguments of all functions below, by keyword
    "x": (BATCH, STEPS, NUM_TAGS),
    "a": (NUM_TAGS, NUM_TAGS),
    "durations": (3, NUM_TAGS),
    "start": (NUM_TAGS,),
    "end": (NUM_TAGS,),
    "uniforms": (2, BATCH, STEPS),
    "weights": (BATCH,),
}


def chain(a, start, end, lengths):
    boundaries = {"start_transitions": start, "end_transitions": end}
    return {"transitions": a, "lengths": lengths, **boundaries, "engine": "jax_native"}


def gradient_of(function, x, a, start, end, weights, **more):
    def total(x, a, start, end):
        return (weights * function(x=x, a=a, start=start, end=end, **more)).sum()

    return jax.grad(total, argnums=(0, 1, 2, 3))(x, a, start, end)


def likelihood(x, a, start, end, lengths, mask, tags):
    return crf.log_likelihood(x, tags, mask=mask, **chain(a, start, end, lengths))


def segments(x, a, durations, start, end, lengths):
    return semi_markov.log_partition(x, durations=durations, **chain(a, start, end, lengths))


def sample(x, a, start, end, lengths, uniforms):
    return jax_native.sample(chain_of(x, a, lengths, None, start, end), uniforms)


FUNCTIONS = {
    "log_likelihood": likelihood,
    "gradient": lambda **parts: gradient_of(likelihood, **parts),
    "marginals": lambda x, a, start, end, lengths: crf.marginals(
        x, **chain(a, start, end, lengths)
    ),
    "viterbi": lambda x, a, start, end, lengths, mask: crf.viterbi(
        x, mask=mask, **chain(a, start, end, lengths)
    ),
    "k_best": lambda x, a, start, end, lengths: crf.k_best(x, k=2, **chain(a, start, end, lengths)),
    "sample": sample,
    "segments": segments,
    "gradient of segments": lambda **parts: gradient_of(segments, **parts),
    "marginals of segments": lambda x, a, durations, start, end, lengths: semi_markov.marginals(
        x, durations=durations, **chain(a, start, end, lengths)
    ),
    "viterbi of segments": lambda x, a, durations, start, end, lengths: semi_markov.viterbi(
        x, durations=durations, **chain(a, start, end, lengths)
    ),
}
TAKEN = {
    "log_likelihood": "x a start end lengths mask tags",
    "gradient": "x a start end lengths mask tags weights",
    "marginals": "x a start end lengths",
    "viterbi": "x a start end lengths mask",
    "k_best": "x a start end lengths",
    "sample": "x a start end lengths uniforms",
    "segments": "x a durations start end lengths",
    "gradient of segments": "x a durations start end lengths weights",
    "marginals of segments": "x a durations start end lengths",
    "viterbi of segments": "x a durations start end lengths",
}
MAPPED = {
    "the batch": {"x", "tags", "lengths", "mask"},
    "the scores": {"a", "durations", "start"},
    "weights": {"weights", "uniforms", "end"},
    "all": {*PARTS, "lengths", "mask", "tags"},
}


def drawn(rng, name, front=()):
    """An argument with the axes `front` before its own."""
    if name == "lengths":
        return jnp.asarray(rng.integers(0, STEPS + 1, (*front, BATCH)), "int32")
    if name == "tags":
        return jnp.asarray(rng.integers(0, NUM_TAGS, (*front, BATCH, STEPS)), "int32")
    if name == "mask":
        return jnp.asarray(rng.random((*front, BATCH, STEPS)) < 0.7)
    shape = (*front, *PARTS[name])
    values = rng.random(shape) if name == "uniforms" else rng.normal(size=shape)
    return jnp.asarray(values, "float32")


def parts_of(rng, function, mapped=(), front=()):
    return {
        name: drawn(rng, name, front if name in mapped else ()) for name in TAKEN[function].split()
    }


def assert_same(results, expected):
    for ours, exact in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == exact.dtype
        np.testing.assert_array_equal(ours, exact)


def assert_close(results, expected, tolerance=1e-6):
    for ours, exact in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == exact.dtype
        np.testing.assert_allclose(ours, exact, rtol=tolerance, atol=tolerance)


def calls_in(function, *arguments):
    """Return how many calls of kernels a program makes, and whether it has loops."""
    program = str(jax.make_jaxpr(function)(*arguments))
    return program.count("ffi_call["), "while[" in program or "scan[" in program


@pytest.mark.parametrize("mapped", MAPPED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_is_one_call_with_the_bits_of_many(name, mapped, rng):
    parts = parts_of(rng, name, MAPPED[mapped], (ELEMENTS,))
    axis = 1 if mapped == "all" else 0
    axes = {part: axis if part in MAPPED[mapped] else None for part in parts}
    function = jax.jit(lambda parts: FUNCTIONS[name](**parts))
    each = [
        function({part: v if axes[part] is None else v[e] for part, v in parts.items()})
        for e in range(ELEMENTS)
    ]
    expected = jax.tree.map(lambda *results: np.stack(results), *each)
    moved = {p: v if axes[p] is None else jnp.moveaxis(v, 0, axis) for p, v in parts.items()}
    vmapped = jax.jit(jax.vmap(function, in_axes=(axes,)))
    kernels = 2 if name.startswith("gradient") else 1
    assert calls_in(vmapped, moved) == (kernels, False)
    if name == "gradient of segments":  # sums of marginals by XLA, in any order
        assert_close(vmapped(moved), expected)
    else:
        assert_same(vmapped(moved), expected)


@pytest.mark.parametrize("name", ("gradient", "viterbi of segments"))
def test_vmap_of_vmap(name, rng):
    parts = parts_of(rng, name, MAPPED["all"], (2, 3))
    inner = {part: 0 if part in MAPPED["the batch"] else None for part in parts}
    of_two = {part: v if inner[part] == 0 else v[:, 0] for part, v in parts.items()}
    function = jax.jit(lambda parts: FUNCTIONS[name](**parts))
    each = [
        function({p: v[i, e] if inner[p] == 0 else v[i] for p, v in of_two.items()})
        for i in range(2)
        for e in range(3)
    ]
    expected = jax.tree.map(
        lambda *results: np.stack(results).reshape(2, 3, *results[0].shape), *each
    )
    vmapped = jax.jit(jax.vmap(jax.vmap(function, in_axes=(inner,))))
    assert_same(vmapped(of_two), expected)
    assert not calls_in(vmapped, of_two)[1]


def test_vmap_over_nothing(rng):
    parts = parts_of(rng, "viterbi", MAPPED["all"], (0,))
    tags, score = jax.vmap(lambda parts: FUNCTIONS["viterbi"](**parts))(parts)
    assert tags.shape == (0, BATCH, STEPS) and score.shape == (0, BATCH)


def test_a_jacobian_is_one_call(rng):
    parts = parts_of(rng, "log_likelihood")
    a = parts.pop("a")
    function = lambda a: likelihood(a=a, **parts)  # noqa: E731
    assert calls_in(jax.jacrev(function), a) == (2, False)
    rows = [jax.grad(lambda a, b=b: function(a)[b])(a) for b in range(BATCH)]
    assert_close(jax.jacrev(function)(a), jnp.stack(rows))


def test_an_error_of_an_element_is_that_of_the_call(rng):
    parts = parts_of(rng, "log_likelihood", {"tags"}, (ELEMENTS,))
    parts |= {"mask": jnp.ones((BATCH, STEPS), bool)}
    parts["tags"] = parts["tags"].at[4, 0, 2].set(NUM_TAGS)
    axes = {part: 0 if part == "tags" else None for part in parts}
    function = jax.jit(jax.vmap(lambda parts: likelihood(**parts), in_axes=(axes,)))
    with pytest.raises(Exception, match=r"tags must be in 0\.\.3 .*, got 4 at \[0, 2\]"):
        jax.block_until_ready(function(parts))


WRONG_AXES = {
    "an axis in front is 3 and not 2": (3, (3, BATCH), (2, BATCH)),
    "an array has 0 axes, fewer than the 1": (3, (), (2, BATCH)),
    "the first array has 4 axes, -1 more": (5, (2, BATCH), (2, BATCH)),
    "the first array has 4 axes, 2 more": (2, (2, BATCH), (BATCH,)),
}


@pytest.mark.parametrize("words", WRONG_AXES)
def test_the_door_of_a_kernel_checks_the_axes_in_front(words, rng):
    rank, of_lengths, of_result = WRONG_AXES[words]
    shapes = (2, *PARTS["x"]), (1, *PARTS["a"]), (1, NUM_TAGS), (1, NUM_TAGS)
    scores = [jnp.zeros(shape, "float32") for shape in shapes]
    call = jax.ffi.ffi_call(
        "fastkeras_crf_value_float32",
        (jax.ShapeDtypeStruct(of_result, "float32"), jax.ShapeDtypeStruct((2, 0), "float32")),
    )
    more = {"quantity": np.int32(0), "keep_workspace": False, "num_threads": np.int32(1)}
    masks_and_tags = jnp.zeros((1, 0, 0), bool), jnp.zeros((1, 0, 0), "int32")
    inputs = (*scores, jnp.zeros(of_lengths, "int32"), *masks_and_tags)
    with pytest.raises(Exception, match=words):
        jax.block_until_ready(call(*inputs, rank=np.int32(rank), **more))


@pytest.mark.parametrize("name", ("what JAX splits", "shard_map", "donated shards"))
def test_a_batch_on_two_devices(name):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("two_devices.py"), name],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_inside_of_a_scan(rng):
    parts = parts_of(rng, "gradient", {"x"}, (4,))
    x = parts.pop("x")

    def step(a, x):
        return a - 0.1 * FUNCTIONS["gradient"](x=x, **{**parts, "a": a})[1], a

    expected, before = parts["a"], []
    for one in x:
        before.append(expected)
        expected, _ = step(expected, one)
    last, every = jax.jit(lambda a: jax.lax.scan(step, a, x))(parts["a"])
    assert_close((last, every), (expected, jnp.stack(before)))


def test_checkpoint_computes_again_what_the_gradient_needs(rng):
    parts = parts_of(rng, "log_likelihood")
    a = parts.pop("a")

    def total(a):
        return likelihood(a=jnp.tanh(a), **parts).sum()

    gradient = jax.grad(jax.checkpoint(total))
    assert_close(jax.jit(gradient)(a), jax.grad(total)(a))
    assert calls_in(gradient, a)[0] == 3  # the value, that again with a workspace, the gradient


@pytest.mark.parametrize("name", ("log_likelihood", "segments"))
def test_a_donated_buffer_is_read_before_it_is_written(name, rng):
    parts = parts_of(rng, name)
    x = parts.pop("x")

    def step(x):
        return x + jax.grad(lambda x: FUNCTIONS[name](x=x, **parts).sum())(x)

    expected = step(x)
    assert_close(jax.jit(step, donate_argnums=0)(x), expected)
    assert x.is_deleted()


def test_the_gradient_of_what_is_compiled(rng):
    parts = parts_of(rng, "log_likelihood")
    a = parts.pop("a")
    compiled = jax.jit(lambda a: likelihood(a=a, **parts).sum())
    assert_same(jax.grad(compiled)(a), jax.grad(lambda a: likelihood(a=a, **parts).sum())(a))
    value, gradient = jax.value_and_grad(compiled)(a)
    assert_same(jax.jit(jax.value_and_grad(compiled))(a), (value, gradient))
