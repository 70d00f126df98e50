"""Chooses the module that answers a call: `fastkeras.<domain>._engines.<engine>`.

Engines are listed here only. The rest follows from the module: an engine can run if its imports
succeed, and can do what it defines.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from traceback import walk_tb

from fastkeras._arrays import family_of
from fastkeras._build import NAMED, NAMED_JAX, rebuild

DOMAINS = {
    "crf": (
        "tensorflow_native",
        "torch_native",
        "torch_cuda",
        "jax_native",
        "jax_cuda",
        "cupy",
        "native",
        "numba",
        "keras",
        "reference",
    ),
    "crf.semi_markov": (
        "tensorflow_native",
        "torch_native",
        "jax_native",
        "native",
        "keras",
        "reference",
    ),
    "crf.second_order": (
        "tensorflow_native",
        "torch_native",
        "jax_native",
        "native",
        "keras",
        "reference",
    ),
    "optimizers": (
        "tensorflow_native",
        "torch_native",
        "torch_cuda",
        "jax_native",
        "jax_cuda",
        "cupy",
        "native",
        "numba",
        "keras",
        "reference",
    ),
    "seq2seq": (
        "tensorflow_native",
        "torch_native",
        "jax_native",
        "native",
        "numba",
        "keras",
        "reference",
    ),
    "word2vec": ("native", "numba", "cupy", "reference"),
    "word2vec.layers": ("tensorflow_native", "torch_native", "jax_native", "keras"),
}
AUTOMATIC = {  # by the family of the array (_arrays.py), fastest first
    "numpy": ("native", "numba", "reference"),
    "tensorflow": ("tensorflow_native", "keras"),
    "jax": ("jax_native", "keras"),
    "jax_elsewhere": (
        "jax_cuda",
        "keras",
    ),  # arrays that are not on the CPU, or may be moved elsewhere
    "cupy": ("cupy",),
    "torch": ("torch_native", "keras"),
    "torch_elsewhere": ("torch_cuda", "keras"),  # tensors that are not on the CPU
}
UNDER_XLA = {  # modules with kernels of `tensorflow_native` for XLA, made from csrc/**/xla.cc
    "crf": "fastkeras._ops.tensorflow",
    "crf.second_order": "fastkeras._ops.tensorflow",
    "crf.semi_markov": "fastkeras._ops.tensorflow",
    "optimizers": "fastkeras._ops.tensorflow_variables",
    "seq2seq": "fastkeras._ops.tensorflow",
}
BACKENDS = ("tensorflow", "jax", "torch")  # of Keras
BUILT_FOR = {"tensorflow": NAMED, "jax": NAMED_JAX}  # what setup.py has to find
FORCED = "FASTKERAS_ENGINE"
FORCIBLE = tuple(dict.fromkeys(name for names in DOMAINS.values() for name in names))


class NotHere(ImportError):
    """This machine lacks what an engine is for, a GPU for instance; that is no problem."""


def engine_for(domain, array, engine=None, needs=None, what=None):
    """Return the module of `domain` that answers for `array`.

    A named engine is used, or raises an error; without a name, the first that is ready is used.
    Every engine takes NumPy arrays if it is named, since all of them can convert these.

    Args:
        domain: a key of `DOMAINS`.
        array: the array, or tensor, whose family decides.
        engine: a name, or None for `FASTKERAS_ENGINE`, and without that for the fastest. The
            variable counts wherever its engine exists for the domain, the array and `needs`.
        needs: something that this call uses and not every engine defines: the name of a function,
            or of a constant by which an engine says that it can do something.
        what: the same in words, for the error.

    Raises:
        ValueError: no such domain or engine, or the engine cannot take this.
        ImportError: the named engine is not ready; or without a name, none is.
    """
    return engine_of_family(domain, family_of(array), engine, needs, what)


def engine_of_family(domain, family, engine=None, needs=None, what=None):
    """As `engine_for`, for arrays of this family."""
    if family == "numpy":  # the quick way
        return sys.modules[path_of(domain, family, engine, needs, what)]
    import fastkeras

    module = fastkeras
    for name in path_of(domain, family, engine, needs, what).split(".")[1:]:
        module = getattr(module, name)
    return module


def path_of(domain, family, engine=None, needs=None, what=None):
    """Load the module that `engine_of_family` returns, and return its name.

    torch.compile treats the name as a constant of its program, which it cannot do with a module.
    Therefore all importing, and reading of the environment, is done here.
    """
    check_domain(domain)
    if family not in AUTOMATIC:
        raise ValueError(
            f"fastkeras.{domain} has no engine for arrays of {family}; it takes those of "
            f"{', '.join(AUTOMATIC)}: convert them, as with cupy.asnumpy(array)"
        )
    if engine is None:
        engine = _forced(domain, family, needs)
    if (
        engine is None
        and family == "tensorflow"
        and (tensorflow_has_gpu() or (inside_xla() and not runs_in_xla(domain)))
    ):
        engine = "keras"
    if engine is None:
        return _first(domain, family, needs, what).__name__
    check_engine(domain, engine)
    if engine not in _takers(domain, family):
        raise ValueError(
            f"engine={engine!r} does not take a {family} array; "
            f"these do: {', '.join(_takers(domain, family))}"
        )
    if not _has(domain, engine, needs):
        raise ValueError(
            f"engine={engine!r} does not take {what or needs}; "
            f"these do: {', '.join(_with(domain, _takers(domain, family), needs)) or 'none'}"
        )
    return _load(domain, engine).__name__


def name_of(engine):
    """The name of the engine whose module this is."""
    return engine.__name__.rpartition(".")[2]


def check_domain(domain):
    """Raise ValueError if there is no such domain."""
    if domain not in DOMAINS:
        raise ValueError(
            f"domain={domain!r} is unknown{near(domain, DOMAINS)}; "
            f"these exist: {', '.join(DOMAINS)}"
        )


def check_engine(domain, engine):
    """Raise ValueError if a domain has no engine of this name; None is for the fastest."""
    names = DOMAINS[domain]
    if engine is not None and not (isinstance(engine, str) and engine in names):
        raise ValueError(
            f"engine={engine!r} is none of {domain}{near(engine, names)}; "
            f"these are: {', '.join(names)}"
        )


def near(name, names):
    """The part of an error message that suggests the nearest of the names, if one is near."""
    found = nearest(name, names)
    return f" (did you mean {found!r}?)" if found else ""


def nearest(name, names):
    """The nearest of the names, or None if none is near."""
    from difflib import get_close_matches

    found = get_close_matches(str(name).lower(), names, n=1)
    return found[0] if found else None


def engines(domain: str) -> dict[str, str]:
    """Say which engines of a domain can run here, and why the others cannot.

    Args:
        domain: the name of a domain, e.g. "crf".

    Returns:
        A dict, engine name to "ready" or the reason why it is not.

    Raises:
        ValueError: there is no such domain.

    Example:
        >>> import fastkeras
        >>> fastkeras.engines("crf")["reference"]
        'ready'
    """
    check_domain(domain)
    return {name: _state(domain, name) for name in DOMAINS[domain]}


@cache
def tensorflow_has_gpu():
    """Whether TensorFlow computes on a GPU, for which its ops have no kernels."""
    import tensorflow as tf

    return bool(tf.config.get_visible_devices("GPU"))


def inside_xla():
    """Whether XLA will compile the code that is being traced now."""
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def runs_in_xla(domain):
    """Whether the ops of a domain can run inside programs of XLA here."""
    if domain not in UNDER_XLA or _state(domain, "tensorflow_native") != "ready":
        return False
    return import_module(UNDER_XLA[domain]).XLA == "ready"


@cache
def _load(domain, engine):
    try:
        return import_module(f"fastkeras.{domain}._engines.{engine}")
    except ModuleNotFoundError as error:
        raise _explained(error) from error


@cache
def _first(domain, family, needs, what):
    names = [name for name in AUTOMATIC[family] if name in DOMAINS[domain]]
    for name in names:
        if _state(domain, name) == "ready" and _has(domain, name, needs):
            return _load(domain, name)
    if not names:
        raise ValueError(f"fastkeras.{domain} has no engine for {family} arrays")
    reasons = (
        f"does not take {what or needs}" if state == "ready" else state
        for state in (_state(domain, name) for name in names)
    )
    raise ImportError(
        f"fastkeras.{domain}: " + "; ".join(map(": ".join, zip(names, reasons, strict=True)))
    )


def _forced(domain, family, needs):
    """The engine named by the environment variable, if it can do what this call needs."""
    name = os.environ.get(FORCED)
    if not name:
        return None
    if name not in FORCIBLE:
        raise ValueError(
            f"the environment variable {FORCED}={name!r} names no engine"
            f"{near(name, FORCIBLE)}; these are: {', '.join(FORCIBLE)}"
        )
    able = name in _takers(domain, family) and _has(domain, name, needs)
    return name if able else None


def _takers(domain, family):
    """The engines of a domain that take arrays of this family when they are named."""
    names = DOMAINS[domain]
    return names if family == "numpy" else [n for n in AUTOMATIC[family] if n in names]


def _with(domain, names, needs):
    return [n for n in names if _state(domain, n) == "ready" and _has(domain, n, needs)]


def _has(domain, engine, needs):
    return needs is None or hasattr(_load(domain, engine), needs)


@cache
def _state(domain, engine):
    error = why_not_ready(domain, engine)
    if error is None:
        return "ready"
    return str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"


@cache
def why_not_ready(domain, engine):
    """Return the error of importing an engine (ModuleNotFoundError for missing modules) or None."""
    try:
        _load(domain, engine)
    except Exception as error:  # a broken installation of a framework may raise anything
        return error
    return None


def _explained(error):
    """The error for a module that is not installed, with the command or setting that helps."""
    missing, text = error.name, str(error)
    if missing == "keras":
        text = "No module named 'keras': it takes `pip install keras`, and a backend of it"
    elif missing in BACKENDS and _raised_by_keras(error):
        others = [f"KERAS_BACKEND={n}" for n in BACKENDS if n != missing and find_spec(n)]
        way = f"set {' or '.join(others)}" if others else f"it takes `pip install {missing}`"
        text = f"No module named {missing!r}, which Keras takes as its backend: {way}"
        return ImportError(text, name=missing)  # Keras is installed, so this is a problem
    elif missing == "cupy":
        text = "No module named 'cupy': it takes `pip install cupy-cuda13x`, and a GPU of NVIDIA"
    elif missing in BUILT_FOR:
        command = f"`pip install {missing}`, and then `{rebuild(BUILT_FOR[missing])}`"
        text = f"No module named {missing!r}: it takes {command}"
    elif missing in BACKENDS:
        text = f"No module named {missing!r}: it takes `pip install {missing}`"
    return ModuleNotFoundError(text, name=missing)


def _raised_by_keras(error):
    modules = (frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__))
    return any(module.partition(".")[0] == "keras" for module in modules)
