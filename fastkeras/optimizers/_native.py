"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core
from fastkeras.optimizers.rules import NUMBERS
from fastkeras.optimizers.transforming import encode


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    finite = _core.optimizer_step(
        NUMBERS[rule],
        parameters,
        gradients,
        [list(of_variable) for of_variable in slots],
        list(frozen),
        coefficients,
        decays,
        [[encode(transform) for transform in steps] for steps in chains],
        *extras[:-1],
        [] if extras.seeds is None else extras.seeds.view("uint32"),
    )
    return parameters, slots, extras.remainders, finite
