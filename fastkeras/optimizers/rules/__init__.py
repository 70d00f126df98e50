"""The update rules: the state of each, its scalars, and what one step does to one variable.

Everything is written once for any array library: `xp` has the functions of `keras.ops`, which in
the engine `reference` are NumPy's (fastkeras/_arrays.py). A rule is a row of the table below, an
update, and its coefficients.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from fastkeras.optimizers import rounding
from fastkeras.optimizers.quantization import with_float_slots
from fastkeras.optimizers.rules import coefficients, updates


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
        signs: of the slots that may be of 8 or 16 bits, which come first: for each "s" if it has a
            sign, or else "u". If the rule has a kernel, these are all or none.
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
    "sgd": Rule((), coefficients.of_sgd, updates.sgd, stays="everything"),
    "momentum": Rule(("momentum",), coefficients.of_momentum, updates.momentum, signs="s"),
    "nesterov": Rule(("momentum",), coefficients.of_momentum, updates.nesterov, signs="s"),
    "adam": Rule(_MOMENTS, coefficients.of_adam, updates.adam, by_number=True, signs="su"),
    "amsgrad": Rule(
        (*_MOMENTS, "velocity_hat"), coefficients.of_adam, updates.amsgrad, by_number=True
    ),
    "nadam": Rule(_MOMENTS, coefficients.of_nadam, updates.nadam, by_number=True, signs="su"),
    "lion": Rule(("momentum",), coefficients.of_lion, updates.lion, signs="s"),
    "rmsprop": Rule(
        ("velocity",), coefficients.of_rmsprop, updates.rmsprop, stays="parameter", signs="u"
    ),
    "rmsprop_momentum": Rule(
        ("velocity", "momentum"),
        coefficients.of_rmsprop_momentum,
        updates.rmsprop_momentum,
        signs="us",
    ),
    "centered_rmsprop": Rule(
        ("velocity", "average_gradient"),
        coefficients.of_rmsprop,
        updates.centered_rmsprop,
        stays="parameter",
    ),
    "centered_rmsprop_momentum": Rule(
        ("velocity", "momentum", "average_gradient"),
        coefficients.of_rmsprop_momentum,
        updates.centered_rmsprop_momentum,
    ),
    "adagrad": Rule(("accumulator",), coefficients.of_adagrad, updates.adagrad, stays="everything"),
    "lamb": Rule(
        _MOMENTS, coefficients.of_lamb, updates.lamb, by_number=True, adapts=True, signs="su"
    ),
    "ademamix": Rule(
        ("momentum", "slow_momentum", "velocity"),
        coefficients.of_ademamix,
        updates.ademamix,
        by_number=True,
        signs="ssu",
    ),
    "schedule_free_sgd": Rule(
        ("momentum",),
        coefficients.of_schedule_free_sgd,
        updates.schedule_free_sgd,
        by_number=True,
        reads_parameter=True,
        starts=("momentum",),
    ),
    "schedule_free_adamw": Rule(
        _MOMENTS,
        coefficients.of_schedule_free_adamw,
        updates.schedule_free_adamw,
        by_number=True,
        reads_parameter=True,
        starts=("momentum",),
    ),
    "cautious_adam": Rule(
        _MOMENTS,
        coefficients.of_adam,
        updates.cautious_adam,
        by_number=True,
        signs="su",
        scaling="agreement",
    ),
    "cautious_lion": Rule(
        ("momentum",), coefficients.of_lion, updates.cautious_lion, signs="s", scaling="agreement"
    ),
    "stable_adamw": Rule(
        _MOMENTS,
        coefficients.of_stable_adamw,
        updates.stable_adamw,
        by_number=True,
        signs="su",
        scaling="clipped",
        takes_decay=True,
    ),
    "adam_mini": Rule(
        _MOMENTS,
        coefficients.of_adam,
        updates.adam_mini,
        by_number=True,
        signs="s",
        has_kernel=False,
        shape_of_slot=_of_adam_mini_slot,
        in_blocks=("velocity",),
    ),
    "adafactor": Rule(
        ("row", "column", "velocity"),
        coefficients.of_adafactor,
        updates.adafactor,
        by_number=True,
        stays="parameter",
        has_kernel=False,
        shape_of_slot=_of_adafactor_slot,
    ),
}


def check_moment_bits(rule, bits):
    """Raise a ValueError if the moments of a rule cannot be of so many bits."""
    if bits not in (8, 16, 32):
        raise ValueError(f"moment_bits must be 8, 16 or 32, got {bits!r}")
    if not can_be_of(rule, bits):
        those = ", ".join(name for name in RULES if can_be_of(name, bits))
        raise ValueError(f"moment_bits={bits} is for the rules {those}, not {rule}")


def can_be_of(rule, bits):
    """Tell whether the moments of a rule can be of so many bits."""
    return bits == 32 or bool(RULES[rule].signs)


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
        halves = {"seed": seed, "elements": elements, "count": len(signs)}
        update = partial(rounding.with_wide_slots, update=update, **halves)
    return partial(updates.by_trust_ratio, update=update, rate=rate) if adapted else update
