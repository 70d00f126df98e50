"""The numbers that the rules take: their defaults, and the values allowed."""

import math
from contextlib import suppress
from numbers import Integral, Real

import numpy as np

DEFAULTS = {
    "momentum": 0.9,
    "rho": 0.9,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "beta_3": 0.9999,
    "alpha": 5.0,
    "alpha_warmup": 0,
    "beta_3_warmup": 0,
    "warmup_steps": 0,
    "epsilon": 1e-7,
    "beta_2_decay": -0.8,
    "epsilon_1": 1e-30,
    "epsilon_2": 1e-3,
    "clip_threshold": 1.0,
}

ALLOWED = {  # values of a hyperparameter, in words; all others must be at least 0
    "momentum": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "rho": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "beta_1": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "beta_2": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "beta_3": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "u_product": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "beta_2_decay": ("at most 0", lambda x: -math.inf < x <= 0),
    "clip_threshold": ("above 0", lambda x: 0 < x < math.inf),
}


def check_hyperparameter(name, value, argument=None):
    """Raise ValueError, which names the argument if it has another name, for a bad value."""
    words, is_allowed = ALLOWED.get(name, ("at least 0", lambda x: 0 <= x < math.inf))
    try:
        fits = is_allowed(float(value))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{argument or name} must be a number {words}, got {value!r}")


def checked_flag(name, value):
    """Return True or False; raise ValueError for anything else, as "no", which counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def checked_integer(name, value, least):
    """Return a whole number of at least `least`, those of NumPy too, or raise ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return int(value)


def checked_number(name, value, allowed, is_allowed=math.isfinite):
    """Return a number for which `is_allowed` holds, or raise ValueError with `allowed` in words."""
    if getattr(value, "shape", None) == () and not isinstance(value, Real):
        with suppress(TypeError):  # that of a tensor without a value
            value = float(value)  # an array or a tensor of one number
    if not isinstance(value, Real) or isinstance(value, bool) or not is_allowed(value):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return value


def check_arguments_of_keras(optimizer):
    """Check what every optimizer of Keras takes, and Keras itself takes whatever it is."""
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        value = getattr(optimizer, name)
        if value is not None:
            allowed = "None or a number of at least 0"
            setattr(optimizer, name, checked_number(name, value, allowed, lambda x: x >= 0))
    if optimizer.weight_decay is not None and optimizer.weight_decay is not False:
        optimizer.weight_decay = checked_number(
            "weight_decay", optimizer.weight_decay, "None or a finite number"
        )
    if optimizer.loss_scale_factor is not None:
        allowed = "None or a finite number above 0"
        optimizer.loss_scale_factor = checked_number(
            "loss_scale_factor", optimizer.loss_scale_factor, allowed, lambda x: 0 < x < math.inf
        )
    if optimizer.use_ema in (None, 0, 1):  # Keras takes these too
        optimizer.use_ema = bool(optimizer.use_ema)
    checked_flag("use_ema", optimizer.use_ema)
    if optimizer.use_ema:
        allowed = "a number from 0 to 1"
        optimizer.ema_momentum = checked_number(
            "ema_momentum", optimizer.ema_momentum, allowed, lambda x: 0 <= x <= 1
        )
    steps = optimizer.gradient_accumulation_steps
    if steps is not None:
        optimizer.gradient_accumulation_steps = checked_integer(
            "gradient_accumulation_steps", steps, 2
        )
