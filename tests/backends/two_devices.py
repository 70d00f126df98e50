"""Run by test_jax_transformations.py in a process with two CPU devices: batches split in two."""

import sys

import jax
import numpy as np
from jax import numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fastkeras import crf
from fastkeras.crf import semi_markov

SHARDS, WHOLE = PartitionSpec("batch"), PartitionSpec()
MESH = Mesh(np.array(jax.devices("cpu")), ("batch",))
RNG = np.random.default_rng(0)
BATCH, STEPS, NUM_TAGS = 4, 6, 3


def likelihood(x, a, tags, lengths):
    return crf.log_likelihood(x, tags, a, lengths)


def segments(x, a, tags, lengths):
    return semi_markov.log_partition(x, a, jnp.zeros((3, NUM_TAGS), x.dtype), lengths)


def decode(x, a, tags, lengths):
    return crf.viterbi(x, a, lengths)


def value_and_gradients(function):
    def total(x, a, *more):
        return function(x, a, *more).sum()

    return jax.value_and_grad(total, argnums=(0, 1))


def same(results, expected):
    for result, other in zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-5)


def check(name):
    shapes = (BATCH, STEPS, NUM_TAGS), (NUM_TAGS, NUM_TAGS)
    x, a = (jnp.asarray(RNG.normal(size=shape), jnp.result_type(float)) for shape in shapes)
    tags = jnp.asarray(RNG.integers(0, NUM_TAGS, (BATCH, STEPS)), "int32")
    inputs = x, a, tags, jnp.array([6, 3, 0, 5], "int32")
    split = tuple(
        jax.device_put(array, NamedSharding(MESH, WHOLE if array is a else SHARDS))
        for array in inputs
    )
    if name == "what JAX splits":
        for function in (value_and_gradients(likelihood), value_and_gradients(segments), decode):
            same(jax.jit(function)(*split), function(*inputs))
    elif name == "shard_map":
        specs = {"mesh": MESH, "in_specs": (SHARDS, WHOLE, SHARDS, SHARDS), "out_specs": SHARDS}
        for function in (likelihood, segments):
            ours = jax.jit(value_and_gradients(jax.shard_map(function, **specs)))
            same(ours(*split), value_and_gradients(function)(*inputs))
            program = ours.lower(*split).compile().as_text()
            assert "all-gather" not in program  # each device has its half
            checkless = jax.shard_map(function, **specs, check_vma=False)
            same(value_and_gradients(checkless)(*split), value_and_gradients(function)(*inputs))
        specs |= {"out_specs": (SHARDS, SHARDS)}
        same(jax.jit(jax.shard_map(decode, **specs))(*split), decode(*inputs))
        inside = jax.shard_map(  # gradients of shared arrays are summed up
            lambda *inputs: value_and_gradients(likelihood)(*inputs)[1],
            **specs | {"out_specs": (SHARDS, WHOLE)},
        )
        same(inside(*split), value_and_gradients(likelihood)(*inputs)[1])
        each = jax.vmap(lambda x, tags, n: crf.log_likelihood(x[None], tags[None], a, n[None])[0])
        specs |= {"in_specs": (SHARDS, SHARDS, SHARDS), "out_specs": SHARDS}
        x, _, tags, lengths = split
        same(jax.shard_map(each, **specs)(x, tags, lengths), likelihood(*inputs))
    elif name == "donated shards":
        expected = inputs[0] + value_and_gradients(likelihood)(*inputs)[1][0]

        def step(x, *more):
            return x + value_and_gradients(likelihood)(x, *more)[1][0]

        same(jax.jit(step, donate_argnums=0)(*split), expected)
        assert split[0].is_deleted()


assert len(MESH.devices) == 2, MESH
for x64 in (False, True):
    jax.config.update("jax_enable_x64", x64)
    check(sys.argv[1])
