"""The update rules: the state of each, its scalars, and what one step does to one variable.

Everything is written once for any array library: `xp` has the functions of `keras.ops`, which in
the engine `reference` are NumPy's (fastkeras/_arrays.py). Scalars that depend on the step come from
`coefficients`, in float64 if the library has it, whatever the dtype of the variables; kernels get
them computed. docs/optimizers.md has the formulas in their usual notation, with sources.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from fastkeras.optimizers import rounding
from fastkeras.optimizers.quantization import with_float_slots


def _of_the_parameter(slot, shape):
    return shape


class Rule(NamedTuple):
    """One row of the table below: all about a rule.

    Attributes:
        slots: the names of the arrays that it keeps for each variable.
        coefficients: function (xp, h, learning_rate, multiplier, t) of the hyperparameters `h` (a
            dict), the rate of all variables, the multiplier of one or of each, and the number of
            the update, from 1, of all or of each; returns a tuple.
        update: function (xp, p, g, slots, c); returns what is to be added to the parameter, and the
            new slots. Transforms of the gradient come before it.
        by_number: whether the coefficients depend on t.
        signs: if its slots may be of 8 or 16 bits, for each "s" if it has a sign, or else "u".
        stays: what does not change in a row without gradient: "", "parameter", or "everything".
        adapts: whether the length of its step is always that of its parameter times the rate.
        reads_parameter: whether the update depends on the parameter, so that its length, and the
            parameter after it, are not to be changed by anything else.
        starts: the slots whose first value is that of the parameter, which come first; all others
            start with zeros.
        scaling: by what of the whole variable the step is scaled, if it has a kernel: "", by
            "agreement" of signs, or "clipped" to a root mean square.
        takes_decay: whether its coefficients have the weight decay of a variable, which is then
            part of the step.
        has_kernel: whether it is in the list of csrc/optimizers/optimizers.h.
        shape_of_slot: function of a slot's name and the parameter's shape.
        in_blocks: the slots with one number for each block of the parameter, which have 1 in place
            of the lengths of some axes. `shape_of_slot` is the default.
    """

    slots: tuple
    coefficients: Callable
    update: Callable
    by_number: bool = False
    signs: str = ""
    stays: str = ""
    adapts: bool = False
    reads_parameter: bool = False
    starts: tuple = ()
    scaling: str = ""
    takes_decay: bool = False
    has_kernel: bool = True
    shape_of_slot: Callable = _of_the_parameter
    in_blocks: tuple = ()

    @property
    def element_wise(self) -> bool:
        """Whether each number depends only on its own gradient and slots."""
        return self.has_kernel and not self.scaling


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


def ademamix(xp, p, g, slots, c):
    of_fast, of_slow, rest_1, rest_2, rest_3, epsilon = c
    fast = slots[0] + (g - slots[0]) * rest_1
    slow = slots[1] + (g - slots[1]) * rest_3
    velocity = slots[2] + (g * g - slots[2]) * rest_2
    step = fast * of_fast + slow * of_slow
    return -step / (xp.sqrt(velocity) + epsilon), (fast, slow, velocity)


def schedule_free_sgd(xp, p, g, slots, c):
    rate, of_step, weight = c
    step = -g * rate
    return step * of_step + (slots[0] - p) * weight, (slots[0] + step,)


def schedule_free_adamw(xp, p, g, slots, c):
    rate, of_step, weight, rest_2, unbias_2, epsilon = c
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    step = -g * rate / (xp.sqrt(velocity * unbias_2) + epsilon)
    return step * of_step + (slots[0] - p) * weight, (slots[0] + step, velocity)


NOTHING = 1.2e-38  # what is smaller is denormal in float32, and 0 where threads flush it
SMALLEST_SHARE = 1e-3  # of the numbers of a variable, to which steps are scaled up


def cautious(xp, change, direction, g):
    """Keep a change where its direction agrees in sign with the gradient, scaled by their share.

    "Cautious Optimizers", Liang et al. 2024, https://arxiv.org/abs/2411.16085.
    """
    up = (direction > NOTHING) & (g > NOTHING)
    agrees = xp.cast(up | ((direction < -NOTHING) & (g < -NOTHING)), change.dtype)
    share = xp.mean(agrees)
    return change * agrees / xp.maximum(share, xp.ones_like(share) * SMALLEST_SHARE)


def cautious_adam(xp, p, g, slots, c):
    change, (momentum, velocity) = adam(xp, p, g, slots, c)
    return cautious(xp, change, momentum, g), (momentum, velocity)


def cautious_lion(xp, p, g, slots, c):
    _, beta_1, rest_1, _, _ = c
    change, slots_after = lion(xp, p, g, slots, c)
    return cautious(xp, change, slots[0] * beta_1 + g * rest_1, g), slots_after


def stable_adamw(xp, p, g, slots, c):
    rate, rest_1, rest_2, unbias_2, epsilon, decay = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    velocity = slots[1] + (g * g - slots[1]) * rest_2
    root = xp.sqrt(velocity * unbias_2)
    size = g / xp.maximum(root, xp.ones_like(root) * epsilon)
    mean = xp.mean(size * size)
    step = momentum * rate / (root + epsilon) + p * decay
    return -step / xp.sqrt(xp.maximum(mean, xp.ones_like(mean))), (momentum, velocity)


def adam_mini(xp, p, g, slots, c):
    rate, rest_1, rest_2, epsilon = c
    momentum = slots[0] + (g - slots[0]) * rest_1
    within = tuple(i for i, count in enumerate(slots[1].shape) if count != p.shape[i])
    square = xp.mean(g * g, axis=within, keepdims=True) if within else g * g
    velocity = slots[1] + (square - slots[1]) * rest_2
    return -momentum * rate / (xp.sqrt(velocity) + epsilon), (momentum, velocity)


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
    """1 − beta ** t, exact even if beta is so near to 1 that float32 loses most of its digits."""
    return -xp.expm1(t * math.log(beta)) if beta > 0 else xp.ones_like(t)


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


_PRODUCTS = np.cumprod(1 - 0.5 * 0.96 ** np.arange(1, 1024))  # constant after that


def product_of_nadam(xp, beta_1, t):
    """Return the product of Nadam's momentums β₁(1 − ½·0.96^i) of the steps i = 1 to t."""
    table = xp.cast(xp.convert_to_tensor(_PRODUCTS), t.dtype)
    place = xp.cast(xp.minimum(t, len(_PRODUCTS)) - 1, "int32")
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


