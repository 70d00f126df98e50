"""Each rule against its formula in docs/optimizers.md, written a second time.

A rule is an entry of FORMULAS: a function of t, from 1, the parameter p, the gradient g, and the
state `s`, by name, at first zeros; it returns the new p. The other tests of the optimizers use the
table of fastkeras/optimizers/rules, and so include a new rule by themselves.
"""

import numpy as np
import pytest

from fastkeras.optimizers import update
from fastkeras.optimizers.rules import RULES

RATE, MU, RHO, BETA_1, BETA_2, EPSILON = 0.1, 0.8, 0.7, 0.85, 0.98, 1e-3
DECAY = 0.3  # of the rules of which it is part of the step
BETA_3, ALPHA, BETA_3_WARMUP, ALPHA_WARMUP, WARMUP = 0.95, 4.0, 4, 3, 2


def sgd(t, p, g, s):
    return p - RATE * g


def momentum(t, p, g, s):
    s["momentum"] = MU * s["momentum"] - RATE * g
    return p + s["momentum"]


def nesterov(t, p, g, s):
    s["momentum"] = MU * s["momentum"] - RATE * g
    return p + MU * s["momentum"] - RATE * g


def moments(g, s):
    s["momentum"] = BETA_1 * s["momentum"] + (1 - BETA_1) * g
    s["velocity"] = BETA_2 * s["velocity"] + (1 - BETA_2) * g**2
    return s["momentum"], s["velocity"]


def adam(t, p, g, s):
    m, v = moments(g, s)
    rate = RATE * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    return p - rate * m / (np.sqrt(v) + EPSILON)


def amsgrad(t, p, g, s):
    m, v = moments(g, s)
    s["velocity_hat"] = np.maximum(s["velocity_hat"], v)
    rate = RATE * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    return p - rate * m / (np.sqrt(s["velocity_hat"]) + EPSILON)


def u(i):
    return BETA_1 * (1 - 0.5 * 0.96**i)


def product(t):
    return np.prod([u(i) for i in range(1, t + 1)])


def nadam(t, p, g, s):
    m, v = moments(g, s)
    of_m = u(t + 1) * m / (1 - product(t + 1))
    of_g = (1 - u(t)) * g / (1 - product(t))
    return p - RATE * (of_m + of_g) / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)


def lion(t, p, g, s):
    direction = np.sign(BETA_1 * s["momentum"] + (1 - BETA_1) * g)
    s["momentum"] = BETA_2 * s["momentum"] + (1 - BETA_2) * g
    return p - RATE * direction


def rmsprop(t, p, g, s):
    s["velocity"] = RHO * s["velocity"] + (1 - RHO) * g**2
    return p - RATE * g / np.sqrt(s["velocity"] + EPSILON)


def centered(g, s):
    s["velocity"] = RHO * s["velocity"] + (1 - RHO) * g**2
    s["average_gradient"] = RHO * s["average_gradient"] + (1 - RHO) * g
    return s["velocity"] - s["average_gradient"] ** 2


def rmsprop_momentum(t, p, g, s):
    s["velocity"] = RHO * s["velocity"] + (1 - RHO) * g**2
    s["momentum"] = MU * s["momentum"] + RATE * g / np.sqrt(s["velocity"] + EPSILON)
    return p - s["momentum"]


def centered_rmsprop(t, p, g, s):
    return p - RATE * g / np.sqrt(centered(g, s) + EPSILON)


def centered_rmsprop_momentum(t, p, g, s):
    s["momentum"] = MU * s["momentum"] + RATE * g / np.sqrt(centered(g, s) + EPSILON)
    return p - s["momentum"]


def adagrad(t, p, g, s):
    s["accumulator"] = s["accumulator"] + g**2
    return p - RATE * g / np.sqrt(s["accumulator"] + EPSILON)


def lamb(t, p, g, s):
    m, v = moments(g, s)
    d = m / (1 - BETA_1**t) / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)
    return p - RATE * np.linalg.norm(p) / np.linalg.norm(d) * d


def ademamix(t, p, g, s):
    m, v = moments(g, s)
    share = min(t / BETA_3_WARMUP, 1)
    first, last = np.log(BETA_1), np.log(BETA_3)
    beta_3 = min(np.exp(first * last / ((1 - share) * last + share * first)), BETA_3)
    s["slow_momentum"] = beta_3 * s["slow_momentum"] + (1 - beta_3) * g
    alpha = min(t * ALPHA / ALPHA_WARMUP, ALPHA)
    step = m / (1 - BETA_1**t) + alpha * s["slow_momentum"]
    return p - RATE * step / (np.sqrt(v / (1 - BETA_2**t)) + EPSILON)


