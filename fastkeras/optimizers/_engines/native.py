"""The C++ kernels on NumPy arrays, without the GIL; the number of threads changes no result."""

from fastkeras import _core
from fastkeras.optimizers.chains import FUSED, encode
from fastkeras.optimizers.rules import RULES

_RULES = [(n, len(r.slots), r.signs) for n, r in RULES.items() if r.has_kernel]
if sorted(_core.optimizer_rules()) != sorted(_RULES) or _core.optimizer_transforms() != [*FUSED]:
    raise ImportError("fastkeras._core has other rules or transforms: build fastkeras again")


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    arrays = parameters, gradients, slots, frozen, coefficients, decays, chains, extras
    return step_by(0, rule, *arrays)  # as many threads as _core.set_num_threads said


def step_by(
    num_threads, rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras
):
    finite = _core.optimizer_step(
        rule,
        parameters,
        gradients,
        slots,
        list(frozen),
        coefficients,
        decays,
        _encoded(chains),
        *extras[:-1],
        [] if extras.seeds is None else extras.seeds.view("uint32"),
        num_threads,
    )
    return parameters, slots, extras.remainders, finite


def _encoded(chains):
    """What the kernels know chains by; variables mostly share them."""
    known = {}
    for steps in chains:
        if id(steps) not in known:
            known[id(steps)] = [encode(transform) for transform in steps]
    return [known[id(steps)] for steps in chains]
