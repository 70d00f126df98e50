"""One optimizer step on arrays: the door to the kernels for those who have no Keras model."""

from typing import NamedTuple

import numpy as np

from fastkeras import _engines
from fastkeras._arrays import NUMPY, Spoken
from fastkeras.optimizers.arguments import checked, is_of_jax
from fastkeras.optimizers.step import changed, do, engine_needs

_NUMBERS = ("learning_rate", "numbers", "multipliers", "decays")  # of a `Step`


class Updated(NamedTuple):
    """What `update` returns for arrays of JAX, which do not change.

    Attributes:
        parameters, slots, remainders: as given, with the new values.
        finite: whether the step was done, a bool of JAX.
    """

    parameters: list
    slots: list
    remainders: list
    finite: object


def update(
    rule,
    parameters,
    gradients,
    slots,
    *,
    learning_rate,
    step=1,
    multipliers=None,
    weight_decays=None,
    transforms=None,
    rows=None,
    layer_adaptation=False,
    remainders=None,
    stochastic_rounding=False,
    engine=None,
    **hyperparameters,
):
    """Do one optimizer step in place: transforms, weight decay, and the rule, for all arrays.

    Args:
        rule: a key of `fastkeras.optimizers.rules.RULES`, e.g. "adam", "momentum", "lion", "lamb".
        parameters: list of NumPy arrays, float16, bfloat16, float32 or float64; updated in place,
            for which they, and all that is updated, are contiguous and share no memory. Or of
            arrays of JAX, as then are all others; numbers may be arrays of JAX too.
        gradients: list of arrays of the same shapes, of any strides, in the dtype of the parameter
            or, for a half one, float32.
        slots: for each parameter a tuple of arrays of its shape, float64 if it is and else float32:
            what the rule keeps (`RULES[rule].slots`), zeros at first; updated in place. Or, of
            "adam", "lion", "momentum" and "nesterov", uint8 codes followed by float32 scales, one
            for each 256 numbers, in place of each.
        learning_rate: a number.
        step: the number of the step, from 1; rules with bias correction need it. Or one number
            for each parameter, where some began later: the first update of a parameter is its 1.
        multipliers: of the learning rate, one for each parameter, at least 0; 0 leaves it and its
            slots alone.
        weight_decays: decoupled: a parameter loses `weight_decay · learning_rate · multiplier` of
            itself before the update. One for each parameter.
        transforms: for each parameter a tuple of transforms (`fastkeras.optimizers.transforms`).
            All global norms span one group.
        rows: for each parameter None, or the numbers of the rows that its gradient has, each once;
            all other rows, and those of its slots, stay as they are.
        layer_adaptation: make each step as long as its parameter, times the learning rate; a bool,
            or one for each parameter. The rule "lamb" always does.
        remainders: for each parameter None, or, of a float16 or bfloat16, a float32 array of its
            shape, zeros at first: what it cannot hold of its value; updated in place.
        stochastic_rounding: round bfloat16 up or down at random, right on average.
        engine: None for the fastest that is ready; "native", "numba" or "reference", of JAX
            "jax_native" or "keras". The kernels have no Adafactor.
        **hyperparameters: of the rule: `beta_1=0.9, beta_2=0.999, epsilon=1e-7, momentum=0.9,
            rho=0.9`; `u_product` for Nadam, the product of its momentums of all steps.

    Returns:
        False if nothing was changed because a gradient to be sanitized is not finite, else True.
        Of arrays of JAX, an `Updated` of new ones: under `jax.jit` they lie where the old ones did
        if these are donated (`donate_argnums`), and nothing is copied.

    Raises:
        ValueError: the rule, a count, a shape, a dtype or a number is not as above.
        TypeError: an argument has no such name, or a transform is none.

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
    *new, finite = do(NUMPY, module, rule, given, _noise, _spread, _gathered)
    for array, value in changed(given, new, (given.parameters, given.slots, given.remainders)):
        array[...] = value
    return bool(finite)


def _updated(rule, given, engine):
    """Do a step of arrays of JAX, and return new ones."""
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
    return np.random.default_rng().standard_normal(gradient.shape).astype(gradient.dtype)


def _spread(gradient, rows, like):
    if rows.dtype == bool:  # it has all rows
        return gradient
    if is_of_jax(gradient):
        import jax.numpy as jnp

        return jnp.zeros(like.shape, gradient.dtype).at[rows].set(gradient)
    all_rows = np.zeros(like.shape, gradient.dtype)
    all_rows[rows] = gradient
    return all_rows


def _gathered(gradient, rows):
    return gradient if rows.dtype == bool else gradient[rows]


def _by_masks(step):
    """Return a step whose gradients have all rows, with masks of those that they had."""
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
