"""The C++ kernels as one TensorFlow op that updates all variables in place."""

import numpy as np
import tensorflow as tf

from fastkeras._tf_variable_ops import library
from fastkeras.optimizers.rules import NUMBERS, is_quantized
from fastkeras.optimizers.transforming import encode


def step(rule, parameters, gradients, slots, frozen, coefficients, decays, chains):
    encoded = [encode(transform) for steps in chains for transform in steps]
    kinds, operands, groups = zip(*encoded, strict=True) if encoded else ((), (), ())
    parameters = [_variable(parameter) for parameter in parameters]
    slots = [[_variable(slot) for slot in of_variable] for of_variable in slots]
    finite = library.fastkeras_optimizer_step(
        parameters=[parameter.handle for parameter in parameters],
        slots=[slot.handle for of_variable in slots for slot in of_variable],
        gradients=[
            tf.cast(gradient, parameter.dtype) if parameter.dtype == tf.float64 else gradient
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ],
        frozen=frozen,
        coefficients=coefficients,
        decays=decays,
        chain_lengths=np.array([len(steps) for steps in chains], np.int32),
        chain_kinds=np.array(kinds, np.int32),
        chain_operands=np.array(operands, np.float64),
        chain_groups=np.array(groups, np.int32),
        quantized=[is_quantized(rule, of_variable) for of_variable in slots],
        rule=NUMBERS[rule],
    )
    return parameters, slots, finite


def _variable(array):
    return array if hasattr(array, "handle") else tf.Variable(array)
