"""The extras of a step: rows, layer adaptation, remainders, random rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastkeras
from engine_parameters import engines_of
from fastkeras.optimizers import transforms, update
from fastkeras.optimizers.rules import RULES
from optimizer_steps import check, problems

ROWS = {rule: row for rule, row in RULES.items() if row.element_wise}
ADAPTABLE = [rule for rule, row in ROWS.items() if not row.reads_parameter]
RULES_BY_ROWS = [rule for rule, row in ROWS.items() if not row.adapts]


@pytest.fixture(scope="module", params=engines_of("optimizers"))
def engine(request):
    return request.param


def slots_of(rule, parameter):
    return tuple(np.full(parameter.shape, 0.5, np.float32) for _ in RULES[rule].slots)


def more(rule):
    return {"u_product": 0.4} if rule == "nadam" else {}


@given(
    rule=st.sampled_from(RULES_BY_ROWS),
    seed=st.integers(0, 2**32 - 1),
    row=st.sampled_from(((), (3,), (17, 2))),
    chain=st.sampled_from(
        (
            (),
            (transforms.clip_by_norm(0.5), transforms.add_decayed_weights(0.1)),
            (transforms.clip_by_global_norm(0.5),),
            (lambda gradient, variable: gradient * 2, transforms.clip_by_value(0.3)),
        )
    ),
)
def test_rows_move_as_if_they_were_all_and_the_others_stay(engine, rule, seed, row, chain):
    rng = np.random.default_rng(seed)
    parameter = rng.standard_normal((40, *row)).astype(np.float32)
    rows = rng.permutation(40)[: rng.integers(0, 10)]
    gradient = rng.standard_normal((len(rows), *row)).astype(np.float32)
    settings = {"learning_rate": 0.1, "weight_decays": [0.1], "transforms": [chain], "step": 3}
    settings |= {"engine": engine, **more(rule)}
    alone = [parameter[rows], *(slot[rows] for slot in slots_of(rule, parameter))]
    update(rule, alone[:1], [gradient], [tuple(alone[1:])], **settings)
    whole = [parameter.copy(), *slots_of(rule, parameter)]
    update(rule, whole[:1], [gradient], [tuple(whole[1:])], **settings, rows=[rows])
    before = [parameter, *slots_of(rule, parameter)]
    others = np.setdiff1d(np.arange(40), rows)
    for result, expected, old in zip(whole, alone, before, strict=True):
        np.testing.assert_array_equal(result[others], old[others])
        # The engine `keras` sums a norm over all rows, including zeros.
        np.testing.assert_allclose(result[rows], expected, rtol=2e-6, atol=1e-6)


@given(problem=problems(rules=ADAPTABLE), adapted=st.booleans())
def test_layer_adaptation_is_as_accurate_as_the_reference(engine, problem, adapted):
    rule, parameters, gradients, first, settings = problem
    check((rule, parameters, gradients, first, settings | {"layer_adaptation": adapted}), engine)


def test_an_adapted_step_is_as_long_as_the_parameter_times_the_rate(engine):
    rng = np.random.default_rng(0)
    for rule in ADAPTABLE:
        start = rng.standard_normal((30, 20))
        parameter, gradient = start.copy(), rng.standard_normal((30, 20))
        slots = tuple(np.zeros_like(start) for _ in RULES[rule].slots)
        settings = {"learning_rate": 0.01, "multipliers": [0.5], "layer_adaptation": True}
        settings |= {"engine": engine, **more(rule)}
        update(rule, [parameter], [gradient], [slots], **settings)
        lengths = np.linalg.norm(parameter - start), np.linalg.norm(start)
        np.testing.assert_allclose(lengths[0], 0.005 * lengths[1], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@given(rule=st.sampled_from(ADAPTABLE), seed=st.integers(0, 2**32 - 1))
def test_a_half_and_its_remainder_are_a_float32(engine, dtype, rule, seed):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((33, 70)).astype(dtype)
    wide, remainder = half.astype(np.float32), np.zeros((33, 70), np.float32)
    slots = [slots_of(rule, wide) for _ in range(2)]
    of_wide = "reference" if engine == "numba" else engine  # to which Numba leaves 16-bit floats
    for step in (1, 2, 3):
        gradient = rng.standard_normal((33, 70)).astype(np.float32)
        settings = {"learning_rate": 1e-3, "step": step, **more(rule)}
        update(rule, [wide], [gradient], slots[:1], **settings, engine=of_wide)
        update(
            rule, [half], [gradient], slots[1:], **settings, remainders=[remainder], engine=engine
        )
        np.testing.assert_array_equal(half.astype(np.float32) + remainder, wide)
        np.testing.assert_array_equal(half, wide.astype(dtype))


def rounded_at_random(engine, moved, dtype="bfloat16"):
    parameter = np.ones((1000, 100), dtype)
    gradient = np.full(parameter.shape, -moved, np.float32)
    settings = {"learning_rate": 1.0, "stochastic_rounding": True, "step": 7}
    update("sgd", [parameter], [gradient], [()], **settings, engine=engine)
    return parameter.astype(np.float64)


def test_rounding_at_random_is_right_on_average(engine):
    digit = 2.0**-7  # the last of a bfloat16 between 1 and 2
    values = rounded_at_random(engine, 0.3 * digit)
    assert set(np.unique(values)) == {1.0, 1.0 + digit}
    share = (values > 1).mean()
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / values.size)
    neighbours = np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(values.size)


def test_rounding_at_random_is_the_same_everywhere(engine):
    expected = rounded_at_random("reference", 0.4 * 2.0**-7)
    np.testing.assert_array_equal(rounded_at_random(engine, 0.4 * 2.0**-7), expected)


def test_rounding_at_random_keeps_what_is_exact(engine):
    parameter = np.array([0.0, 1.5, -2.0, 3e38, -1e-30], "bfloat16")
    before = parameter.copy()
    settings = {"learning_rate": 1.0, "step": 1, "stochastic_rounding": True}
    update("sgd", [parameter], [np.zeros(5, np.float32)], [()], **settings, engine=engine)
    np.testing.assert_array_equal(parameter, before)


def test_threads_and_graphs_give_the_same_bits_by_rows():
    if fastkeras.engines("optimizers")["tensorflow_native"] != "ready":
        pytest.skip(fastkeras.engines("optimizers")["tensorflow_native"])
    rng = np.random.default_rng(0)
    results = []
    parameter = rng.standard_normal((5000, 64)).astype(np.float32)
    gradient, rows = rng.standard_normal((900, 64)).astype(np.float32), rng.permutation(5000)[:900]
    for engine in ("native", "tensorflow_native"):
        arrays = [parameter.copy(), *slots_of("adam", parameter)]
        chain = [(transforms.clip_by_norm(1.0),)]
        settings = {"learning_rate": 0.1, "rows": [rows], "transforms": chain}
        update("adam", arrays[:1], [gradient], [tuple(arrays[1:])], **settings, engine=engine)
        results.append(arrays)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


BAD = {
    r"rows\[0\] must be of 0 to 2, each once": {"rows": [[0, 3]]},
    r"rows\[0\] must be of 0 to 2": {"rows": [[1, 1]]},
    r"gradients\[0\] must have the shape": {"rows": [[1]]},
    r"rows\[0\] must be None: layer": {"rows": [[0, 1]], "layer_adaptation": True},
    r"remainders\[0\] must be float32": {"remainders": [np.zeros(3)]},
    "rows must be 1": {"rows": [None, None]},
    "layer_adaptation must be 1": {"layer_adaptation": [True, False]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_extras_are_named(message):
    parameter, gradient = np.ones(3, np.float32), np.ones(3, np.float32)
    if "rows" in BAD[message] and "shape" not in message:
        gradient = np.ones(2, np.float32)
    with pytest.raises(ValueError, match=message):
        update("sgd", [parameter], [gradient], [()], learning_rate=0.1, **BAD[message])
