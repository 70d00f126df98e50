"""The updates of a window's rows, in Numba."""

import numpy as np

from fastkeras.word2vec._engines.numba.rows import compiled, dot, inlined
from fastkeras.word2vec.training.settings import LOSSES

NEGATIVE_SAMPLING, HIERARCHICAL_SOFTMAX, SAMPLED_SOFTMAX, BOTH = range(len(LOSSES))
LARGE = 1e300  # limit of a float64 product whose factors are at most 2


@inlined
def _logistic(y, rate):
    """Return rate · sigmoid(y), and max(y, 0) and 1 + exp(−|y|).

    The loss is the former plus the logarithm of the latter.
    """
    e = np.exp(-abs(y))
    sigmoid = (np.float32(1) if y > 0 else e) / (np.float32(1) + e)
    return rate * sigmoid, max(np.float64(y), 0.0), 1.0 + np.float64(e)


@compiled
def _softmax_errors(x, rows, count, offsets, rate):
    """Turn logits into errors times the rate; return the loss."""
    for j in range(1, count):
        x[j] += offsets[rows[j]]
    largest = x[:count].max()
    first = np.float64(x[0] - largest)
    others = 0.0
    for j in range(count):
        x[j] = np.exp(x[j] - largest)
        others += np.float64(x[j]) if j else 0.0
    total = others + np.float64(x[0])
    x[0] = -others
    for j in range(count):
        x[j] *= np.float32(-np.float64(rate) / total)
    return np.log(total) - first


@compiled
def step(inputs, i, changes, outputs, rows, signs, count, loss, offsets, x, rate):
    """Update the output rows for one input row; put its change into changes[0], return the loss."""
    value, product = 0.0, 1.0
    stride = inputs.shape[1]
    changes[0, :] = 0
    if loss == SAMPLED_SOFTMAX:
        for j in range(count):
            x[j] = dot(inputs, i, outputs, rows[j])
        value = _softmax_errors(x, rows, count, offsets, rate)
        for j in range(count):  # read all before changing any: a row may be there twice
            for s in range(stride):
                changes[0, s] += x[j] * outputs[rows[j], s]
    for j in range(count):
        row = rows[j]
        if loss == SAMPLED_SOFTMAX:
            for s in range(stride):
                outputs[row, s] += x[j] * inputs[i, s]
            continue
        g, positive, factor = _logistic(signs[j] * dot(inputs, i, outputs, row), rate)
        g *= -signs[j]
        value += positive
        product *= factor
        if product > LARGE:
            value += np.log(product)
            product = 1.0
        for s in range(stride):
            before = outputs[row, s]
            changes[0, s] += g * before
            outputs[row, s] = before + g * inputs[i, s]
    return value + np.log(product)


@compiled
def step_together(
    inputs, contexts, results, outputs, rows, signs, count, loss, offsets, x, copies, rate
):
    """Update one set of outputs, and add the contexts' changes to their rows of `results`.

    All gradients are computed before anything changes.
    """
    value, product = 0.0, 1.0
    stride = inputs.shape[1]
    for i in range(len(contexts)):
        for j in range(count):
            x[i, j] = dot(inputs, contexts[i], outputs, rows[j])
        if loss == SAMPLED_SOFTMAX:
            value += _softmax_errors(x[i], rows, count, offsets, rate)
        else:
            for j in range(count):
                g, positive, factor = _logistic(signs[j] * x[i, j], rate)
                x[i, j] = -signs[j] * g
                value += positive
                product *= factor
                if product > LARGE:
                    value += np.log(product)
                    product = 1.0
    for j in range(count):
        for s in range(stride):
            copies[j, s] = outputs[rows[j], s]
    for j in range(count):
        row = rows[j]
        for i in range(len(contexts)):
            v, g = contexts[i], x[i, j]
            for s in range(stride):
                outputs[row, s] += g * inputs[v, s]
    for i in range(len(contexts)):
        v = contexts[i]
        for j in range(count):
            g = x[i, j]
            for s in range(stride):
                results[v, s] += g * copies[j, s]
    return value + np.log(product)
