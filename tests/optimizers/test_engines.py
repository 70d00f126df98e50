"""Every engine of the optimizers against the reference, on problems drawn by hypothesis."""

import inspect
from importlib import import_module

import numpy as np
import pytest
from hypothesis import given

import fastkeras
from engine_parameters import engines_of
from fastkeras import _core
from fastkeras.optimizers import transforms, update
from fastkeras.optimizers.step import no_extras
from optimizer_steps import check, problems, run


@pytest.fixture(scope="module", params=engines_of("optimizers"))
def engine(request):
    return request.param


@given(problem=problems())
def test_every_engine_is_as_accurate_as_the_reference(engine, problem):
    check(problem, engine)


def test_errors_are_those_of_the_largest_numbers_on_the_way(engine):
    """A parameter that goes far and comes back keeps the rounding of where it was."""
    rng = np.random.default_rng(3144)
    parameter, size = rng.standard_normal(1), 300 * rng.standard_normal()
    there_and_back = (1, -0.5, -0.5 + 0.01 * rng.standard_normal())
    gradients = [[np.array([share * size])] for share in there_and_back]
    settings = {"multipliers": [3.0], "weight_decays": [0.01], "transforms": [()]}
    check(("sgd", [parameter], gradients, 1, settings | {"learning_rate": 0.1}), engine)


@given(problem=problems(dtypes=("float16", "bfloat16")))
def test_halves_are_computed_in_float32_and_rounded_once(engine, problem):
    rule, parameters, gradients, first, settings = problem
    one_step = (rule, parameters, gradients[:1], first, settings)
    wide = (rule, [p.astype(np.float32) for p in parameters], gradients[:1], first, settings)
    of_wide = "reference" if engine == "numba" else engine  # to which Numba leaves 16-bit floats
    for result, expected in zip(run(one_step, engine), run(wide, of_wide), strict=True):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(result, expected.astype(result.dtype))


@given(problem=problems(mixed=True))
def test_results_do_not_depend_on_the_number_of_threads(problem):
    before = _core.num_threads()
    results = []
    for num_threads in (1, 2, 5):
        _core.set_num_threads(num_threads)
        results.append(run(problem, "native"))
    _core.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("instruction_set", ["portable", "avx2", "avx512"])
@given(problem=problems())
def test_every_instruction_set_is_as_accurate_as_the_reference(instruction_set, problem):
    before = _core.instruction_set()
    try:
        _core.set_instruction_set(instruction_set)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        check(problem, "native")
    finally:
        _core.set_instruction_set(before)


@given(problem=problems(dtypes=["float32", "float16"], mixed=True))
def test_engines_on_numpy_and_on_tensorflow_give_the_same_bits(problem):
    if fastkeras.engines("optimizers")["tensorflow_native"] != "ready":
        pytest.skip(fastkeras.engines("optimizers")["tensorflow_native"])
    for a, b in zip(run(problem, "native"), run(problem, "tensorflow_native"), strict=True):
        np.testing.assert_array_equal(a, b)


def arrays(*shapes, value=1.0):
    return [np.full(shape, value, np.float32) for shape in shapes]


def test_a_frozen_variable_is_not_touched(engine):
    parameters, gradients = arrays(5, 5), arrays(5, 5, value=np.nan)
    slots = [tuple(arrays(5, 5, value=2.0)) for _ in parameters]
    decays, frozen = [0.1, 0.1], [0.0, 0.0]
    settings = {"learning_rate": 0.1, "multipliers": frozen, "weight_decays": decays}
    assert update("adam", parameters, gradients, slots, **settings, engine=engine)
    assert all((p == 1).all() for p in parameters)
    assert all((slot == 2).all() for of_parameter in slots for slot in of_parameter)


def test_a_frozen_variable_does_not_count_in_a_norm(engine):
    parameters, gradients = arrays(1, 1), [np.float32([3.0]), np.float32([1e6])]
    chains = [(transforms.clip_by_global_norm(1.5),)] * 2
    settings = {"learning_rate": 1.0, "multipliers": [1.0, 0.0], "transforms": chains}
    update("sgd", parameters, gradients, [(), ()], **settings, engine=engine)
    np.testing.assert_array_equal(parameters, [[-0.5], [1.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_sanitize_skips_the_whole_step(engine, rule, bad):
    parameters, gradients = arrays(20, 30000), arrays(20, 30000)
    gradients[1][29_999] = bad
    slots = [tuple(arrays(p.shape, p.shape)) for p in parameters]
    chains = [(transforms.clip_by_norm(1.0),), (transforms.sanitize(),)]
    settings = {"learning_rate": 0.1, "transforms": chains, "weight_decays": [0.1, 0.1]}
    assert not update(rule, parameters, gradients, slots, **settings, engine=engine)
    for array in [*parameters, *(slot for of_parameter in slots for slot in of_parameter)]:
        assert (array == 1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_clipping_by_a_norm_that_is_not_finite_says_so_everywhere(engine, bad):
    (parameter,), (gradient,) = arrays(40), arrays(40)
    gradient[7] = bad
    chains = [(transforms.clip_by_norm(1.0),)]
    update(
        "sgd", [parameter], [gradient], [()], learning_rate=0.1, transforms=chains, engine=engine
    )
    assert np.isnan(parameter).all()


def test_zero_removes_what_is_not_finite(engine):
    (parameter,), gradient = arrays(40), np.full(40, np.nan, np.float32)
    chains = [(transforms.zero(),)]
    update(
        "sgd", [parameter], [gradient], [()], learning_rate=0.1, transforms=chains, engine=engine
    )
    assert (parameter == 1).all()


def test_groups_that_wait_for_each_other_are_an_error(engine):
    first, second = (transforms.clip_by_global_norm(1.0)._replace(of=of) for of in (1, 2))
    step = import_module(f"fastkeras.optimizers._engines.{engine}").step
    c, none = np.full((2, 1), 0.1), np.zeros(2)
    chains = [(first, second), (second, first)]
    with pytest.raises(Exception, match="wait for each other"):
        step("sgd", arrays(3, 3), arrays(3, 3), [(), ()], none == 1, c, none, chains, no_extras(2))


@pytest.mark.parametrize("name", engines_of("optimizers"))
def test_engines_have_the_signature_of_the_reference(name):
    signatures = [
        list(inspect.signature(import_module(f"fastkeras.optimizers._engines.{n}").step).parameters)
        for n in (name, "reference")
    ]
    assert signatures[0] == signatures[1]


BAD = {
    "rule='adm'": {"rule": "adm"},
    "gradients must be 1": {"gradients": []},
    r"gradients\[0\] must have the shape": {"gradients": arrays(4)},
    r"gradients\[0\] must be float32, got float64": {"gradients": [np.ones(3)]},
    r"slots\[0\] of rule 'adam' must be": {"slots": [()]},
    r"slots\[0\], velocity, must be float32": {"slots": [(arrays(3)[0], np.ones(3))]},
    r"parameters\[0\] must be floating, got int32": {"parameters": [np.ones(3, np.int32)]},
    r"parameters\[0\] must be contiguous": {"parameters": [np.ones(6, np.float32)[::2]]},
    "multipliers must be 1": {"multipliers": [1, 2]},
    "unexpected arguments: beta": {"beta": 0.1},
    "transforms must be those": {"transforms": [("clip",)]},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message):
    good = {"rule": "adam", "parameters": arrays(3), "gradients": arrays(3)}
    good |= {"slots": [tuple(arrays(3, 3))], "learning_rate": 0.1}
    with pytest.raises((ValueError, TypeError), match=message):
        update(**good | BAD[message])
