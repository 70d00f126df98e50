"""Which engine is chosen, and what the package says about engines that cannot run."""

import inspect
import re
import sys
from importlib import import_module

import numpy as np
import pytest
import tensorflow as tf

import fastkeras
from engine_parameters import engines_of
from fastkeras import _engines, crf
from fastkeras.crf._engines import reference

FUNCTIONS = [
    name for name, _ in inspect.getmembers(reference, inspect.isfunction) if name[0] != "_"
]
ENGINES = _engines.DOMAINS["crf"]
EMISSIONS = np.zeros((1, 3, 4))
TRANSITIONS = np.zeros((4, 4))


@pytest.fixture
def forget_engines():
    """Clear the cache of engines, so that a test can change which ones are ready."""

    def forget():
        for name in ("_load", "_first", "_state", "why_not_ready"):
            getattr(_engines, name).cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def without_native(monkeypatch, forget_engines):
    monkeypatch.setitem(sys.modules, "fastkeras.crf._engines.native", None)


def answering(array, engine=None):
    return _engines.engine_for("crf", array, engine).__name__.rpartition(".")[2]


def test_every_engine_is_ready():
    states = fastkeras.engines("crf")
    for framework in ("torch", "jax"):
        for name in [name for name in states if name.startswith(framework)]:
            elsewhere = states.pop(name)
            assert elsewhere == "ready" or elsewhere.startswith(f"No module named '{framework}'")
    assert states == dict.fromkeys([name for name in ENGINES if name in states], "ready")


# need not be in all engines: the reference and one more
OF_SOME = {"weighted_log_likelihood", "entropy", "entropy_and_gradients"}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("engine", engines_of("crf"))
def test_engines_have_the_signature_of_the_reference(engine, function):
    module = import_module(f"fastkeras.crf._engines.{engine}")
    if function in OF_SOME and not hasattr(module, function):
        return
    actual = inspect.signature(getattr(module, function)).parameters
    assert list(actual) == list(inspect.signature(getattr(reference, function)).parameters)


def test_every_function_of_the_reference_is_public():
    assert set(FUNCTIONS) <= set(crf.__all__)


def test_fastest_engine_that_takes_the_array_answers():
    assert answering(EMISSIONS) == "native"
    assert answering([[1.0]]) == "native"
    assert answering(tf.constant(EMISSIONS)) == "tensorflow_native"


@pytest.mark.parametrize("engine", engines_of("crf"))
def test_numpy_arrays_go_to_every_engine_by_name(engine):
    assert answering(EMISSIONS, engine) == engine
    np.testing.assert_allclose(
        crf.log_partition(EMISSIONS, TRANSITIONS, engine=engine), [3 * np.log(4)], rtol=1e-15
    )


def test_engine_that_does_not_take_the_array_is_an_error():
    message = "engine='numba' does not take a tensorflow array; these do: tensorflow_native, keras$"
    with pytest.raises(ValueError, match=message):
        crf.log_partition(tf.constant(EMISSIONS), tf.constant(TRANSITIONS), engine="numba")


@pytest.mark.parametrize(
    ("engine", "guess"),
    [
        ("natvie", " (did you mean 'native'?)"),
        ("NumPy", " (did you mean 'cupy'?)"),
        ("cuda", " (did you mean 'jax_cuda'?)"),
        (7, ""),
        (["native"], " (did you mean 'native'?)"),
    ],
)
@pytest.mark.parametrize("array", [EMISSIONS, tf.constant(EMISSIONS)], ids=["numpy", "tensorflow"])
def test_unknown_engine_is_named_with_the_nearest(engine, guess, array):
    message = f"engine={engine!r} is none of crf{guess}; these are: {', '.join(ENGINES)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        crf.log_partition(array, TRANSITIONS, engine=engine)


def test_engine_of_another_domain_is_told_so():
    zeros = np.zeros((1, 2, 1)), np.zeros((1, 1)), np.zeros((2, 1))
    others = ", ".join(_engines.DOMAINS["crf.semi_markov"])
    message = rf"engine='numba' is none of crf\.semi_markov; these are: {others}"
    with pytest.raises(ValueError, match=message):
        crf.semi_markov.log_partition(*zeros, engine="numba")
    with pytest.raises(ValueError, match=r"engine='keras' is none of word2vec; these are: native"):
        fastkeras.word2vec.Word2Vec(engine="keras")
    with pytest.raises(ValueError, match=r"engine='adam' is none of optimizers; these are"):
        _engines.engine_for("optimizers", EMISSIONS, "adam")


def test_family_without_an_engine_is_an_error():
    with pytest.raises(ValueError, match=r"fastkeras\.word2vec has no engine for tensorflow array"):
        _engines.engine_for("word2vec", tf.constant(EMISSIONS))


def test_engine_says_by_what_it_defines_what_it_takes():
    def answering(array, engine=None):
        module = _engines.engine_for("crf", array, engine, "VARYING_TRANSITIONS", "such chains")
        return module.__name__.rpartition(".")[2]

    assert answering(EMISSIONS) == "native"
    assert answering(EMISSIONS, "keras") == "keras"
    assert answering(tf.constant(EMISSIONS)) == "tensorflow_native"
    message = "engine='numba' does not take such chains; these do: .*native, keras, reference$"
    with pytest.raises(ValueError, match=message):
        answering(EMISSIONS, "numba")
    with pytest.raises(ValueError, match=r"'native' does not take hessians; these do: none$"):
        _engines.engine_for("crf", EMISSIONS, "native", "hessians")
    with pytest.raises(ImportError, match="native: does not take hessians; numba: does not"):
        _engines.engine_for("crf", EMISSIONS, needs="hessians")


