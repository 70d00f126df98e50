"""Which module answers a call: `fastkeras.<domain>._<engine>`."""

import os
from functools import cache
from importlib import import_module

import numpy as np

_ENGINES = ("tensorflow_native", "native", "numba", "keras", "reference")
DOMAINS = {
    "crf": _ENGINES,
    "crf.semi_markov": ("tensorflow_native", "native", "keras", "reference"),
    "optimizers": _ENGINES,
    "word2vec": ("native", "numba", "reference"),
    "word2vec.layers": ("tensorflow_native", "keras"),
}
AUTOMATIC = {  # by the package of the array's type, fastest first
    "numpy": ("native", "numba", "reference"),
    "tensorflow": ("tensorflow_native", "keras"),
    "jax": ("keras",),
    "jaxlib": ("keras",),
    "torch": ("keras",),
}
UNDER_XLA = {  # where the kernels of `tensorflow_native` for XLA are, a csrc/*/xla.cc
    "crf": "fastkeras._tf_ops",
    "crf.semi_markov": "fastkeras._tf_ops",
    "optimizers": "fastkeras._tf_variable_ops",
}
FORCED = "FASTKERAS_ENGINE"


def family_of(array):
    """Return the array family, a key of `AUTOMATIC`; whatever is unknown goes through NumPy."""
    package = type(array).__module__.partition(".")[0]
    return package if package in AUTOMATIC else "numpy"


def array_functions(array):
    """The module whose functions take this array: numpy, or keras.ops."""
    return np if family_of(array) == "numpy" else import_module("keras").ops


def engine_for(domain, array, engine=None, what=None, engines_that_can=_ENGINES):
    """Return the module of `domain` that answers for `array`.

    A named engine is used or raises; only an unnamed one falls through to the next. NumPy arrays
    may be handed to every engine by name, since all of them can convert. Where not every engine can
    do what is asked for, `what` says what that is, and `engines_that_can` which can.
    """
    family = family_of(array)
    automatic = tuple(name for name in AUTOMATIC[family] if name in engines_that_can)
    able = DOMAINS[domain] if family == "numpy" else AUTOMATIC[family]
    able = [name for name in able if name in engines_that_can]
    forced = os.environ.get(FORCED)
    if engine is None and forced in able:
        engine = forced
    if engine is None and family == "tensorflow" and inside_xla() and not runs_in_xla(domain):
        engine = "keras"
    if engine is None:
        return _first(domain, automatic)
    if engine not in able:
        raise ValueError(
            f"engine={engine!r} does not take {what or f'a {family} array'}; "
            f"these do: {', '.join(able)}"
        )
    return _load(domain, engine)


def engines(domain):
    """Tell which engines of a domain can run here, and why the others cannot.

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
    if domain not in DOMAINS:
        raise ValueError(f"domain={domain!r} is unknown; these exist: {', '.join(DOMAINS)}")
    return {name: _state(domain, name) for name in DOMAINS[domain]}


def inside_xla():
    """Whether what is traced now will be compiled by XLA."""
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import control_flow_util

    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def runs_in_xla(domain):
    """Whether the ops of a domain run inside of a program of XLA here."""
    if domain not in UNDER_XLA or _state(domain, "tensorflow_native") != "ready":
        return False
    return import_module(UNDER_XLA[domain]).XLA == "ready"


@cache
def _load(domain, engine):
    return import_module(f"fastkeras.{domain}._{engine}")


@cache
def _first(domain, able):
    for name in able:
        if _state(domain, name) == "ready":
            return _load(domain, name)
    raise ImportError(
        f"fastkeras.{domain}: " + "; ".join(f"{name}: {_state(domain, name)}" for name in able)
    )


@cache
def _state(domain, engine):
    try:
        _load(domain, engine)
    except ImportError as error:
        return str(error)
    return "ready"
