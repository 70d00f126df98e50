"""The update rules: what each keeps, its scalars, and what one step does to one variable.

Everything is written once for any array library: `xp` is NumPy in the engine `reference` and
`keras.ops` in the engine `keras`. Scalars that depend on the step come from `coefficients`, in
float64 where the library has it, whatever the dtype of the variables; a kernel gets them ready.
docs/optimizers.md has the formulas in their usual notation, with sources.
"""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from fastkeras.optimizers.quantization import with_float_slots

DEFAULTS = {
    "momentum": 0.9,
    "rho": 0.9,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-7,
    "beta_2_decay": -0.8,
    "epsilon_1": 1e-30,
    "epsilon_2": 1e-3,
    "clip_threshold": 1.0,
}


class Rule(NamedTuple):
    """One row of the table below.

    `coefficients(xp, h, learning_rate, multiplier, t)` takes the hyperparameters `h` (a dict), the
    rate of all variables, the multiplier of one or of each, and the number of the step, from 1.
    `update(xp, p, g, slots, c)` returns what is added to the parameter and the new slots; only
    Adafactor looks at `p`. Transforms of the gradient come before it.
    """

    slots: tuple
    coefficients: callable
    update: callable


ALLOWED = {  # of a hyperparameter, in words; what is not named here is at least 0
    "momentum": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "rho": ("from 0 to 1", lambda x: 0 <= x <= 1),
    "beta_1": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "beta_2": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "u_product": ("from 0 to below 1", lambda x: 0 <= x < 1),
    "beta_2_decay": ("at most 0", lambda x: -math.inf < x <= 0),
    "clip_threshold": ("above 0", lambda x: 0 < x < math.inf),
}


def check_hyperparameter(name, value):
    """Raise ValueError if no rule can do with this value."""
    words, is_allowed = ALLOWED.get(name, ("at least 0", lambda x: 0 <= x < math.inf))
    try:
        fits = is_allowed(float(value))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{name} must be a number {words}, got {value!r}")


def sgd(xp, p, g, slots, c):
    (rate,) = c
    return -g * rate, ()


def momentum(xp, p, g, slots, c):
    rate, mu = c
    momentum = slots[0] * mu - g * rate
    return momentum, (momentum,)


def nesterov(xp, p, g, slots, c):
    rate, mu = c
    momentum = slots[0] * mu - g * rate
    return momentum * mu - g * rate, (momentum,)


