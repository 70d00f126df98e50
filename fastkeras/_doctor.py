"""The report of `fastkeras doctor`: what is installed, which engines work, how to fix the rest."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import fastkeras
from fastkeras import _build
from fastkeras._engines import (
    BACKENDS,
    DOMAINS,
    FORCED,
    FORCIBLE,
    UNDER_XLA,
    NotHere,
    engine_of_family,
    engines,
    name_of,
    near,
    why_not_ready,
)
from fastkeras._ops import gpu

PACKAGES = {  # title: the distributions that provide it
    "NumPy": ("numpy",),
    "Numba": ("numba",),
    "Keras": ("keras", "keras-nightly"),
    "TensorFlow": ("tensorflow", "tensorflow-cpu", "tf-nightly", "tf-nightly-cpu"),
    "JAX": ("jax",),
    "PyTorch": ("torch",),
}
IN_FIT = ("crf", "optimizers", "word2vec.layers")


def doctor(as_json=False):
    """Print the report; return the exit status, 1 if it names a problem."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keeps TensorFlow's log out of the report
    found = report()
    print(json.dumps(found, indent=1, ensure_ascii=False) if as_json else _as_text(found))
    return 1 if found["problems"] else 0


def report():
    """The report as a dict of dicts and lists of strings."""
    states = {domain: engines(domain) for domain in DOMAINS}
    backend = _backend()
    loaded = {domain: sys.modules.get(module) for domain, module in UNDER_XLA.items()}
    under_xla = {
        domain: module.XLA if module else "not ready outside of it either"
        for domain, module in loaded.items()
        if any(loaded.values())
    }
    in_fit = {domain: _in_fit(domain, backend, loaded.get(domain)) for domain in IN_FIT if backend}
    of_gpu, on_gpu, problems_of_gpu = gpu.report()
    return {
        "installed": dict((*_versions(), *_machine(), *_settings(backend))),
        "gpu": of_gpu,
        "on_gpu": on_gpu,
        "engines": states,
        "under_xla": under_xla,
        "backend": backend,
        "in_fit": in_fit,
        "problems": _problems(states, backend) + problems_of_gpu,
    }


def _as_text(found):
    lines = [f"{title:13} {value}" for title, value in found["installed"].items()]
    parts = {"GPUs of NVIDIA": found["gpu"], "arrays on a GPU, in crf": found["on_gpu"]}
    parts |= found["engines"]
    parts["tensorflow_native under XLA, on CPUs"] = found["under_xla"]
    parts[f"in fit, on the backend {found['backend']}"] = found["in_fit"]
    for title, rows in parts.items():
        if rows:
            lines += ["", title, *(f"  {name:18} {value}" for name, value in rows.items())]
    if found["problems"]:
        lines += ["", "problems", *(f"  {problem}" for problem in found["problems"])]
    return "\n".join(lines)


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
    """The backend of Keras, or None if Keras cannot be imported."""
    try:
        import keras
    except Exception:  # a broken installation may raise anything; the engines report the reason
        return None
    return keras.backend.backend()


def _family_in_fit(backend):
    """The family of the tensors that `fit` computes with: on a GPU, if the backend has one."""
    if backend == "torch":
        import torch

        on_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        return "torch_elsewhere" if on_gpu else "torch"
    if backend == "jax":
        import jax

        return "jax" if jax.default_backend() == "cpu" else "jax_elsewhere"
    return backend


def _in_fit(domain, backend, xla):
    try:
        engine = name_of(engine_of_family(domain, _family_in_fit(backend)))
    except (ImportError, ValueError) as error:
        return str(error)
    if engine != "tensorflow_native":
        return engine
    under_xla = engine if xla and xla.XLA == "ready" else "keras"
    return f"{engine}; {under_xla} with jit_compile=True"


def _problems(states, backend):
    """The reasons why installed parts do not work, each once, with the remedy."""
    problems, forced = {}, os.environ.get(FORCED)
    if forced and forced not in FORCIBLE:
        problems[f"{FORCED}={forced!r} names no engine{near(forced, FORCIBLE)}: unset it"] = None
    elif (
        forced and backend and forced in {f"{name}_native" for name in BACKENDS if name != backend}
    ):
        problems[
            f"{FORCED}={forced!r} takes no array of {backend}, the backend of Keras: "
            f"set KERAS_BACKEND={forced.removesuffix('_native')}, or unset it"
        ] = None
    for domain, of_domain in states.items():
        for engine, state in of_domain.items():
            # an engine whose framework is not installed is not wanted, and no problem
            reason = why_not_ready(domain, engine)
            if not isinstance(reason, ModuleNotFoundError | NotHere | None):
                problems.setdefault(state, f"{domain}, {engine}")
    return [f"{where}: {text}" if where else text for text, where in problems.items()]
