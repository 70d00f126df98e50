"""The engine `jax_native` of the optimizers: one call of XLA, in the memory of its arguments."""

import os
import subprocess
import sys
from itertools import chain

import keras
import numpy as np
import pytest
from keras import ops

jax = pytest.importorskip("jax", reason="the calls are of JAX")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend here", allow_module_level=True)

import jax.numpy as jnp  # noqa: E402

from fastkeras import _arrays, _engines, optimizers  # noqa: E402
from fastkeras._ops.jax import enable_x64  # noqa: E402
from fastkeras.optimizers import transforms  # noqa: E402
from fastkeras.optimizers._engines import jax_native, native  # noqa: E402
from fastkeras.optimizers.hyperparameters import DEFAULTS  # noqa: E402
from fastkeras.optimizers.rules import RULES  # noqa: E402
from fastkeras.optimizers.step import no_extras  # noqa: E402

SHAPES = ((300, 200), (70_001,), (0, 3), ())
DTYPES = ("float16", "bfloat16", "float32", "float64")
KERNELS = [name for name, row in RULES.items() if row.has_kernel]
CALL = 'custom_call_target="fastkeras_optimizer_step"'


def numbers(rng, shape, dtype="float32"):
    return rng.normal(size=shape).astype(dtype)


def flat(parameters, slots, remainders):
    return [*parameters, *chain(*slots), *(r for r in remainders if r is not None)]


