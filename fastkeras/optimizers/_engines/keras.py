"""One step composed of `keras.ops`, for XLA, JAX and torch; returns new values."""

from keras import ops

from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding
from fastkeras.optimizers.rules import updater

EVERY_RULE = True  # also those that the kernels lack


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    frozen, coefficients = ops.convert_to_tensor(frozen), ops.convert_to_tensor(coefficients)
    values = [ops.convert_to_tensor(p) for p in parameters]
    wide = [
        rounding.widened(ops, value, None if rest is None else ops.convert_to_tensor(rest))
        for value, rest in zip(values, extras.remainders, strict=True)
    ]
    transformed, finite = of_transforms.apply(
        ops,
        [ops.cast(g, value.dtype) for g, value in zip(gradients, wide, strict=True)],
        wide,
        chains,
        frozen=frozen,
    )
    new_parameters, new_slots, new_remainders = [], [], []
    rows = ops.unstack(coefficients, len(parameters))
    for i, gradient in enumerate(transformed):
        if 0 in gradient.shape:  # of which there is no mean
            new_parameters.append(parameters[i])
            new_slots.append(slots[i])
            new_remainders.append(extras.remainders[i])
            continue
        dtype = wide[i].dtype
        lost = wide[i] * ops.cast(decays[i], dtype)
        c = tuple(ops.cast(value, dtype) for value in ops.unstack(rows[i], rows[i].shape[0]))
        old = [ops.convert_to_tensor(slot) for slot in slots[i]]
        rate = ops.cast(extras.rates[i], dtype)
        seed = None if extras.seeds is None else extras.seeds[i]
        update = updater(rule, old, extras.adapted[i], rate, seed)
        change, changed = update(ops, wide[i] - lost, gradient, old, c)
        parameter = wide[i] + (change - lost)  # rounded once
        stays = frozen[i] if finite is True else frozen[i] | ~finite
        if extras.rows[i] is not None:
            column = ops.reshape(extras.rows[i], (-1,) + (1,) * (len(gradient.shape) - 1))
            stays = stays | ~column
        held, rest = _narrowed(parameter, values[i], extras, i)
        new_parameters.append(ops.where(stays, values[i], held))
        new_slots.append(
            [
                slot if new is before else ops.where(stays, before, ops.cast(new, before.dtype))
                for slot, before, new in zip(slots[i], old, changed, strict=True)
            ]
        )
        if rest is not None:
            rest = ops.where(stays, extras.remainders[i], rest)
        new_remainders.append(rest)
    return new_parameters, new_slots, new_remainders, finite


def _narrowed(parameter, like, extras, i):
    random, keeps = None, extras.remainders[i] is not None
    if extras.dithered[i]:
        elements = ops.reshape(ops.arange(_size(like.shape), dtype="int32"), like.shape)
        random = rounding.dither_bits(ops, extras.seeds[i], elements)
    return rounding.narrowed(ops, parameter, rounding.name_of(like.dtype), keeps, random)


def _size(shape):
    size = 1
    for length in shape:
        size *= length
    return size
