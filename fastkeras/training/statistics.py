"""The moving statistics of BatchNormalization, anew for the weights that a model has now."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.training.arguments import integer, optional_integer
from fastkeras.training.model_state import restored, synced
from fastkeras.training.noise import noise_state, repeat_noise
from fastkeras.training.substitution import value_of

if TYPE_CHECKING:
    from typing import Any


def reestimate_batch_normalization(
    model: keras.Model, data: Any, batch_size: int = 32, steps: int | None = None
) -> keras.Model:
    """Compute the moving statistics of all BatchNormalization layers anew, by one pass over data.

    After weights were averaged (stochastic weight averaging, `use_ema`, a mean of checkpoints) or
    loaded from elsewhere, the statistics in the model belong to other weights. This replaces them
    by the mean, over the batches of one pass, of what the layers see in training with the weights
    that the model has now. Batches count by their size, so that means are those of all examples;
    variances are means of those within a batch, as in training.

    Layers see what those before them make of a batch with its own statistics, and noise such as
    dropout is on, also as in training. Everything else stays as it was: other weights, other
    statistics, seeds, the optimizer.

    `ExponentialMovingAverage` averages these statistics with all other weights and needs no pass;
    its averages lag behind, though, and so do better with one if the momentum is high.

    Args:
        model: any built model.
        data: an array, or a list, tuple or dict of arrays, as `fit` takes it for x; or an iterable
            of batches, such as a `tf.data.Dataset`, a `DataLoader` or a `PyDataset`. If a batch is
            a tuple, its first part is the input.
        batch_size: for arrays; a large one, since a batch is the unit, as in training.
        steps: the number of batches, if not all.

    Returns:
        The model.

    Raises:
        ValueError: the model has no such layer that is trainable, or there is no data.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.training import reestimate_batch_normalization
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
        >>> model = reestimate_batch_normalization(model, np.array([[1.0], [5.0]]))
        >>> [float(w[0]) for w in model.get_weights()[2:]]  # mean, variance
        [3.0, 4.0]

    Source: Izmailov et al., 2018, "Averaging weights leads to wider optima and better
        generalization", section 3.2, arXiv 1803.05407.
    """
    integer("batch_size", batch_size, 1)
    layers = layers_of(model)
    variables = [v for layer in layers for v in (layer.moving_mean, layer.moving_variance)]
    sums, count = [np.zeros(tuple(v.shape)) for v in variables], 0
    steps = optional_integer("steps", steps, 1)
    everything = synced(model).variables
    values, noise = [value_of(variable) for variable in everything], noise_state()
    momenta = [layer.momentum for layer in layers]
    seen = _compiled(functools.partial(_seen, model, variables, everything))
    try:
        for layer in layers:
            layer.momentum = 0.0  # so that it assigns what it sees
        for x in itertools.islice(_batches(data, batch_size), steps):
            x = keras.tree.map_structure(ops.convert_to_tensor, x)
            size = int(ops.shape(keras.tree.flatten(x)[0])[0])
            for total, value in zip(sums, seen(values, x), strict=True):
                total += size * ops.convert_to_numpy(value).astype(np.float64)
            count += size
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        repeat_noise(noise)
    if not count:
        raise ValueError("data: there is no batch in it")
    restored(variables, [total / count for total in sums])
    return model


def layers_of(model):
    """The layers whose statistics are computed anew; ValueError if there are none."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and layer.built and layer.trainable
    ]
    if not layers:
        raise ValueError(f"model: {model.name!r} has no trainable BatchNormalization that is built")
    return layers


class _Assigned(keras.StatelessScope):
    """Keeps all that is assigned to a variable, not only what comes last: a layer may be shared."""

    def __init__(self, values):
        super().__init__(values)
        self.assigned = {}

    def add_update(self, update):
        super().add_update(update)
        variable, value = update
        self.assigned.setdefault(id(variable), []).append(value)


def _seen(model, variables, everything, values, x):
    """The statistics of a batch, in the mean over the calls of a layer; nothing changes."""
    zeros = [(v, ops.zeros(v.shape, v.dtype)) for v in variables]  # not 0 · NaN, if they are bad
    options = {"training": True} if model._call_has_training_arg else {}
    with _Assigned([*zip(everything, values, strict=True), *zeros]) as scope:
        model(x, **options)
    of_calls = [scope.assigned.get(id(variable)) for variable in variables]
    for variable, found in zip(variables, of_calls, strict=True):
        if found is None:
            raise ValueError(f"model: its call does not reach {variable.path}")
    return [ops.stop_gradient(sum(found) / len(found)) for found in of_calls]


def _compiled(function):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, reduce_retracing=True, autograph=False)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function


def _batches(data, batch_size):
    """The inputs of the batches."""
    if isinstance(data, (list, tuple, dict)) or hasattr(data, "shape"):
        size = len(keras.tree.flatten(data)[0])
        for i in range(0, size, batch_size):
            yield keras.tree.map_structure(lambda a, i=i: a[i : i + batch_size], data)
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(len(data)))
    for batch in data:
        yield batch[0] if isinstance(batch, (tuple, list)) else batch
