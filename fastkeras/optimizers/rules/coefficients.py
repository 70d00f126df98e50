"""The scalars of a step of each rule: functions (xp, h, learning_rate, multiplier, t).

They are in float64 if the library has it, whatever the dtype of the variables; kernels get them
computed.
"""

import math

import numpy as np


def _bias(xp, beta, t):
    """1 − beta ** t, exact even if beta is so near to 1 that float32 loses most of its digits."""
    return -xp.expm1(t * math.log(beta)) if beta > 0 else xp.ones_like(t)


def of_sgd(xp, h, learning_rate, multiplier, t):
    return (learning_rate * multiplier,)


def of_momentum(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["momentum"]


def of_adam(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier * xp.sqrt(_bias(xp, h["beta_2"], t))
    rate = rate / _bias(xp, h["beta_1"], t)
    return rate, 1 - h["beta_1"], 1 - h["beta_2"], h["epsilon"]


def of_nadam(xp, h, learning_rate, multiplier, t):
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


def of_lion(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier
    return rate, h["beta_1"], 1 - h["beta_1"], h["beta_2"], 1 - h["beta_2"]


def of_rmsprop(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["rho"], 1 - h["rho"], h["epsilon"]


def of_rmsprop_momentum(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["rho"], 1 - h["rho"], h["epsilon"], h["momentum"]


def of_adagrad(xp, h, learning_rate, multiplier, t):
    return learning_rate * multiplier, h["epsilon"]


def of_lamb(xp, h, learning_rate, multiplier, t):
    unbias_1, unbias_2 = 1 / _bias(xp, h["beta_1"], t), 1 / _bias(xp, h["beta_2"], t)
    rate = learning_rate * multiplier
    return rate, 1 - h["beta_1"], 1 - h["beta_2"], unbias_1, unbias_2, h["epsilon"]


def of_ademamix(xp, h, learning_rate, multiplier, t):
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


def warmed_up(xp, h, learning_rate, multiplier, t):
    rate = learning_rate * multiplier
    if h["warmup_steps"] > 0:
        rate = rate * xp.minimum(t / h["warmup_steps"], xp.ones_like(t))
    return rate


def of_schedule_free_sgd(xp, h, learning_rate, multiplier, t):
    rate = warmed_up(xp, h, learning_rate, multiplier, t)
    return rate, 1 - h["momentum"] * (1 - 1 / t), 1 / t


def of_schedule_free_adamw(xp, h, learning_rate, multiplier, t):
    rate = warmed_up(xp, h, learning_rate, multiplier, t)
    of_step, weight = 1 - h["beta_1"] * (1 - 1 / t), 1 / t
    unbias_2 = 1 / _bias(xp, h["beta_2"], t)
    return rate, of_step, weight, 1 - h["beta_2"], unbias_2, h["epsilon"]


def of_stable_adamw(xp, h, learning_rate, multiplier, t):
    unbias_2, rate = 1 / _bias(xp, h["beta_2"], t), learning_rate * multiplier
    of_momentum = rate / _bias(xp, h["beta_1"], t)
    decay = rate * h.get("weight_decay", 0.0)  # of each variable, from step.py
    return of_momentum, 1 - h["beta_1"], 1 - h["beta_2"], unbias_2, h["epsilon"], decay


def of_adafactor(xp, h, learning_rate, multiplier, t):
    bounded = xp.minimum(learning_rate, xp.exp(-0.5 * xp.log(t)))
    beta_2 = -xp.expm1(h["beta_2_decay"] * xp.log(t))
    return multiplier, bounded, beta_2, h["epsilon_1"], h["epsilon_2"], h["clip_threshold"]