def _of_ademamix(xp, h, learning_rate, multiplier, t):
    root = xp.sqrt(_bias(xp, h["beta_2"], t))  # moved from the denominator to the numerator
    rate = learning_rate * multiplier * root
    alpha = h["alpha"] * xp.ones_like(t)
    if h["alpha_warmup"] > 0:
        alpha = alpha * xp.minimum(t / h["alpha_warmup"], xp.ones_like(t))
    rest_3 = (1 - h["beta_3"]) * xp.ones_like(t)
    if h["beta_3_warmup"] > 0 and h["beta_3"] > h["beta_1"]:
        share = xp.minimum(t / h["beta_3_warmup"], xp.ones_like(t))
        # the time after which half of a gradient is left grows linearly; it is 0 for a beta of 0
        first = 1 / math.log(h["beta_1"]) if h["beta_1"] > 0 else 0.0
        beta_log = 1 / (first + (1 / math.log(h["beta_3"]) - first) * share)
        rest_3 = xp.maximum(-xp.expm1(beta_log), rest_3)
    of_fast = rate / _bias(xp, h["beta_1"], t)
    rests = 1 - h["beta_1"], 1 - h["beta_2"], rest_3
    return of_fast, rate * alpha, *rests, h["epsilon"] * root


def _warmed_up(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier
    if h["warmup_steps"] > 0:
        rate = rate * xp.minimum(t / h["warmup_steps"], xp.ones_like(t))
    return rate


def _of_schedule_free_sgd(xp, h, learning_rate, multiplier, t):
    rate = _warmed_up(xp, h, learning_rate, multiplier, t)
    return rate, 1 - h["momentum"] * (1 - 1 / t), 1 / t


def _of_schedule_free_adamw(xp, h, learning_rate, multiplier, t):
    rate = _warmed_up(xp, h, learning_rate, multiplier, t)
    of_step, weight = 1 - h["beta_1"] * (1 - 1 / t), 1 / t
    unbias_2 = 1 / _bias(xp, h["beta_2"], t)
    return rate, of_step, weight, 1 - h["beta_2"], unbias_2, h["epsilon"]


def _of_stable_adamw(xp, h, learning_rate, multiplier, t):
    unbias_2, rate = 1 / _bias(xp, h["beta_2"], t), learning_rate * multiplier
    of_momentum = rate / _bias(xp, h["beta_1"], t)
    decay = rate * h.get("weight_decay", 0.0)  # of each variable, from step.py
    return of_momentum, 1 - h["beta_1"], 1 - h["beta_2"], unbias_2, h["epsilon"], decay


def _of_adafactor(xp, h, learning_rate, multiplier, t):
    bounded = xp.minimum(learning_rate, xp.exp(-0.5 * xp.log(t)))
    beta_2 = -xp.expm1(h["beta_2_decay"] * xp.log(t))
    return multiplier, bounded, beta_2, h["epsilon_1"], h["epsilon_2"], h["clip_threshold"]


def _of_adam_mini_slot(slot, shape):
    if slot == "momentum" or not shape:
        return shape
    last = shape[-1] if len(shape) > 1 else 1
    return (1,) * (len(shape) - 1) + (last,)  # a block for each unit, one for a vector


def _of_adafactor_slot(slot, shape):
    if slot == "velocity":
        return shape
    if len(shape) < 2:
        return ()
    return shape[:-1] if slot == "row" else (*shape[:-2], shape[-1])


_MOMENTS = ("momentum", "velocity")

RULES = {
    "sgd": Rule((), _of_sgd, sgd, stays="everything"),
    "momentum": Rule(("momentum",), _of_momentum, momentum, signs="s"),
    "nesterov": Rule(("momentum",), _of_momentum, nesterov, signs="s"),
    "adam": Rule(_MOMENTS, _of_adam, adam, by_number=True, signs="su"),
    "amsgrad": Rule((*_MOMENTS, "velocity_hat"), _of_adam, amsgrad, by_number=True),
    "nadam": Rule(_MOMENTS, _of_nadam, nadam, by_number=True, signs="su"),
    "lion": Rule(("momentum",), _of_lion, lion, signs="s"),
    "rmsprop": Rule(("velocity",), _of_rmsprop, rmsprop, stays="parameter", signs="u"),
    "rmsprop_momentum": Rule(
        ("velocity", "momentum"), _of_rmsprop_momentum, rmsprop_momentum, signs="us"
    ),
    "centered_rmsprop": Rule(
        ("velocity", "average_gradient"), _of_rmsprop, centered_rmsprop, stays="parameter"
    ),
    "centered_rmsprop_momentum": Rule(
        ("velocity", "momentum", "average_gradient"),
        _of_rmsprop_momentum,
        centered_rmsprop_momentum,
    ),
    "adagrad": Rule(("accumulator",), _of_adagrad, adagrad, stays="everything"),
    "lamb": Rule(_MOMENTS, _of_lamb, lamb, by_number=True, adapts=True, signs="su"),
    "ademamix": Rule(
        ("momentum", "slow_momentum", "velocity"),
        _of_ademamix,
        ademamix,
        by_number=True,
        signs="ssu",
    ),
    "schedule_free_sgd": Rule(
        ("momentum",),
        _of_schedule_free_sgd,
        schedule_free_sgd,
        by_number=True,
        reads_parameter=True,
        starts=("momentum",),
    ),
    "schedule_free_adamw": Rule(
        _MOMENTS,
        _of_schedule_free_adamw,
        schedule_free_adamw,
        by_number=True,
        reads_parameter=True,
        starts=("momentum",),
    ),
    "cautious_adam": Rule(
        _MOMENTS, _of_adam, cautious_adam, by_number=True, signs="su", scaling="agreement"
    ),
    "cautious_lion": Rule(("momentum",), _of_lion, cautious_lion, signs="s", scaling="agreement"),
    "stable_adamw": Rule(
        _MOMENTS,
        _of_stable_adamw,
        stable_adamw,
        by_number=True,
        signs="su",
        scaling="clipped",
        takes_decay=True,
    ),
    "adam_mini": Rule(
        _MOMENTS,
        _of_adam,
        adam_mini,
        by_number=True,
        has_kernel=False,
        shape_of_slot=_of_adam_mini_slot,
        in_blocks=("velocity",),
    ),
    "adafactor": Rule(
        ("row", "column", "velocity"),
        _of_adafactor,
        adafactor,
        by_number=True,
        stays="parameter",
        has_kernel=False,
        shape_of_slot=_of_adafactor_slot,
    ),
}


def is_quantized(rule, slots):
    """Tell whether slots are given as codes and scales, in turn (quantization.py)."""
    return len(slots) > len(RULES[rule].slots)


def are_halves(rule, slots):
    """Tell whether slots are given as bfloat16, which are rounded at random (rounding.py)."""
    is_one_each = RULES[rule].signs and not is_quantized(rule, slots)
    return bool(is_one_each) and "bfloat16" in str(slots[0].dtype)


def updater(rule, slots, adapted=False, rate=None, seed=None, elements=None):
    """Return the function that updates a variable with such slots, rounded by this seed.

    `elements` are the places of its numbers, if only some rows of the variable are given.
    """
    update, signs = RULES[rule].update, RULES[rule].signs
    if is_quantized(rule, slots):
        update = partial(with_float_slots, update=update, signs=signs, seed=seed)
    elif are_halves(rule, slots):
        halves = {"seed": seed, "elements": elements}
        update = partial(rounding.with_wide_slots, update=update, **halves)
    return partial(by_trust_ratio, update=update, rate=rate) if adapted else update


def by_trust_ratio(xp, p, g, slots, c, update, rate):
    """Scale the step to the length of the parameter, times the rate.

    "LARS", You et al. 2017, https://arxiv.org/abs/1708.03888; with Adam it is "LAMB",
    https://arxiv.org/abs/1904.00962.
    """
    change, slots = update(xp, p, g, slots, c)
    of_parameter, of_change = (xp.sqrt(xp.sum(x * x)) for x in (p, change))
    nothing = (of_parameter == 0) | (of_change == 0)
    one = xp.ones_like(of_change)
    ratio = xp.where(nothing, one, of_parameter * rate / xp.where(nothing, one, of_change))
    return change * ratio, slots
