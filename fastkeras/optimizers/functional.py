"""One optimizer step on arrays, for those who use the kernels without a Keras model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastkeras import _engines
from fastkeras._arrays import NUMPY, Spoken, array_functions
from fastkeras.optimizers.arguments import checked, is_of_cupy, is_of_jax
from fastkeras.optimizers.step import changed, do, engine_needs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastkeras.typing import Array

_NUMBERS = ("learning_rate", "numbers", "multipliers", "decays")  # of a `Step`


class Updated(NamedTuple):
    """What `update` returns for arrays of JAX, which cannot change in place.

    Attributes:
        parameters, slots, remainders: in the form given, with the new values.
        finite: whether the step was done, a bool of JAX.
    """

    parameters: list[Any]
    slots: list[Any]
    remainders: list[Any]
    finite: Any


def update(
    rule: str,
    parameters: Sequence[Array],
    gradients: Sequence[Array],
    slots: Sequence[Sequence[Array]],
    *,
    learning_rate: float | Array,
    step: int | Sequence[int] | Array | None = None,
    multipliers: Sequence[float] | Array | None = None,
    weight_decays: Sequence[float] | Array | None = None,
    transforms: Sequence[Any] | None = None,
    rows: Sequence[Any] | None = None,
    layer_adaptation: bool | Sequence[bool] = False,
    remainders: Sequence[Any] | None = None,
    stochastic_rounding: bool = False,
    engine: str | None = None,
    **hyperparameters: float | Array,
) -> bool | Updated:
    """Do one optimizer step in place: transforms, weight decay, and the rule, for all arrays.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`, e.g. "adam", "momentum", "lion", "lamb".
        parameters: list of NumPy arrays, float16, bfloat16, float32 or float64. They are updated in
            place; all arrays that are updated must be contiguous and share no memory. Or a list of
            arrays of CuPy, or of JAX; then all other arrays must be too, and with JAX numbers may
            be.
        gradients: list of arrays of the same shapes, of any strides, in the dtype of the parameter,
            or float32 for a float16 or bfloat16 one.
        slots: for each parameter a tuple of arrays of its shape, float64 for a float64 parameter
            and else float32: the state of the rule (`RULES[rule].slots`), updated in place; at
            first zeros, or a copy of the parameter where a slot begins as that
            (`RULES[rule].starts`: the schedule-free ones). Those of "adafactor" and the velocity of
            "adam_mini" are smaller (`RULES[rule].shape_of_slot`); the latter may have 1 or the
            parameter's length on each axis, for blocks of any kind. Where the rule has signs
            (`RULES[rule].signs`), each may be replaced by two arrays: uint8 codes and float32
            scales, one for each 256 numbers. Or all are bfloat16, and rounded at random.
        learning_rate: a number.
        step: the number of the step, from 1; rules with bias correction need it. By default 1, but
            for what is rounded at random, slots of 8 and 16 bits too, it must be given: each step
            has random bits of its own. Or, if some parameters began later, one number for each,
            counted from its own first update.
        multipliers: of the learning rate, one for each parameter, at least 0; with 0 a parameter
            and its slots do not change.
        weight_decays: decoupled: a parameter loses the share `weight_decay · learning_rate ·
            multiplier` of its value before the update. One for each parameter.
        transforms: for each parameter a tuple of transforms (`fastkeras.optimizers.transforms`).
            All global norms span one group.
        rows: for each parameter None, or the numbers of the rows that its gradient has, each once;
            all other rows, of the slots too, stay as they are.
        layer_adaptation: make the length of each step that of its parameter times the learning
            rate; a bool, or one for each parameter. The rule "lamb" always does.
        remainders: for each parameter None, or for a float16 or bfloat16 one a float32 array of its
            shape, zeros at first: what its dtype cannot hold of its value; updated in place.
        stochastic_rounding: round bfloat16 up or down at random, with the right mean.
        engine: None for the fastest that is available; "native", "cupy", "numba" or "reference",
            for CuPy "cupy", for JAX "jax_native" or "keras". The kernels lack "adafactor" and
            "adam_mini".
        **hyperparameters: of the rule: `beta_1=0.9, beta_2=0.999, epsilon=1e-7, momentum=0.9,
            rho=0.9`; `u_product` for Nadam, the product of its momentums of all steps.

    Returns:
        False if nothing was changed because a gradient to be sanitized is not finite, else True.
        For arrays of JAX, an `Updated` with new ones; under `jax.jit` these take the memory of the
        old ones, without copies, if the old ones are donated (`donate_argnums`).

    Raises:
        ValueError: the rule, a count, a shape, a dtype or a number is not as above.
        TypeError: there is no argument of such a name, or a transform is not one.

    Example:
        >>> import numpy as np
        >>> from fastkeras.optimizers import update
        >>> weights = np.ones(3, np.float32)
        >>> update("sgd", [weights], [np.array([1, 2, 3], np.float32)], [()], learning_rate=0.1)
        True
        >>> weights
        array([0.9, 0.8, 0.7], dtype=float32)
    """
    given = checked(
        rule,
        parameters,
        gradients,
        slots,
        learning_rate=learning_rate,
        step=step,
        multipliers=multipliers,
        weight_decays=weight_decays,
        transforms=transforms,
        rows=rows,
        layer_adaptation=layer_adaptation,
        remainders=remainders,
        stochastic_rounding=stochastic_rounding,
        any_float=engine == "reference",
        hyperparameters=hyperparameters,
    )
    if any(map(is_of_jax, given.parameters[:1])):
        return _updated(rule, given, engine)
    array = given.parameters[0] if given.parameters else np.empty(0)
    module = _engines.engine_for("optimizers", array, engine, *engine_needs(rule))
    if _engines.name_of(module) == "keras":
        given = _by_masks(given)
    arrays = array_functions(array)
    *new, finite = do(NUMPY, module, rule, given, _noise, _spread, _gathered, arrays=arrays)
    before = given.parameters, given.slots, given.remainders
    if all(a is b for a, b in zip(new, before, strict=True)):
        return bool(finite)
    for array, value in changed(given, new, before):
        array[...] = value
    return bool(finite)


def _updated(rule, given, engine):
    """Do a step for arrays of JAX; return new ones."""
    import jax.numpy as jnp

    module = _engines.engine_for("optimizers", given.parameters[0], engine, *engine_needs(rule))
    given = given._replace(**{name: jnp.asarray(getattr(given, name)) for name in _NUMBERS})
    given = given._replace(rows=[r if r is None else jnp.asarray(r) for r in given.rows])
    if _engines.name_of(module) == "keras":
        given = _by_masks(given)
    return Updated(*do(Spoken(jnp), module, rule, given, _no_noise, _spread, _gathered))


def _no_noise(gradient):
    raise ValueError(
        "transforms: add_noise has no generator for arrays of JAX; add jax.random.normal(key, "
        "shape) to the gradients"
    )


def _noise(gradient):
    if is_of_cupy(gradient):
        import cupy

        return cupy.random.standard_normal(gradient.shape, "float64").astype(gradient.dtype)
    return np.random.default_rng().standard_normal(gradient.shape).astype(gradient.dtype)


def _spread(gradient, rows, like):
    if rows.dtype == bool:  # it has all rows
        return gradient
    if is_of_jax(gradient):
        import jax.numpy as jnp

        return jnp.zeros(like.shape, gradient.dtype).at[rows].set(gradient)
    if is_of_cupy(gradient):
        import cupy

        all_rows, rows = cupy.zeros(like.shape, gradient.dtype), cupy.asarray(rows)
    else:
        all_rows = np.zeros(like.shape, gradient.dtype)
    all_rows[rows] = gradient
    return all_rows


def _gathered(gradient, rows):
    if is_of_cupy(gradient):
        return array_functions(gradient).take(gradient, array_functions(gradient).asarray(rows), 0)
    return gradient if rows.dtype == bool else gradient[rows]


def _by_masks(step):
    """Return a step whose gradients have all rows, with masks of the rows that they had."""
    gradients, masks = list(step.gradients), list(step.rows)
    for i, (rows, parameter) in enumerate(zip(step.rows, step.parameters, strict=True)):
        if rows is not None:
            gradients[i] = _spread(gradients[i], rows, parameter)
            masks[i] = _mask(rows, len(parameter))
    return step._replace(gradients=gradients, rows=masks)


def _mask(rows, count):
    if is_of_jax(rows):
        import jax.numpy as jnp

        return jnp.zeros(count, bool).at[rows].set(True)
    return np.isin(np.arange(count), rows)
