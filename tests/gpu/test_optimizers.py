"""The CUDA kernels of the optimizers: CuPy arrays, orders of threads, odd places, many variables.

The rest is in the tests of the domain, which run on all its engines.
"""

import sys

import numpy as np
import pytest
from ml_dtypes import bfloat16

import fastkeras
from fastkeras.optimizers import transforms, update
from fastkeras.optimizers.rules import RULES

if fastkeras.engines("optimizers")["cupy"] != "ready":
    pytest.skip(fastkeras.engines("optimizers")["cupy"], allow_module_level=True)

import cupy

from fastkeras._ops import cupy as device

ON_CPU = "gpu.cupy_on_cpu" in sys.modules and cupy.__version__ == "on CPUs"
SIZES = (1, 255, 256, 2049, 5000)
CHAINS = {
    "none": (),
    "global norm": (transforms.clip_by_global_norm(0.5),),
    "own norms": (transforms.sanitize(), transforms.clip_by_norm(0.5), transforms.normalize()),
    "steps": (
        transforms.clip_by_norm(0.9),
        transforms.clip_by_value(0.1),
        transforms.add_decayed_weights(0.1),
        transforms.clip_by_l1_norm(2.0),
    ),
    "first by the library": (transforms.centralize(), transforms.adaptive_clip(0.1)),
}


