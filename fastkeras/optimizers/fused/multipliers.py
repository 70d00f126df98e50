"""Learning rates by variable: multipliers of the one learning rate of the optimizer.

Schedules and callbacks change the learning rate, but not the ratios between variables.
"""

from __future__ import annotations

import weakref
from numbers import Real
from typing import TYPE_CHECKING

import keras

from fastkeras.optimizers.fused import matching, per_variable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_ATTRIBUTE = "learning_rate_multiplier"  # of a variable, set by set_learning_rate_multiplier
_OPTIMIZERS: weakref.WeakSet[keras.Optimizer] = (
    weakref.WeakSet()
)  # built ones, which follow such changes


def set_learning_rate_multiplier(target: Any, multiplier: float | None) -> None:
    """Let a layer of any model train at `multiplier` times the learning rate, from the next step.

    It holds for every fastkeras optimizer, built or not, and takes precedence over its
    `learning_rate_multipliers`. It can be changed at any time: between epochs, in a callback.

    Args:
        target: a layer, a model, a variable, or a list of these.
        multiplier: a number, at least 0; 0 freezes the target, at no cost. None removes what was
            set before.

    Raises:
        ValueError: `multiplier` is negative, or `target` has no variables yet.

    Example:
        >>> import keras
        >>> from fastkeras.optimizers import Adam, set_learning_rate_multiplier
        >>> layer = keras.layers.Dense(1)
        >>> model = keras.Sequential([keras.Input((2,)), layer])
        >>> set_learning_rate_multiplier(layer, 0.1)
        >>> optimizer = Adam(0.01)
        >>> optimizer.build(model.trainable_variables)
        >>> optimizer.learning_rate_multipliers
        [0.1, 0.1]
    """
    variables = matching.variables_of(target)
    if not variables:
        raise ValueError(f"target: {target!r} has no variables; build it first")
    for variable in variables:
        setattr(variable, _ATTRIBUTE, None if multiplier is None else _checked(multiplier))
    for optimizer in list(_OPTIMIZERS):
        optimizer._refresh_multipliers()


def layerwise_decay(
    model: keras.Model, decay: float, *, layers: Sequence[Any] | None = None, minimum: float = 0.0
) -> list[tuple[Any, float]]:
    """Return multipliers that fall from the last layer of a model to the first.

    The last layer has 1, the one before it `decay`, then `decay ** 2`, and so on: "discriminative
    fine-tuning" of Howard and Ruder 2018, https://arxiv.org/abs/1801.06146.

    Args:
        model: a model whose layers are built.
        decay: a number above 0, usually 0.65 to 0.95.
        layers: the layers from first to last; by default `model.layers`. An item may be a list of
            layers that share a multiplier. Layers without weights are skipped.
        minimum: no multiplier falls below it.

    Returns:
        A list of pairs `(layer, multiplier)` for `learning_rate_multipliers`.

    Raises:
        ValueError: `decay` is not above 0, or no layer has trainable variables.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a"),
        ...                           keras.layers.ReLU(), keras.layers.Dense(1, name="b")])
        >>> [(layer.name, multiplier) for layer, multiplier in layerwise_decay(model, 0.5)]
        [('a', 0.5), ('b', 1.0)]
    """
    if not isinstance(decay, (int, float)) or not decay > 0:
        raise ValueError(f"decay must be above 0, got {decay!r}")
    # With `enable_lora` of keras-hub a layer is frozen, and yet the model trains parts of it.
    trained = {id(variable) for variable in model.trainable_variables}
    chosen = [
        layer
        for layer in layers or model.layers
        if matching.trainable_of(layer)
        or any(id(variable) in trained for variable in matching.variables_of(layer))
    ]
    if not chosen:
        raise ValueError("model: no layer has trainable variables; build the model first")
    last = len(chosen) - 1
    return [(layer, max(minimum, decay ** (last - i))) for i, layer in enumerate(chosen)]


def checked(given):
    """Return `learning_rate_multipliers` as they were given, or raise."""
    if given is None or callable(given):
        return given
    if is_by_position(given):
        return [_checked(multiplier) for multiplier in given]
    if isinstance(given, dict) and "class_name" in given:  # a function, from a saved model
        return keras.saving.deserialize_keras_object(given)
    saved = per_variable.saved_in(given)
    if saved is not None:
        return saved
    pairs = matching.pairs("learning_rate_multipliers", given)
    return [(target, _checked(multiplier)) for target, multiplier in pairs] or None


def resolve(given, variables):
    """Return one multiplier for each variable, in their order.

    Args:
        given: None; pairs `(target, multiplier)` (see `matching.resolve`); a function of a
            variable; numbers, one for each variable; or the multipliers of a saved optimizer.
        variables: list of variables.
    """
    if given is None:
        values = [1.0] * len(variables)
    elif callable(given):
        values = [_checked(given(variable)) for variable in variables]
    elif isinstance(given, per_variable.Saved):
        values = per_variable.values_for("learning_rate_multipliers", given, variables)
    elif is_by_position(given):
        values = [_checked(value) for value in given]
        if len(values) != len(variables):
            raise ValueError(
                f"learning_rate_multipliers: {len(values)} numbers for {len(variables)} variables"
            )
    else:
        found = matching.resolve("learning_rate_multipliers", given, variables)
        values = [1.0 if k is None else _checked(given[k][1]) for k in found]
    said = (getattr(variable, _ATTRIBUTE, None) for variable in variables)
    return [value if own is None else own for own, value in zip(said, values, strict=True)]


def is_by_position(given):
    """Tell whether multipliers were given as numbers, one for each variable."""
    is_list = isinstance(given, (list, tuple)) and len(given) > 0
    return is_list and all(isinstance(x, Real) for x in given)


def follow(optimizer):
    """Register a built optimizer, to be told of later changes."""
    _OPTIMIZERS.add(optimizer)


def _checked(multiplier):
    if not isinstance(multiplier, Real) or not 0 <= multiplier < float("inf"):
        raise ValueError(f"a learning rate multiplier must be at least 0, got {multiplier!r}")
    return float(multiplier)
