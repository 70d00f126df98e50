"""The numbers that the rules take: their defaults, and the values allowed."""

import math

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


def check_hyperparameter(name, value):
    """Raise ValueError if a value is not allowed."""
    words, is_allowed = ALLOWED.get(name, ("at least 0", lambda x: 0 <= x < math.inf))
    try:
        fits = is_allowed(float(value))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a number {words}, got {value!r}")


def checked_flag(name, value):
    """Return True or False; raise ValueError for anything else, as "no", which counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)