def problem(sizes=SIZES, rule="adam", dtype="float32", bits=32, seed=0):
    rng = np.random.default_rng(seed)
    parameters = [rng.standard_normal(size).astype(dtype) for size in sizes]
    gradients = [rng.standard_normal(size).astype(dtype) for size in sizes]
    count, wide = len(RULES[rule].slots), "float64" if dtype == "float64" else "float32"
    slots = [tuple(np.zeros(size, wide) for _ in range(count)) for size in sizes]
    if bits == 16:
        slots = [tuple(np.zeros(size, bfloat16) for _ in range(count)) for size in sizes]
    elif bits == 8:
        slots = [
            tuple(
                np.zeros(length, kind)
                for _ in range(count)
                for length, kind in ((size, "uint8"), (-(-size // 256), "float32"))
            )
            for size in sizes
        ]
    return [rule, parameters, gradients, slots]


def settings(count, **more):
    rates = np.linspace(0.1, 2.0, count)
    decays = np.linspace(0, 0.3, count)
    return {"learning_rate": 0.1, "multipliers": rates, "weight_decays": decays, **more}


def mapped(function, arrays):
    rule, parameters, gradients, slots = arrays
    return [
        rule,
        list(map(function, parameters)),
        list(map(function, gradients)),
        [tuple(map(function, of_one)) for of_one in slots],
    ]


def results_of(arrays):
    _, parameters, _, slots = arrays
    return [*parameters, *(slot for of_one in slots for slot in of_one)]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("rule", ["sgd", "adam", "lamb"])
def test_arrays_of_cupy_are_updated_in_place(rule, chain):
    on_host = problem(rule=rule)
    on_device = mapped(cupy.asarray, on_host)
    more = settings(len(SIZES), transforms=[CHAINS[chain]] * len(SIZES))
    assert update(*on_device, **more) is True
    assert update(*on_host, **more, engine="cupy") is True
    # NumPy and CuPy add in other orders, where the library transforms
    tolerance = {"rtol": 1e-6, "atol": 3e-7} if "library" in chain else {"rtol": 0}
    for result, expected in zip(results_of(on_device), results_of(on_host), strict=True):
        np.testing.assert_allclose(cupy.asnumpy(result), expected, **tolerance)


@pytest.mark.parametrize("rule", ["ademamix", "schedule_free_sgd", "schedule_free_adamw"])
def test_rules_of_many_coefficients_or_that_read_the_parameter(rule):
    on_device, on_host = problem(rule=rule), problem(rule=rule)
    more = settings(len(SIZES))
    assert update(*on_device, **more, engine="cupy") is True
    assert update(*on_host, **more, engine="reference") is True
    for result, expected in zip(results_of(on_device), results_of(on_host), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_a_step_of_arrays_of_cupy_can_be_skipped():
    arrays = problem()
    arrays[2][3][7] = np.inf
    on_device = mapped(cupy.asarray, arrays)
    more = settings(len(SIZES), transforms=[(transforms.sanitize(),)] * len(SIZES))
    assert update(*on_device, **more) is False
    for result, before in zip(results_of(on_device), results_of(arrays), strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(result), before)


def test_rows_and_noise_of_arrays_of_cupy():
    parameter, gradient = np.ones((40, 3), "float32"), np.ones((2, 3), "float32")
    arrays = ["sgd", [parameter], [gradient], [()]]
    for rows in ([5, 1], np.array([5, 1]), cupy.asarray(np.array([5, 1]))):
        for chain in ((), (lambda gradient, variable: gradient * 1,)):
            on_device = mapped(cupy.asarray, arrays)
            update(*on_device, learning_rate=0.5, rows=[rows], transforms=[chain])
            expected = parameter.copy()
            expected[[1, 5]] = 0.5
            np.testing.assert_array_equal(cupy.asnumpy(on_device[1][0]), expected)


def test_rows_that_are_none_are_ignored():
    """The function `update` checks them; a program that is compiled cannot."""
    from fastkeras.optimizers._engines.cupy import step
    from fastkeras.optimizers.step import no_extras

    parameter, gradient = (cupy.asarray(np.ones((4, 3), "float32")) for _ in range(2))
    rows = cupy.asarray(np.array([3, 4, -1, 2**40]))
    c, zero = np.full((1, 1), 0.5), np.zeros(1)
    chains = [(CHAINS["global norm"][0]._replace(of=0, operand=np.sqrt(3)),)]
    extras = no_extras(1)._replace(rows=[rows])
    step("sgd", [parameter], [gradient], [()], zero == 1, c, zero, chains, extras)
    np.testing.assert_array_equal(cupy.asnumpy(parameter)[:, 0], [1, 1, 1, 0.5])


@pytest.mark.skipif(not ON_CPU, reason="a GPU has its own order")
@pytest.mark.parametrize("rule", ["adam", "lamb", "stable_adamw"])
@pytest.mark.parametrize("bits", [32, 16, 8])
def test_no_order_of_threads_changes_a_bit(rule, bits, monkeypatch):
    from gpu import cupy_on_cpu

    if bits < 32 and not RULES[rule].signs:
        bits = 32
    results = []
    for seed in (0, 1, 2):
        monkeypatch.setattr(cupy_on_cpu, "seed", seed)
        arrays = problem(rule=rule, bits=bits)
        chains = [CHAINS["global norm"]] * len(SIZES)
        update(*arrays, **settings(len(SIZES), transforms=chains), step=1, engine="cupy")
        results.append(results_of(arrays))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [32, 16, 8])
def test_arrays_at_odd_places(offset, dtype, bits):
    """Not at multiples of 16 bytes, so that they cannot be read 16 bytes at a time."""

    def moved(array):
        wider = np.zeros(array.size + offset, array.dtype)
        wider[offset:] = array
        if dtype == "bfloat16" or bits == 16:  # which CuPy may lack: NumPy's arrays go there
            return wider[offset:]
        return cupy.asarray(wider)[offset:]

    arrays = problem(sizes=(600,), dtype=dtype, bits=bits)
    odd = mapped(moved, arrays)
    more = settings(1, transforms=[CHAINS["global norm"]]) | {"step": 1}
    update(*odd, **more, engine="cupy")
    update(*arrays, **more, engine="cupy")
    for result, expected in zip(results_of(odd), results_of(arrays), strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(result), expected)


def launches(monkeypatch):
    names, launch = [], device.launch

    def counted(kernels, name, *arguments):
        names.append(name)
        launch(kernels, name, *arguments)

    monkeypatch.setattr(device, "launch", counted)
    return names


@pytest.mark.parametrize("count", [17, 199, 300])
def test_all_variables_and_rates_take_one_launch(count, monkeypatch):
    names = launches(monkeypatch)
    arrays = problem(sizes=[1 + i % 5 for i in range(count)])
    expected = mapped(np.copy, arrays)
    chains = [CHAINS["global norm"]] * count
    update(*arrays, **settings(count, transforms=chains), engine="cupy")
    update(*expected, **settings(count, transforms=chains), engine="reference")
    for result, other in zip(results_of(arrays), results_of(expected), strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-6)
    tables = 1 if count <= 199 else 2
    assert names.count("step") == tables and len(names) <= 3 * tables
    names.clear()
    update(*arrays, **settings(count), engine="cupy")
    assert names == ["step"] * tables


def test_small_tables_take_more_launches(monkeypatch):
    """As for CUDA before 12.1, which passes 4 KB."""
    monkeypatch.setattr(device, "PARAMETER_BYTES", 4096)
    arrays = problem(sizes=[3] * 60, rule="lamb")
    expected = mapped(np.copy, arrays)
    more = settings(60, transforms=[CHAINS["steps"]] * 60)
    update(*arrays, **more, engine="cupy")
    update(*expected, **more, engine="reference")
    for result, other in zip(results_of(arrays), results_of(expected), strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-5, atol=1e-6)


def test_more_kinds_of_steps_than_fit_into_a_table():
    chains = [(transforms.clip_by_value(0.01 * (i + 1)),) * 3 for i in range(15)]
    arrays = problem(sizes=[5] * 15, rule="sgd")
    expected = mapped(np.copy, arrays)
    update(*arrays, **settings(15, transforms=chains), engine="cupy")
    update(*expected, **settings(15, transforms=chains), engine="reference")
    for result, other in zip(results_of(arrays), results_of(expected), strict=True):
        np.testing.assert_allclose(result, other, rtol=1e-6)
    with pytest.raises(ValueError, match="takes up to 32 element-wise transforms"):
        chains = [(transforms.clip_by_value(1.0),) * 33]
        update(*problem(sizes=(3,)), learning_rate=0.1, transforms=chains, engine="cupy")


def test_arrays_of_two_libraries_are_an_error():
    on_host, on_device = problem(sizes=(3,)), mapped(cupy.asarray, problem(sizes=(3,)))
    with pytest.raises(ValueError, match=r"gradients\[0\] must be an array of CuPy"):
        update(*on_device[:2], on_host[2], on_device[3], learning_rate=0.1)
    with pytest.raises(ValueError, match="must not share memory"):
        update(*on_device[:3], [on_device[1] * 2], learning_rate=0.1)
    with pytest.raises(ValueError, match="engine='native' does not take a cupy array"):
        update(*on_device, learning_rate=0.1, engine="native")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rule", ["adam", "lamb", "stable_adamw"])
def test_numbers_that_only_the_device_knows(rule, dtype):
    """As those of compiled programs, and of Keras' variables on a GPU."""
    from fastkeras._arrays import NUMPY
    from fastkeras.optimizers._engines.cupy import step
    from fastkeras.optimizers.chains import split
    from fastkeras.optimizers.hyperparameters import DEFAULTS
    from fastkeras.optimizers.step import Extras

    count, rng = len(SIZES), np.random.default_rng(0)
    multipliers = np.array([1, 0, 0.5, 2, 1.5])
    c = RULES[rule].coefficients(NUMPY, DEFAULTS, 0.1, multipliers, np.full(count, 3.0))
    c = np.stack([multipliers * 0 + value for value in c], axis=1).astype(dtype)
    decays, rates = (0.01 * multipliers).astype(dtype), (0.1 * multipliers).astype(dtype)
    seeds = rng.integers(-(2**31), 2**31, count).astype("int32")
    none = [None] * count
    chain = tuple(step._replace(of=0) for step in CHAINS["global norm"])
    _, chains = split([chain] * count)
    results = []
    for put in (np.asarray, cupy.asarray):
        _, *arrays = mapped(cupy.asarray, problem(rule=rule))
        adapted, dithered = [rule == "lamb"] * count, [False] * count
        extras = Extras(none, none, adapted, dithered, put(rates), put(seeds))
        step(rule, *arrays, put(multipliers == 0), put(c), put(decays), chains, extras)
        results.append(list(map(cupy.asnumpy, results_of([rule, *arrays]))))
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
