"""Results depend neither on the number of threads, nor the instruction set, nor other callers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given

import fastkeras
from calls import FUNCTIONS, call, check
from fastkeras import crf
from strategies import chains

PATHS = [("k_best", {"k": 5}), ("sample", {"num_samples": 3, "seed": 0})]


def _paths(function, chain, more, engine):
    found = getattr(crf, function)(**chain, **more, engine=engine)
    return [np.asarray(array) for array in (found if isinstance(found, tuple) else (found,))]


def assert_same(results, expected):
    for result, other in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, other)


def many_chains(rng, dtype, num_tags, steps=400):  # enough work for several threads
    batch = 37
    return {
        "emissions": rng.standard_normal((batch, steps, num_tags)).astype(dtype),
        "tags": rng.integers(0, num_tags, (batch, steps)),
        "transitions": rng.standard_normal((num_tags, num_tags)).astype(dtype),
        "lengths": rng.integers(0, steps + 1, batch),
        "mask": None,
        "start_transitions": rng.standard_normal(num_tags).astype(dtype),
        "end_transitions": rng.standard_normal(num_tags).astype(dtype),
    }


@pytest.fixture
def set_num_threads(engine, monkeypatch):
    """A function that sets the number of threads of the engine."""
    if engine == "native":
        core = pytest.importorskip("fastkeras._core")
        before = core.num_threads()
        yield core.set_num_threads
        core.set_num_threads(before)
    elif engine == "numba":
        numba = pytest.importorskip("numba")
        before = numba.get_num_threads()
        yield lambda n: numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
        numba.set_num_threads(before)
    elif engine == "tensorflow_native":
        module = pytest.importorskip("fastkeras.crf._engines.tensorflow_native")
        yield lambda n: monkeypatch.setattr(module, "_num_threads", lambda: n)
    elif engine == "jax_native":
        from ctypes import c_int

        from fastkeras._ops.jax import function_of

        set_num_threads = function_of("fastkeras_set_num_threads", None, c_int)
        yield set_num_threads
        set_num_threads(0)
    else:
        pytest.skip(f"{engine} has no threads of its own")


@pytest.mark.parametrize("dtype", ("float32", "float64"))
@pytest.mark.parametrize("num_tags", (3, 20, 70))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_any_number_of_threads_gives_the_same_bits(
    engine, set_num_threads, function, num_tags, dtype, rng
):
    chain = many_chains(rng, dtype, num_tags)
    set_num_threads(1)
    alone = call(function, chain, engine)
    for threads in (2, 3, 8):
        set_num_threads(threads)
        assert_same(call(function, chain, engine), alone)


@pytest.mark.parametrize("num_tags", (3, 20, 70))
@pytest.mark.parametrize(("function", "more"), PATHS)
def test_any_number_of_threads_gives_the_same_paths(
    engine, set_num_threads, function, more, num_tags, rng
):
    chain = many_chains(rng, "float32", num_tags)
    del chain["tags"]
    set_num_threads(1)
    alone = _paths(function, chain, more, engine)
    for threads in (2, 3, 8):
        set_num_threads(threads)
        assert_same(_paths(function, chain, more, engine), alone)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_calls_from_several_threads_at_once_do_not_disturb_each_other(engine, function, rng):
    all_chains = [many_chains(rng, dtype, 5, steps=23) for dtype in ("float32", "float64") * 4]
    expected = [call(function, chain, engine) for chain in all_chains]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda chain: call(function, chain, engine), all_chains))
    for result, single in zip(results, expected, strict=True):
        assert_same(result, single)


@pytest.mark.parametrize("name", ("portable", "avx2", "avx512"))
@pytest.mark.parametrize("function", FUNCTIONS)
@given(chain=chains(max_steps=12))
def test_every_instruction_set_is_as_accurate(name, function, chain):
    state = fastkeras.engines("crf")["native"]
    if state != "ready":
        pytest.skip(state)
    from fastkeras import _core

    before = _core.instruction_set()
    try:
        _core.set_instruction_set(name)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        check(function, chain, "native")
    finally:
        _core.set_instruction_set(before)
