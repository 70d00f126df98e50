"""`fastkeras.optimizers.update` with arrays of JAX, of which it returns new ones."""

import keras
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the calls are of JAX")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402

from backends.test_jax_optimizers import CALL, SHAPES, copied, flat, numbers  # noqa: E402
from fastkeras.optimizers import transforms, update  # noqa: E402
from fastkeras.optimizers.rules import RULES  # noqa: E402


def arguments(rng, rule="adam", dtype="float32"):
    return {
        "rule": rule,
        "parameters": [jnp.asarray(numbers(rng, s, dtype)) for s in SHAPES],
        "gradients": [jnp.asarray(numbers(rng, s, dtype)) for s in SHAPES],
        "slots": [[jnp.zeros(s, "float32") for _ in RULES[rule].slots] for s in SHAPES],
        "learning_rate": 0.1,
    }


OF_UPDATE = {
    "plain": {},
    "settings": {
        "step": 3,
        "multipliers": [0.5, 1.0, 1.0, 0.0],
        "weight_decays": 0.1,
        "transforms": [(transforms.clip_by_global_norm(1.0),)] * 4,
    },
    "not fused": {
        "transforms": [(transforms.adaptive_clip(0.1), transforms.clip_by_norm(1.0))] * 4
    },
    "layer adaptation": {"layer_adaptation": True, "step": [1, 2, 3, 4]},
    "at random": {"stochastic_rounding": True, "step": 3},
}


@pytest.mark.parametrize("kind", OF_UPDATE)
@pytest.mark.parametrize("rule", ["adam", "nadam", "momentum"])
@pytest.mark.parametrize("engine", [None, "keras"])
def test_update_of_arrays_of_jax_returns_new_ones(engine, rule, kind, rng):
    dtype = "bfloat16" if kind == "at random" else "float32"
    given = arguments(rng, rule, dtype) | OF_UPDATE[kind] | {"engine": engine}
    given |= {"u_product": 0.8} if rule == "nadam" else {}
    on_numpy = {
        name: jax.tree.map(np.array, given[name]) for name in ("parameters", "gradients", "slots")
    }
    update(**given | on_numpy | {"engine": "native"})
    before = copied(given["parameters"])
    traced = {name: given.pop(name) for name in ("parameters", "gradients", "slots")}
    numbers_of = {name: given.pop(name) for name in ("learning_rate", "step", "u_product")
                  if name in given}  # fmt: skip
    for new in (
        update(**given, **traced, **numbers_of),
        jax.jit(lambda arrays, of: update(**given, **arrays, **of))(traced, numbers_of),
    ):
        assert new.finite and new.remainders == [None] * 4
        expected = flat(on_numpy["parameters"], on_numpy["slots"], [])
        for ours, theirs in zip(flat(new.parameters, new.slots, []), expected, strict=True):
            assert ours.dtype == theirs.dtype
            tolerance = 2.0**-7 if ours.dtype == "bfloat16" else 1e-5
            ours, theirs = (np.asarray(a, "float64") for a in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=1e-5)
    for array, old in zip(traced["parameters"], before, strict=True):
        np.testing.assert_array_equal(array, old)


@pytest.mark.parametrize("engine", [None, "keras"])
@pytest.mark.parametrize("before", [(), (transforms.centralize(),)])
def test_update_of_rows_of_arrays_of_jax(engine, before, rng):
    value = jnp.asarray(numbers(rng, (6, 4)))
    # whole numbers, whose mean is exact in any order
    gradient = jnp.asarray(rng.integers(-9, 10, (2, 4)).astype("float32"))
    expected, slot = np.array(value), np.zeros((6, 4), "float32")
    settings = {"learning_rate": 0.1, "transforms": [before]}
    update("momentum", [expected], [np.array(gradient)], [(slot,)], rows=[[4, 1]], **settings)

    def step(rows):
        slots = [(jnp.zeros((6, 4)),)]
        return update(
            "momentum", [value], [gradient], slots, rows=[rows], engine=engine, **settings
        )

    for new in (step([4, 1]), jax.jit(step)(jnp.array([4, 1]))):
        np.testing.assert_allclose(new.parameters[0], expected, rtol=1e-6)
        np.testing.assert_allclose(new.slots[0][0], slot, rtol=1e-6)
    if engine is None:
        with pytest.raises(Exception, match="must be of 0 to 5, each once"):
            jax.block_until_ready(jax.jit(step)(jnp.array([1, 1])))


def test_update_copies_nothing_that_is_donated(rng):
    given = arguments(rng)
    arrays = {name: given.pop(name) for name in ("parameters", "slots")}
    step = jax.jit(lambda arrays: update(**given, **arrays), donate_argnums=0)
    text = step.lower(arrays).compile().as_text()
    assert text.count(CALL) == 1 and "f32[300,200]{1,0} copy(" not in text
    before = [a.unsafe_buffer_pointer() for a in flat(*arrays.values(), []) if a.size]
    new = step(arrays)
    after = flat(new.parameters, new.slots, [])
    assert before == [a.unsafe_buffer_pointer() for a in after if a.size]


BAD_OF_UPDATE = {
    r"gradients\[0\] must be an array of JAX": {"gradients": [np.ones(3, "float32")]},
    r"gradients\[0\] must have the shape": {"gradients": [jnp.ones(4)]},
    r"gradients\[0\] must be float32, got int32": {"gradients": [jnp.ones(3, "int32")]},
    r"parameters\[0\] must be floating": {"parameters": [jnp.ones(3, "int32")]},
    r"slots\[0\] of rule 'momentum' must be": {"slots": [()]},
    r"learning_rate must be a finite number": {"learning_rate": jnp.array(np.nan)},
    "add_noise has no generator": {"transforms": [(transforms.add_noise(1.0),)]},
    "does not take a jax array": {"engine": "native"},
}


@pytest.mark.parametrize("named", BAD_OF_UPDATE)
def test_what_is_malformed_is_named(named):
    good = {"parameters": [jnp.ones(3)], "gradients": [jnp.ones(3)], "slots": [(jnp.ones(3),)]}
    good |= {"rule": "momentum", "learning_rate": 0.1}
    with pytest.raises(ValueError, match=named):
        update(**good | BAD_OF_UPDATE[named])
    with pytest.raises(ValueError, match="learning_rate must have one of the shapes"):
        jax.jit(lambda rate: update(**good | {"learning_rate": rate}))(jnp.ones(2))
