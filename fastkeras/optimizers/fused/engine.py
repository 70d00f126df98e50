"""Whether the kernels can do a step of variables of Keras, and if not, why."""

from fastkeras import _engines
from fastkeras._keras_private import get_stateless_scope
from fastkeras.optimizers.fused.sharding import is_divided
from fastkeras.optimizers.fused.sparse import ON_JAX, ON_TENSORFLOW, ON_TORCH
from fastkeras.optimizers.rules import RULES


def why_keras(rule, written, variables, by_rows=False, layouts=None):
    """Return why the engine has to be `keras`, in words, or None if the arrays decide.

    Args:
        rule: a key of `RULES`.
        written: list of all that a step updates, as tensors of the backend.
        variables: list of the model's Keras variables among them.
        by_rows: whether a gradient has only some of the rows of its variable.
        layouts: on JAX, those of the parts on which kernels are to run, if there are several.
    """
    if not RULES[rule].has_kernel:
        return f"the kernels have no {rule}"
    if ON_TENSORFLOW:
        return _why_keras_on_tensorflow(written[0], by_rows)
    if ON_JAX:
        return _why_keras_on_jax(written, variables, layouts)
    if get_stateless_scope() is not None:
        return "the variables are in a stateless scope"
    return _why_keras_on_torch(written) if ON_TORCH else None


def _why_keras_on_torch(written):
    device = written[0].device
    engine = "torch_cuda" if device.type == "cuda" else "torch_native"
    state = _engines.engines("optimizers")[engine]
    if state != "ready":
        return state if device.type == "cuda" else None
    from fastkeras.optimizers._engines.torch_tensors import CPU, why_not

    return why_not(written, device if device.type == "cuda" else CPU)


def _why_keras_on_tensorflow(variable, by_rows):
    if not hasattr(variable, "handle"):  # a value, not a variable
        return "the variables are in a stateless scope"
    device = getattr(variable, "device", None) or "CPU"
    if "CPU" not in device:
        return f"a variable is on {device}"
    # XLA must know all shapes beforehand, but the number of rows is known only at run time
    return "XLA cannot pick out rows" if by_rows and _engines.inside_xla() else None


def _why_keras_on_jax(written, variables, layouts):
    state = _engines.engines("optimizers")["jax_native"]
    if state != "ready":
        return state
    spread = "a variable is spread over devices"
    if layouts is None and any(is_divided(getattr(v, "_layout", None)) for v in variables):
        return spread  # XLA would copy all of it to each device
    from fastkeras.optimizers._engines.jax_native import is_spread, why_not

    return why_not(written) or (
        spread if layouts is None and any(map(is_spread, written)) else None
    )
