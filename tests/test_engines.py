"""Which engine answers, and what the package says about those that cannot."""

import inspect
import sys
from importlib import import_module

import numpy as np
import pytest
import tensorflow as tf

import fastkeras
from fastkeras import _engines, crf
from fastkeras.crf import _reference

FUNCTIONS = [
    name for name, _ in inspect.getmembers(_reference, inspect.isfunction) if name[0] != "_"
]
ENGINES = _engines.DOMAINS["crf"]
EMISSIONS = np.zeros((1, 3, 4))
TRANSITIONS = np.zeros((4, 4))


@pytest.fixture
def forget_engines():
    """Engines are looked up once a process; let a test change what there is."""

    def forget():
        for remembered in (_engines._load, _engines._first, _engines._state):
            remembered.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def without_native(monkeypatch, forget_engines):
    monkeypatch.setitem(sys.modules, "fastkeras.crf._native", None)


def answering(array, engine=None):
    return _engines.engine_for("crf", array, engine).__name__.rpartition("._")[2]


def test_every_engine_is_ready():
    assert fastkeras.engines("crf") == dict.fromkeys(ENGINES, "ready")


OF_SOME = {"weighted_log_likelihood": ("keras", "reference")}


@pytest.mark.parametrize(
    ("engine", "function"), [(e, f) for f in FUNCTIONS for e in OF_SOME.get(f, ENGINES)]
)
def test_engines_have_the_signature_of_the_reference(engine, function):
    module = import_module(f"fastkeras.crf._{engine}")
    actual = inspect.signature(getattr(module, function)).parameters
    assert list(actual) == list(inspect.signature(getattr(_reference, function)).parameters)


def test_every_function_of_the_reference_is_public():
    assert set(FUNCTIONS) <= set(crf.__all__)


def test_fastest_engine_that_takes_the_array_answers():
    assert answering(EMISSIONS) == "native"
    assert answering([[1.0]]) == "native"
    assert answering(tf.constant(EMISSIONS)) == "tensorflow_native"


@pytest.mark.parametrize("engine", ENGINES)
def test_numpy_arrays_go_to_every_engine_by_name(engine):
    assert answering(EMISSIONS, engine) == engine
    np.testing.assert_allclose(
        crf.log_partition(EMISSIONS, TRANSITIONS, engine=engine), [3 * np.log(4)], rtol=1e-15
    )


@pytest.mark.parametrize("engine", ["numba", "natvie"])
def test_engine_that_does_not_take_the_array_is_an_error(engine):
    message = f"engine='{engine}' does not take a tensorflow array; these do: tensorflow_native"
    with pytest.raises(ValueError, match=message):
        crf.log_partition(tf.constant(EMISSIONS), tf.constant(TRANSITIONS), engine=engine)


@pytest.mark.usefixtures("without_native")
def test_engine_named_but_missing_is_an_error():
    with pytest.raises(ImportError, match=r"fastkeras\.crf\._native"):
        crf.log_partition(EMISSIONS, TRANSITIONS, engine="native")


@pytest.mark.usefixtures("without_native")
def test_engine_not_named_falls_through_to_the_next():
    assert answering(EMISSIONS) == "numba"
    assert "fastkeras.crf._native" in fastkeras.engines("crf")["native"]
    assert fastkeras.engines("crf")["numba"] == "ready"


def test_without_any_engine_the_error_gives_all_reasons(monkeypatch, forget_engines):
    for engine in ENGINES:
        monkeypatch.setitem(sys.modules, f"fastkeras.crf._{engine}", None)
    with pytest.raises(ImportError, match=r"native: .*; numba: .*; reference: "):
        crf.log_partition(EMISSIONS, TRANSITIONS)


def test_environment_variable_forces_an_engine(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "reference")
    assert answering(EMISSIONS) == "reference"
    assert answering(EMISSIONS, "numba") == "numba"  # a name in the call is stronger
    assert answering(tf.constant(EMISSIONS)) == "tensorflow_native"  # not a NumPy engine's array
    monkeypatch.setenv("FASTKERAS_ENGINE", "keras")
    assert answering(tf.constant(EMISSIONS)) == "keras"


def test_report_of_an_unknown_domain_names_the_known_ones():
    with pytest.raises(ValueError, match="domain='parser' is unknown; these exist: crf"):
        fastkeras.engines("parser")


@pytest.mark.parametrize("engine", ["tensorflow_native", "keras"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_xla_takes_the_kernels_unless_told_otherwise(jit_compile, engine, monkeypatch):
    @tf.function(jit_compile=jit_compile)
    def log_partition(emissions):
        chosen.append(answering(emissions))
        return crf.log_partition(emissions, tf.constant(TRANSITIONS))

    monkeypatch.setenv("FASTKERAS_ENGINE", engine)
    chosen = []
    value = log_partition(tf.constant(EMISSIONS))
    assert chosen == [engine]
    np.testing.assert_allclose(value, [3 * np.log(4)], rtol=1e-15)
