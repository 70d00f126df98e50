"""One step composed of `keras.ops`, for XLA, JAX and torch; returns new values."""

from keras import ops

from fastkeras.optimizers import transforming
from fastkeras.optimizers.rules import updater


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains):
    wide = [ops.cast(p, _computed_in(p)) for p in parameters]
    transformed, finite = transforming.apply(
        ops,
        [ops.cast(g, value.dtype) for g, value in zip(gradients, wide, strict=True)],
        wide,
        chains,
        frozen=frozen,
    )
    new_parameters, new_slots = [], []
    rows = ops.unstack(coefficients, len(parameters))
    for i, gradient in enumerate(transformed):
        dtype = wide[i].dtype
        decayed = wide[i] - wide[i] * ops.cast(decays[i], dtype)
        c = tuple(ops.cast(value, dtype) for value in ops.unstack(rows[i], rows[i].shape[0]))
        old = [ops.convert_to_tensor(slot) for slot in slots[i]]
        parameter, changed = updater(rule, old)(ops, decayed, gradient, old, c)
        stays = frozen[i] if finite is True else frozen[i] | ~finite
        new_parameters.append(_unless(stays, parameters[i], parameter))
        new_slots.append(
            [
                slot if new is before else _unless(stays, before, new)
                for slot, before, new in zip(slots[i], old, changed, strict=True)
            ]
        )
    return new_parameters, new_slots, finite


def _unless(stays, old, new):
    old = ops.convert_to_tensor(old)
    return ops.where(stays, old, ops.cast(new, old.dtype))


def _computed_in(array):
    return "float64" if "float64" in str(array.dtype) else "float32"