def free_of_a_schedule(t, y, step, share, s):
    """With x, the average, and z, the last step, kept apart; y is where gradients are computed."""
    z = s["momentum"]
    x = (y - (1 - share) * z) / share
    z = z - RATE * min(t / WARMUP, 1) * step
    x = (1 - 1 / t) * x + z / t
    s["momentum"] = z
    return (1 - share) * z + share * x


def schedule_free_sgd(t, p, g, s):
    return free_of_a_schedule(t, p, g, MU, s)


def schedule_free_adamw(t, p, g, s):
    s["velocity"] = BETA_2 * s["velocity"] + (1 - BETA_2) * g**2
    step = g / (np.sqrt(s["velocity"] / (1 - BETA_2**t)) + EPSILON)
    return free_of_a_schedule(t, p, step, BETA_1, s)


def cautious(change, direction, g):
    agrees = direction * g > 0
    return change * agrees / max(agrees.mean(), 1e-3)


def cautious_adam(t, p, g, s):
    change = adam(t, p, g, s) - p
    return p + cautious(change, s["momentum"], g)


def cautious_lion(t, p, g, s):
    direction = BETA_1 * s["momentum"] + (1 - BETA_1) * g
    return p + cautious(lion(t, p, g, s) - p, direction, g)


def stable_adamw(t, p, g, s):
    m, v = moments(g, s)
    m, v = m / (1 - BETA_1**t), v / (1 - BETA_2**t)
    rms = np.sqrt(np.mean(g**2 / np.maximum(v, EPSILON**2)))
    return p - RATE / max(1.0, rms) * (m / (np.sqrt(v) + EPSILON) + DECAY * p)


def adam_mini(t, p, g, s):
    s["momentum"] = BETA_1 * s["momentum"] + (1 - BETA_1) * g
    s["velocity"] = BETA_2 * s["velocity"] + (1 - BETA_2) * (g**2).mean(0, keepdims=True)
    rate = RATE * np.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
    return p - rate * s["momentum"] / (np.sqrt(s["velocity"]) + EPSILON)


def adafactor(t, p, g, s):
    beta, squares = 1 - t**-0.8, g**2 + 1e-30
    s["row"] = beta * s["row"] + (1 - beta) * squares.mean(1)
    s["column"] = beta * s["column"] + (1 - beta) * squares.mean(0)
    s["velocity"] = np.outer(s["row"] / s["row"].mean(), s["column"])
    d = g / np.sqrt(s["velocity"])
    d = d / max(1.0, np.sqrt(np.mean(d**2)))
    return p - max(1e-3, np.sqrt(np.mean(p**2))) * min(RATE, t**-0.5) * d


FORMULAS = [
    sgd, momentum, nesterov, adam, amsgrad, nadam, lion, rmsprop, rmsprop_momentum,
    centered_rmsprop, centered_rmsprop_momentum, adagrad, lamb, ademamix, schedule_free_sgd,
    schedule_free_adamw, cautious_adam, cautious_lion, stable_adamw, adam_mini,
    adafactor,
]  # fmt: skip


def test_every_rule_has_its_formula_here():
    assert [formula.__name__ for formula in FORMULAS] == list(RULES)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_a_rule_is_its_formula(formula, rng):
    rule, row = formula.__name__, RULES[formula.__name__]
    start = rng.standard_normal((5, 3))
    shapes = {name: row.shape_of_slot(name, start.shape) for name in row.slots}
    kept = {name: np.zeros(shape) for name, shape in shapes.items()}
    expected, parameter = start, start.copy()
    slots = tuple(np.zeros(shape) for shape in shapes.values())
    settings = {"momentum": MU, "rho": RHO, "beta_1": BETA_1, "beta_2": BETA_2, "epsilon": EPSILON}
    settings |= {"beta_3": BETA_3, "alpha": ALPHA, "warmup_steps": WARMUP}
    settings |= {"beta_3_warmup": BETA_3_WARMUP, "alpha_warmup": ALPHA_WARMUP}
    settings |= {"weight_decays": [DECAY]} if row.takes_decay else {}
    for t in range(1, 6):
        gradient = rng.standard_normal(start.shape) * t  # so that steps are clipped
        more = {"u_product": product(t)} if rule == "nadam" else {}
        settings |= {"learning_rate": RATE, "step": t, "engine": "reference"}
        assert update(rule, [parameter], [gradient], [slots], **settings, **more)
        expected = formula(t, expected, gradient, kept)
        np.testing.assert_allclose(parameter, expected, rtol=1e-10, atol=1e-12)
        for slot, name in zip(slots, row.slots, strict=True):
            np.testing.assert_allclose(slot, kept[name], rtol=1e-10, atol=1e-12)
