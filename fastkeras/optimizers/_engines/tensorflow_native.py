"""The C++ kernels as one TensorFlow op that updates all variables in place."""

import numpy as np
import tensorflow as tf

from fastkeras._ops.tensorflow_variables import library
from fastkeras.optimizers.chains import encode
from fastkeras.optimizers.rules import is_quantized


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains, extras):
    encoded = [encode(transform) for steps in chains for transform in steps]
    kinds, operands, groups = zip(*encoded, strict=True) if encoded else ((), (), ())
    parameters = [_variable(parameter) for parameter in parameters]
    slots = [[_variable(slot) for slot in of_variable] for of_variable in slots]
    remainders = [None if r is None else _variable(r) for r in extras.remainders]
    finite = library.fastkeras_optimizer_step(
        parameters=[parameter.handle for parameter in parameters],
        slots=[slot.handle for of_variable in slots for slot in of_variable],
        remainders=[remainder.handle for remainder in remainders if remainder is not None],
        gradients=[
            tf.cast(gradient, parameter.dtype) if parameter.dtype == tf.float64 else gradient
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ],
        rows=[rows for rows in extras.rows if rows is not None],
        frozen=frozen,
        coefficients=coefficients,
        decays=decays,
        chain_lengths=np.array([len(steps) for steps in chains], np.int32),
        chain_kinds=np.array(kinds, np.int32),
        chain_operands=np.array(operands, np.float64),
        chain_groups=np.array(groups, np.int32),
        rates=extras.rates,
        seeds=_unsigned(extras.seeds),
        has_remainder=[remainder is not None for remainder in remainders],
        has_rows=[rows is not None for rows in extras.rows],
        adapted=extras.adapted,
        dithered=extras.dithered,
        quantized=[is_quantized(rule, of_variable) for of_variable in slots],
        rule=rule,
    )
    return parameters, slots, remainders, finite


def _unsigned(seeds):
    return np.zeros(0, np.uint32) if seeds is None else tf.bitcast(seeds, tf.uint32)


def _variable(array):
    return array if hasattr(array, "handle") else tf.Variable(array)
