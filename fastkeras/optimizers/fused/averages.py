"""Averages of the variables (`use_ema`): they move, and overwrite the variables, by updates."""

from keras import ops

from fastkeras.optimizers.fused.lookahead import assign_if
from fastkeras.optimizers.fused.scalars import wide


def update(optimizer, variables):
    """Move the averages, if the variables have moved; Keras does it at each call."""
    number = wide(optimizer.iterations) + 1  # of this update, from 1; Keras counts calls from 0
    momentum = ops.where(number > 1, wide(optimizer.ema_momentum), wide(0.0))
    if optimizer.ema_bias_correction and optimizer.ema_momentum == 1:
        momentum = (number - 1) / number
    elif optimizer.ema_bias_correction:
        power = ops.power(wide(optimizer.ema_momentum), number)
        momentum = (optimizer.ema_momentum - power) / (1 - power)
    is_update = _is_update(optimizer)
    if is_update is not None:
        momentum = ops.where(is_update, momentum, wide(1.0))
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        if average is not None:
            m = ops.cast(momentum, variable.dtype)
            average.assign(ops.multiply(m, average) + ops.multiply(1 - m, variable))


def overwrite_every(optimizer, frequency):
    """Put the averages into the model after every so many updates, not calls."""
    is_due = ops.equal((optimizer.iterations + 1) % frequency, 0)
    is_update = _is_update(optimizer)
    if is_update is not None:
        is_due = ops.logical_and(is_due, is_update)
    assign_if(optimizer.assign, is_due, lambda: _pairs(optimizer))


def overwrite_if_any(optimizer):
    """Put the averages into the model, if there are any yet."""
    assign_if(optimizer.assign, optimizer.iterations > 0, lambda: _pairs(optimizer))


def may_be_none(optimizer):
    """Whether there may be calls without an update."""
    settings = optimizer._settings
    is_skipping = settings is not None and settings.skipped is not None
    return optimizer.gradient_accumulation_steps or is_skipping


def _is_update(optimizer):
    """Tell whether this call has updated the variables, or None if every call does.

    With accumulation only the last of several does, and `sanitize` may have skipped it.
    """
    is_update, steps = None, optimizer.gradient_accumulation_steps
    if steps:
        is_update = ops.equal((optimizer._calls_before + 1) % steps, 0)
    if optimizer._settings.skipped is not None:
        is_done = ops.equal(optimizer._iterations, optimizer._calls_before)
        is_update = is_done if is_update is None else ops.logical_and(is_update, is_done)
    return is_update


def _pairs(optimizer):
    averages = optimizer._model_variables_moving_average
    pairs = zip(optimizer._trainable_variables, averages, strict=True)
    return [(variable, average) for variable, average in pairs if average is not None]
