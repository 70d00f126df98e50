"""The report of `fastkeras doctor`: what is here, what answers, and what mends the rest."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import fastkeras
from fastkeras import _build
from fastkeras._engines import (
    DOMAINS,
    FORCED,
    FORCIBLE,
    UNDER_XLA,
    engine_of_family,
    engines,
    name_of,
    near,
    why_not_ready,
)

PACKAGES = {  # title: the distributions that have it
    "NumPy": ("numpy",),
    "Numba": ("numba",),
    "Keras": ("keras", "keras-nightly"),
    "TensorFlow": ("tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu"),
    "JAX": ("jax",),
    "PyTorch": ("torch",),
}
IN_FIT = ("crf", "optimizers", "word2vec.layers")


def doctor():
    """Print the report; return the exit status, 1 if it names a problem."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its greetings are not the report
    states = {domain: engines(domain) for domain in DOMAINS}
    backend = _backend()
    for title, value in (*_versions(), *_machine(), *_settings(backend)):
        print(f"{title:13} {value}")
    for domain, of_domain in states.items():
        print(f"\n{domain}")
        for engine, state in of_domain.items():
            print(f"  {engine:18} {state}")
    loaded = {domain: sys.modules.get(module) for domain, module in UNDER_XLA.items()}
    if any(loaded.values()):
        print("\ntensorflow_native under XLA, on CPUs")
        for domain, module in loaded.items():
            print(f"  {domain:18} {module.XLA if module else 'not ready outside of it either'}")
    problems = _problems(states, backend)
    if backend:
        print(f"\nin fit, on the backend {backend}")
        for domain in IN_FIT:
            print(f"  {domain:18} {_in_fit(domain, backend, loaded.get(domain))}")
    if problems:
        print("\nproblems")
        for problem in problems:
            print(f"  {problem}")
    return 1 if problems else 0


def _versions():
    built = _build.record()
    yield "fastkeras", f"{fastkeras.__version__}, in {_build.FOLDER}"
    if built is None:
        yield "built", "no: nothing is compiled there"
    else:
        yield "built", f"for TensorFlow {built['tensorflow']}, by {built['compiler'] or '?'}"
    yield "Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    for title, distributions in PACKAGES.items():
        yield title, next(filter(None, map(_version, distributions)), "not installed")


def _version(distribution):
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _machine():
    try:
        from fastkeras import _core
    except ImportError:
        yield "instructions", "unknown without the compiled kernels"
        yield "threads", f"of {os.cpu_count()} processors"
    else:
        yield "instructions", _core.instruction_set()
        yield "threads", f"{_core.num_threads()} of {os.cpu_count()} processors"


def _settings(backend):
    if backend:
        yield "Keras backend", backend
    if os.environ.get(FORCED):
        yield FORCED, os.environ[FORCED]


def _backend():
    """The backend of Keras, or None if there is no Keras that loads."""
    try:
        import keras
    except Exception:  # whatever a broken installation may raise: the engines have the reason
        return None
    return keras.backend.backend()


def _in_fit(domain, backend, xla):
    try:
        engine = name_of(engine_of_family(domain, backend))
    except (ImportError, ValueError) as error:
        return str(error)
    if engine != "tensorflow_native":
        return engine
    under_xla = engine if xla and xla.XLA == "ready" else "keras"
    return f"{engine}; {under_xla} with jit_compile=True"


def _problems(states, backend):
    """Of what is installed but does not work, each reason once, with the way out."""
    problems, forced = {}, os.environ.get(FORCED)
    if forced and forced not in FORCIBLE:
        problems[f"{FORCED}={forced!r} names no engine{near(forced, FORCIBLE)}: unset it"] = None
    elif forced == "tensorflow_native" and backend not in (None, "tensorflow"):
        problems[
            f"{FORCED}={forced!r} takes no array of {backend}, the backend of Keras: "
            "set KERAS_BACKEND=tensorflow, or unset it"
        ] = None
    for domain, of_domain in states.items():
        for engine, state in of_domain.items():
            # who has not installed what an engine takes does not want that engine
            if not isinstance(why_not_ready(domain, engine), ModuleNotFoundError | type(None)):
                problems.setdefault(state, f"{domain}, {engine}")
    return [f"{where}: {text}" if where else text for text, where in problems.items()]