def copied(arrays):
    return [None if array is None else np.array(array) for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", KERNELS)
def test_the_bits_are_those_of_native(rule, dtype, rng):
    """With float64 enabled. Large variables are cut into pieces for several threads."""
    wide = "float64" if dtype == "float64" else "float32"
    parameters, gradients = ([numbers(rng, s, dtype) for s in SHAPES] for _ in range(2))
    slots = [[rng.uniform(size=s).astype(wide) for _ in RULES[rule].slots] for s in SHAPES]
    is_half = dtype in DTYPES[:2]
    remainders = [np.zeros(s, "float32") if is_half else None for s in SHAPES]
    count = len(SHAPES)
    hyperparameters = {**DEFAULTS, "u_product": np.float64(0.9)}
    width = len(RULES[rule].coefficients(np, hyperparameters, 0.1, np.ones(1), np.ones(1)))
    settings = (
        np.array([False, False, False, True]),
        rng.uniform(0.1, 0.9, (count, width)),
        np.full(count, 1e-3),
        [(transforms.clip_by_global_norm(0.7)._replace(of=0), transforms.scale(1.1))] * count,
    )
    extras = no_extras(count)._replace(rates=np.full(count, 0.1), remainders=remainders)
    expected = native.step(
        rule,
        copied(parameters),
        gradients,
        [copied(of_one) for of_one in slots],
        *settings,
        extras._replace(remainders=copied(remainders)),
    )
    for arrays in (np.asarray, jnp.asarray):
        with enable_x64(True):
            result = jax_native.step(
                rule,
                list(map(arrays, parameters)),
                list(map(arrays, gradients)),
                [list(map(arrays, of_one)) for of_one in slots],
                *settings,
                extras,
            )
        for ours, theirs in zip(flat(*result[:3]), flat(*expected[:3]), strict=True):
            assert np.asarray(ours).tobytes() == theirs.tobytes()  # even NaN
        assert bool(result[3]) is expected[3] is True


ROWS = {  # of six rows, in several forms
    "numbers": lambda rows: np.flatnonzero(rows)[::-1].copy(),
    "numbers of 32 bits": lambda rows: np.flatnonzero(rows).astype("int32"),
    "a mask": lambda rows: rows,
}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("chosen", [[0, 2, 5], [], [0, 1, 2, 3, 4, 5]])
def test_rows_of_any_kind(kind, chosen, rng):
    mask = np.isin(np.arange(6), chosen)
    rows = ROWS[kind](mask)
    value, gradient, slot = (numbers(rng, (6, 4)) for _ in range(3))
    settings = (np.zeros(1, bool), np.array([[0.1, 0.9]]), np.full(1, 1e-3))
    settings = (*settings, [(transforms.clip_by_norm(0.5),)])
    numbered = np.flatnonzero(mask)
    arrays = [value.copy()], [gradient[numbered]], [[slot.copy()]]
    extras = no_extras(1)._replace(rows=[numbered])
    native.step("momentum", *arrays, *settings, extras)
    given = gradient if kind == "a mask" else gradient[rows]
    (ours,), ((of_slot,),), _, _ = jax_native.step(
        "momentum", [value], [given], [[slot]], *settings, extras._replace(rows=[rows])
    )
    np.testing.assert_allclose(ours, arrays[0][0], rtol=1e-6)
    np.testing.assert_allclose(of_slot, arrays[2][0][0], rtol=1e-6)
    np.testing.assert_array_equal(ours[~mask], value[~mask])


def built(optimizer, rng, dtype="float32", shapes=SHAPES):
    variables = [
        keras.Variable(numbers(rng, s), dtype=dtype, name=f"v{i}") for i, s in enumerate(shapes)
    ]
    optimizer.build(variables)
    return variables


def state_of(optimizer, variables):
    return [jnp.array(v.value) for v in variables], [
        jnp.array(v.value) for v in optimizer.variables
    ]


def stateless(optimizer):
    return lambda state, gradients: optimizer.stateless_apply(state[1], gradients, state[0])


SETTINGS = {
    "plain": {},
    "of many kinds": {
        "global_clipnorm": 1.0,
        "learning_rate_multipliers": [("v0", 0.5), ("v3", 0.0)],
        "gradient_transforms": [("v1", transforms.chain(transforms.clip_by_norm(0.3)))],
        "weight_decay_overrides": [("v1", 0.1)],
    },
    "8 bits": {"moment_bits": 8},
    "16 bits": {"moment_bits": 16},
    "layer adaptation": {"layer_adaptation": True},
    "lazy": {"lazy": ["v0"]},
    "lookahead": {"lookahead_period": 2},
    "sanitize": {"gradient_transforms": transforms.sanitize()},
    "not fused": {"gradient_transforms": transforms.centralize(), "clipnorm": 0.5},
}
OF_HALVES = {
    "master weights": {"master_weights": True},
    "at random": {"stochastic_rounding": True},
    "to the nearest": {},
}


def after_steps(name, settings, dtype, rng, compiled=True):
    optimizer = getattr(optimizers, name)(0.01, **settings)
    variables = built(optimizer, rng, dtype)
    step = jax.jit(stateless(optimizer), donate_argnums=0) if compiled else stateless(optimizer)
    state = state_of(optimizer, variables)
    for _ in range(3):
        gradients = [jnp.asarray(numbers(rng, s)).astype(dtype) for s in SHAPES]
        if "lazy" in settings:
            gradients[0] = gradients[0].at[5:].set(0)
        state = step(state, gradients)
    return list(chain(*state)), optimizer._engine_and_reason()


@pytest.mark.parametrize("kind", [*SETTINGS, *OF_HALVES])
@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_a_compiled_step_does_what_the_keras_engine_does(name, kind, monkeypatch):
    dtype = "bfloat16" if kind in OF_HALVES else "float32"
    results = []
    for forced in ("", "keras"):
        monkeypatch.setenv("FASTKERAS_ENGINE", forced)
        rng = np.random.default_rng(3)
        result, engine = after_steps(name, {**SETTINGS, **OF_HALVES}[kind], dtype, rng)
        assert engine == (forced or "jax_native", "")
        results.append(result)
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        ours, theirs = (np.asarray(a, "float64") for a in (ours, theirs))
        if kind in ("8 bits", "16 bits"):  # what is between two may be rounded to either
            others = np.abs(ours - theirs) > 2e-6 + 1e-5 * np.abs(theirs)
            assert others.sum() <= 1e-3 * others.size
        elif dtype == "bfloat16":  # the last digit may differ
            np.testing.assert_allclose(ours, theirs, rtol=2.0**-7, atol=1e-5)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", SETTINGS)
def test_nothing_is_copied_of_what_is_donated(kind, rng):
    """Each result has the memory of its argument, and the program makes no other large array."""
    optimizer = optimizers.AdamW(0.01, **SETTINGS[kind])
    variables = built(optimizer, rng)
    state = state_of(optimizer, variables)
    gradients = [jnp.asarray(numbers(rng, s)) for s in SHAPES]
    step = jax.jit(stateless(optimizer), donate_argnums=0)
    compiled = step.lower(state, gradients).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text.count(CALL) == 1
    if kind != "lookahead":  # for which XLA keeps the old values of the variables
        assert "f32[300,200]{1,0} copy(" not in text and "f32[70001]{0} copy(" not in text
    if kind not in ("lookahead", "not fused"):
        assert memory.temp_size_in_bytes < 70_001 * 4
    assert memory.alias_size_in_bytes >= sum(array.nbytes for array in chain(*state))
    before = [array.unsafe_buffer_pointer() for array in chain(*state) if array.size]
    state = step(state, gradients)
    assert before == [array.unsafe_buffer_pointer() for array in chain(*state) if array.size]


def test_what_is_not_donated_stays_as_it_is(rng):
    optimizer = optimizers.AdamW(0.01)
    variables = built(optimizer, rng)
    state = state_of(optimizer, variables)
    gradients = [jnp.asarray(numbers(rng, s)) for s in SHAPES]
    for step in (jax.jit(stateless(optimizer)), stateless(optimizer)):
        before = copied(chain(*state))
        new = step(state, gradients)
        for array, old in zip(chain(*state), before, strict=True):
            np.testing.assert_array_equal(array, old)
        assert (np.asarray(new[0][0]) != before[0]).any()


@pytest.mark.parametrize("donated", [(), (0,)])
def test_a_gradient_that_is_the_variable_is_read_as_it_was(donated, rng):
    optimizer = optimizers.SGD(0.5, momentum=0.9)
    variables = built(optimizer, rng, shapes=SHAPES[:2])
    state = state_of(optimizer, variables)
    before = copied(state[0])
    new, _ = jax.jit(lambda state: stateless(optimizer)(state, state[0]), donate_argnums=donated)(
        state
    )
    for old, after in zip(before, new, strict=True):
        np.testing.assert_allclose(after, 0.5 * old, rtol=1e-6)


def test_variables_that_are_one_array_go_their_own_ways(rng):
    optimizer = optimizers.SGD(1.0, learning_rate_multipliers=[1.0, 2.0])
    variables = built(optimizer, rng, shapes=[(50,)] * 2)
    shared, ones = jnp.zeros(50), jnp.ones(50)
    _, of_optimizer = state_of(optimizer, variables)
    (one, two), _ = jax.jit(stateless(optimizer))(([shared, shared], of_optimizer), [ones, ones])
    assert (np.asarray(shared) == 0).all()
    assert (np.asarray(one) == -1).all() and (np.asarray(two) == -2).all()


def test_steps_in_a_scan(rng):
    optimizer = optimizers.Adam(0.01, global_clipnorm=1.0)
    variables = built(optimizer, rng)
    gradients = [jnp.asarray(numbers(rng, (4, *s))) for s in SHAPES]
    step = stateless(optimizer)
    state, expected = (state_of(optimizer, variables) for _ in range(2))
    for i in range(4):
        expected = step(expected, [g[i] for g in gradients])
    scanned = jax.jit(
        lambda state: jax.lax.scan(lambda s, g: (step(s, g), None), state, gradients)[0],
        donate_argnums=0,
    )(state)
    for ours, theirs in zip(chain(*scanned), chain(*expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_models_side_by_side_under_vmap(rng):
    optimizer = optimizers.AdamW(0.01, clipnorm=0.5)
    variables = built(optimizer, rng)
    states = [state_of(optimizer, variables) for _ in range(2)]
    gradients = [[jnp.asarray(numbers(rng, s)) for s in SHAPES] for _ in range(2)]
    stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), *zip(states, gradients, strict=True))
    both = jax.jit(jax.vmap(stateless(optimizer)))(*stacked)
    for i in range(2):
        alone = stateless(optimizer)(states[i], gradients[i])
        for ours, theirs in zip(chain(*both), chain(*alone), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-6, atol=1e-7)


def test_float64_where_jax_has_it(rng, monkeypatch):
    results = []
    with enable_x64(True):
        for forced in ("", "keras"):
            monkeypatch.setenv("FASTKERAS_ENGINE", forced)
            rng = np.random.default_rng(3)
            result, engine = after_steps("AdamW", SETTINGS["of many kinds"], "float64", rng)
            assert engine[0] == (forced or "jax_native")
            assert result[0].dtype == "float64"
            results.append(result)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_fit_trains_by_the_call():
    def trained(optimizer):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        model.compile(optimizer, "mse")
        x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
        model.fit(x, x.sum(1, keepdims=True), batch_size=8, epochs=2, shuffle=False, verbose=0)
        return [ops.convert_to_numpy(variable.value) for variable in model.variables]

    ours, theirs = (trained(module.AdamW(0.01)) for module in (optimizers, keras.optimizers))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_step_cannot_be_differentiated_and_says_what_can(rng):
    optimizer = optimizers.SGD(0.1)
    variables = built(optimizer, rng, shapes=[(3,)])
    state = state_of(optimizer, variables)
    with pytest.raises(NotImplementedError, match="cannot differentiate an optimizer step"):
        jax.grad(lambda g: stateless(optimizer)(state, [g])[0][0].sum())(jnp.ones(3))


def last_line(optimizer):
    text = []
    optimizer.report(print_fn=text.append)
    return text[-1].splitlines()[-1]


def test_what_the_kernels_cannot_take_is_done_by_keras_and_the_report_says_why(rng, monkeypatch):
    optimizer = optimizers.SGD(0.5)
    (variable,) = built(optimizer, rng, shapes=[(3,)])
    assert last_line(optimizer) == "the engine is jax_native"
    narrow = optimizers.SGD(0.5)
    built(narrow, rng, shapes=[(3,)], dtype="float8_e5m2")
    assert last_line(narrow) == "the engine is keras: a variable is of float8_e5m2"
    adafactor = optimizers.Adafactor(0.1)
    built(adafactor, rng, shapes=[(2, 2)])
    assert last_line(adafactor) == "the engine is keras: the kernels have no adafactor"
    with monkeypatch.context() as patch:
        patch.setattr(_arrays, "_jax_is_on_cpu", lambda array=None: False)
        assert last_line(optimizer) == "the engine is keras: a variable is not on the CPU"
        step = jax.jit(stateless(optimizer))
        state, gradients = state_of(optimizer, [variable]), [jnp.ones(3)]
        assert CALL not in step.lower(state, gradients).as_text()
    with monkeypatch.context() as patch:
        missing = _engines.engines("optimizers") | {"jax_native": "it was not built"}
        patch.setattr(_engines, "engines", lambda domain: missing)
        assert last_line(optimizer) == "the engine is keras: it was not built"


# The call of XLA, with one fault at a time.


def test_four_devices():
    """In another process, whose CPU is four devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    program = os.path.join(os.path.dirname(__file__), "four_cpu_devices.py")
    environment = {**os.environ, "XLA_FLAGS": flags}
    command = [sys.executable, program]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]


def test_gradients_are_not_released_where_xla_computes_all_first():
    optimizer = optimizers.SGD()
    refused = pytest.raises(ValueError, match="XLA computes all gradients first; with moment_bits")
    with refused, optimizers.release_gradients(optimizer, [keras.Variable(np.ones(3))]):
        pass