def adam(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    return -momentum * rate / (xp.sqrt(velocity) + epsilon), (momentum, velocity)


def amsgrad(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    largest = xp.maximum(slots[2], velocity)
    return -momentum * rate / (xp.sqrt(largest) + epsilon), (momentum, velocity, largest)


def nadam(xp, p, g, slots, c):
    of_momentum, of_gradient, rest_1, rest_2, unbias_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    step = momentum * of_momentum + g * of_gradient
    return -step / (xp.sqrt(velocity * unbias_2) + epsilon), (momentum, velocity)


def lion(xp, p, g, slots, c):
    rate, beta_1, rest_1, beta_2, rest_2 = c
    direction = xp.sign(slots[0] * beta_1 + g * rest_1)
    return -direction * rate, (slots[0] * beta_2 + g * rest_2,)


def rmsprop(xp, p, g, slots, c):
    rate, rho, rest, epsilon = c
    velocity = slots[0] * rho + g * g * rest
    return -g * rate / xp.sqrt(velocity + epsilon), (velocity,)


def rmsprop_momentum(xp, p, g, slots, c):
    rate, rho, rest, epsilon, mu = c
    velocity = slots[0] * rho + g * g * rest
    momentum = slots[1] * mu + g * rate / xp.sqrt(velocity + epsilon)
    return -momentum, (velocity, momentum)


def centered_rmsprop(xp, p, g, slots, c):
    rate, rho, rest, epsilon = c
    velocity = slots[0] * rho + g * g * rest
    average = slots[1] * rho + g * rest
    return -g * rate / xp.sqrt(velocity - average * average + epsilon), (velocity, average)


def centered_rmsprop_momentum(xp, p, g, slots, c):
    rate, rho, rest, epsilon, mu = c
    velocity = slots[0] * rho + g * g * rest
    average = slots[2] * rho + g * rest
    spread = xp.sqrt(velocity - average * average + epsilon)
    momentum = slots[1] * mu + g * rate / spread
    return -momentum, (velocity, momentum, average)


def adagrad(xp, p, g, slots, c):
    rate, epsilon = c
    accumulator = slots[0] + g * g
    return -g * rate / xp.sqrt(accumulator + epsilon), (accumulator,)


def lamb(xp, p, g, slots, c):
    rate, rest_1, rest_2, unbias_1, unbias_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    direction = momentum * unbias_1 / (xp.sqrt(velocity * unbias_2) + epsilon)
    return -direction * rate, (momentum, velocity)


def adafactor(xp, p, g, slots, c):
    multiplier, rho, beta_2, epsilon_1, epsilon_2, threshold = c
    row, column, velocity = slots
    square = g * g + epsilon_1
    if len(p.shape) >= 2:  # the last two axes are factored
        row = row * beta_2 + xp.mean(square, axis=-1) * (1 - beta_2)
        column = column * beta_2 + xp.mean(square, axis=-2) * (1 - beta_2)
        share = row / xp.mean(row, axis=-1, keepdims=True)
        velocity = xp.expand_dims(share, -1) * xp.expand_dims(column, -2)
    else:
        velocity = velocity * beta_2 + square * (1 - beta_2)
    update = g / xp.sqrt(velocity)
    one = xp.ones_like(xp.mean(update))
    update = update / xp.maximum(one, xp.sqrt(xp.mean(update * update)) / threshold)
    size = xp.maximum(one * epsilon_2, xp.sqrt(xp.mean(p * p)))
    return -update * (size * rho * multiplier), (row, column, velocity)


def _bias(xp, beta, t):
    """1 − beta ** t, also where beta is so near to 1 that float32 would lose most digits of it."""
    return -xp.expm1(t * math.log(beta)) if beta > 0 else 1.0


def _of_sgd(xp, h, learning_rate, multiplier, t):
    return (learning_rate * multiplier,)


def _of_momentum(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["momentum"]


def _of_adam(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier * xp.sqrt(_bias(xp, h["beta_2"], t))
    rate = rate / _bias(xp, h["beta_1"], t)
    return rate, 1 - h["beta_1"], 1 - h["beta_2"], h["epsilon"]


def _of_nadam(xp, h, learning_rate, multiplier, t):
    rate, product = learning_rate * multiplier, h["u_product"]
    now, then = (h["beta_1"] * (1 - 0.5 * xp.exp((t + i) * math.log(0.96))) for i in (0, 1))
    of_momentum = rate * then / (1 - product * then)
    of_gradient = rate * (1 - now) / (1 - product)
    unbias_2 = 1 / _bias(xp, h["beta_2"], t)
    return of_momentum, of_gradient, 1 - h["beta_1"], 1 - h["beta_2"], unbias_2, h["epsilon"]


_PRODUCTS = np.cumprod(1 - 0.5 * 0.96 ** np.arange(1, 1024))  # from here on all are the same


def product_of_nadam(xp, beta_1, t):
    """Return the product of Nadam's momentums β₁(1 − ½·0.96^i) of the steps 1 to t, from 1."""
    table = _PRODUCTS if xp is np else xp.cast(xp.convert_to_tensor(_PRODUCTS), t.dtype)
    place = xp.minimum(t, len(_PRODUCTS)) - 1
    place = place.astype("int64") if xp is np else xp.cast(place, "int32")
    power = xp.exp(t * math.log(beta_1)) if beta_1 > 0 else xp.zeros_like(t)
    return power * xp.take(table, place)


def _of_lion(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier
    return rate, h["beta_1"], 1 - h["beta_1"], h["beta_2"], 1 - h["beta_2"]


def _of_rmsprop(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["rho"], 1 - h["rho"], h["epsilon"]


def _of_rmsprop_momentum(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["rho"], 1 - h["rho"], h["epsilon"], h["momentum"]


def _of_adagrad(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["epsilon"]


def _of_lamb(xp, h, learning_rate, multiplier, t):
    unbias_1, unbias_2 = 1 / _bias(xp, h["beta_1"], t), 1 / _bias(xp, h["beta_2"], t)
    rate = learning_rate * multiplier
    return rate, 1 - h["beta_1"], 1 - h["beta_2"], unbias_1, unbias_2, h["epsilon"]


def _of_adafactor(xp, h, learning_rate, multiplier, t):
    bounded = xp.minimum(learning_rate, xp.exp(-0.5 * xp.log(t)))
    beta_2 = -xp.expm1(h["beta_2_decay"] * xp.log(t))
    return multiplier, bounded, beta_2, h["epsilon_1"], h["epsilon_2"], h["clip_threshold"]


_MOMENTS = ("momentum", "velocity")

RULES = {  # by the names in csrc/optimizers/optimizers.h, which has no Adafactor
    "sgd": Rule((), _of_sgd, sgd),
    "momentum": Rule(("momentum",), _of_momentum, momentum),
    "nesterov": Rule(("momentum",), _of_momentum, nesterov),
    "adam": Rule(_MOMENTS, _of_adam, adam),
    "amsgrad": Rule((*_MOMENTS, "velocity_hat"), _of_adam, amsgrad),
    "nadam": Rule(_MOMENTS, _of_nadam, nadam),
    "lion": Rule(("momentum",), _of_lion, lion),
    "rmsprop": Rule(("velocity",), _of_rmsprop, rmsprop),
    "rmsprop_momentum": Rule(("velocity", "momentum"), _of_rmsprop_momentum, rmsprop_momentum),
    "centered_rmsprop": Rule(("velocity", "average_gradient"), _of_rmsprop, centered_rmsprop),
    "centered_rmsprop_momentum": Rule(
        ("velocity", "momentum", "average_gradient"),
        _of_rmsprop_momentum,
        centered_rmsprop_momentum,
    ),
    "adagrad": Rule(("accumulator",), _of_adagrad, adagrad),
    "lamb": Rule(_MOMENTS, _of_lamb, lamb),
    "adafactor": Rule(("row", "column", "velocity"), _of_adafactor, adafactor),
}

NATIVE = tuple(rule for rule in RULES if rule != "adafactor")  # have a kernel
BY_NUMBER = ("adam", "amsgrad", "nadam", "lamb", "adafactor")  # go by the number of the step
ADAPTED = ("lamb",)  # always by the trust ratio
KNOWS_THE_PARAMETER = ("adafactor",)  # scales by its size already
QUANTIZABLE = ("momentum", "nesterov", "adam", "lion")  # `CanQuantize` in csrc/optimizers/step.cc


def is_quantized(rule, slots):
    """Tell whether slots are codes and scales in turn (quantization.py)."""
    return len(slots) > len(RULES[rule].slots)


def updater(rule, slots, adapted=False, rate=None):
    """Return what updates a variable that has these slots."""
    update = RULES[rule].update
    if is_quantized(rule, slots):
        update = partial(with_float_slots, update=update)
    return partial(by_trust_ratio, update=update, rate=rate) if adapted else update


def by_trust_ratio(xp, p, g, slots, c, update, rate):
    """Let the length of the step be that of the parameter, times the rate.

    "LARS", You et al. 2017, https://arxiv.org/abs/1708.03888; with Adam it is "LAMB",
    https://arxiv.org/abs/1904.00962.
    """
    change, slots = update(xp, p, g, slots, c)
    of_parameter, of_change = (xp.sqrt(xp.sum(x * x)) for x in (p, change))
    nothing = (of_parameter == 0) | (of_change == 0)
    one = xp.ones_like(of_change)
    ratio = xp.where(nothing, one, of_parameter * rate / xp.where(nothing, one, of_change))
    return change * ratio, slots
