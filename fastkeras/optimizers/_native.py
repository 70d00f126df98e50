"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core
from fastkeras.optimizers.rules import NATIVE, QUANTIZABLE, RULES
from fastkeras.optimizers.transforming import encode

_OURS = [(name, len(RULES[name].slots), name in QUANTIZABLE) for name in NATIVE]
if sorted(_core.optimizer_rules()) != sorted(_OURS):
    raise ImportError("fastkeras._core was compiled for other optimizer rules: build it again")


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    finite = _core.optimizer_step(
        rule,
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