def test_engine_may_be_a_folder(tmp_path, monkeypatch, forget_engines):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.joinpath("__init__.py").write_text(
        "from fastkeras.crf._engines.folder.path import viterbi\n"
    )
    folder.joinpath("path.py").write_text("def viterbi():\n    return 7\n")
    leaves = import_module("fastkeras.crf._engines")
    monkeypatch.setattr(leaves, "__path__", [*leaves.__path__, str(tmp_path)])
    monkeypatch.setitem(_engines.DOMAINS, "crf", (*ENGINES, "folder"))
    try:
        assert fastkeras.engines("crf")["folder"] == "ready"
        assert _engines.engine_for("crf", EMISSIONS, "folder").viterbi() == 7
    finally:
        for name in ("", ".path"):
            sys.modules.pop(f"fastkeras.crf._engines.folder{name}", None)


@pytest.mark.usefixtures("without_native")
def test_engine_named_but_missing_is_an_error():
    with pytest.raises(ImportError, match=r"fastkeras\.crf\._engines\.native"):
        crf.log_partition(EMISSIONS, TRANSITIONS, engine="native")


@pytest.mark.usefixtures("without_native")
def test_engine_not_named_falls_through_to_the_next():
    assert answering(EMISSIONS) == "numba"
    assert "fastkeras.crf._engines.native" in fastkeras.engines("crf")["native"]
    assert fastkeras.engines("crf")["numba"] == "ready"


def test_without_any_engine_the_error_gives_all_reasons(monkeypatch, forget_engines):
    for engine in ENGINES:
        monkeypatch.setitem(sys.modules, f"fastkeras.crf._engines.{engine}", None)
    with pytest.raises(ImportError, match=r"native: .*; numba: .*; reference: "):
        crf.log_partition(EMISSIONS, TRANSITIONS)


def test_environment_variable_forces_an_engine(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "reference")
    assert answering(EMISSIONS) == "reference"
    assert answering(EMISSIONS, "numba") == "numba"  # a name in the call is stronger
    assert answering(tf.constant(EMISSIONS)) == "tensorflow_native"  # not a NumPy engine's array
    monkeypatch.setenv("FASTKERAS_ENGINE", "keras")
    assert answering(tf.constant(EMISSIONS)) == "keras"


def test_environment_variable_leaves_alone_what_its_engine_is_not_for(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "numba")
    semi_markov = _engines.engine_for("crf.semi_markov", EMISSIONS)  # which has no Numba
    assert semi_markov.__name__ == "fastkeras.crf.semi_markov._engines.native"
    assert answering(EMISSIONS) == "numba"
    varying = _engines.engine_for("crf", EMISSIONS, needs="VARYING_TRANSITIONS")
    assert varying.__name__ == "fastkeras.crf._engines.native"
    monkeypatch.setenv("FASTKERAS_ENGINE", "")
    assert answering(EMISSIONS) == "native"


@pytest.mark.usefixtures("without_native")
def test_environment_variable_does_not_fall_through(monkeypatch):
    monkeypatch.setenv("FASTKERAS_ENGINE", "native")
    with pytest.raises(ImportError, match=r"fastkeras\.crf\._engines\.native"):
        answering(EMISSIONS)


@pytest.mark.parametrize("domain", ["crf", "word2vec"])
def test_unknown_engine_in_the_environment_is_an_error(monkeypatch, domain):
    monkeypatch.setenv("FASTKERAS_ENGINE", "nativ")
    message = r"FASTKERAS_ENGINE='nativ' names no engine \(did you mean 'native'\?\); these are: "
    with pytest.raises(ValueError, match=message):
        _engines.engine_for(domain, EMISSIONS)
    named = _engines.engine_for(domain, EMISSIONS, "native")  # a name in the call is stronger
    assert named.__name__ == f"fastkeras.{domain}._engines.native"


@pytest.mark.parametrize(("domain", "guess"), [("crt", " (did you mean 'crf'?)"), ("parser", "")])
def test_unknown_domain_is_an_error_that_names_the_known_ones(domain, guess):
    named = ", ".join(_engines.DOMAINS)
    message = f"domain={domain!r} is unknown{guess}; these exist: {named}"
    for ask in (fastkeras.engines, lambda name: _engines.engine_for(name, EMISSIONS)):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask(domain)


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


def test_where_tensorflow_has_a_gpu_no_kernel_for_cpus_gets_its_tensors(monkeypatch):
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    _engines.tensorflow_has_gpu.cache_clear()
    try:
        assert answering(tf.constant(EMISSIONS)) == "keras"
        assert answering(tf.constant(EMISSIONS), "tensorflow_native") == "tensorflow_native"
        assert answering(EMISSIONS) == "native"
    finally:
        _engines.tensorflow_has_gpu.cache_clear()
