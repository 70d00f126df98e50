"""The values of a model's weights: to copy, restore and recognise, on every backend."""

from __future__ import annotations

import contextlib
import weakref
import zlib
from typing import TYPE_CHECKING

import numpy as np
from keras import backend, ops

from fastkeras._arrays import as_numpy

if TYPE_CHECKING:
    import keras


def synced(model):
    """The model, its variables up to date: while training, Keras' JAX trainer keeps the values."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
    return model


def copied(variables):
    """Copies as NumPy arrays (torch gives views, which the next step would change)."""
    return [np.array(as_numpy(ops.stop_gradient(v.value))) for v in variables]


def restored(variables, values):
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def fits(variables, values):
    """Whether there is a value of the right shape for each variable."""
    shapes = [tuple(variable.shape) for variable in variables]
    return shapes == [value.shape for value in values]


def fingerprint(model):
    """A checksum for each trainable weight, by which `has_changed` recognises them."""
    return [zlib.crc32(a.tobytes()) if v.trainable else None for v, a in _weights_of(model)]


def has_changed(model, marks):
    """Whether any of the trainable weights has changed since the fingerprint was taken."""
    if len(marks) != len(model.weights):
        return True
    pairs = zip(_weights_of(model), marks, strict=True)
    return any(mark not in (None, zlib.crc32(a.tobytes())) for (_, a), mark in pairs)


def _weights_of(model):
    return ((variable, copied([variable])[0]) for variable in model.weights)


class Scoring:
    """Which weights a model had while it was evaluated.

    Attributes:
        averages: the callback that last gave the model other weights meanwhile, or None.
    """

    def __init__(self, model):
        self.model, self.averages = model, None


_SCORINGS: list[Scoring] = []


@contextlib.contextmanager
def scoring(model):
    """Notice which callback gives the model other weights inside the block."""
    noticed = Scoring(model)
    _SCORINGS.append(noticed)
    try:
        yield noticed
    finally:
        _SCORINGS.remove(noticed)


def notice(model, callback):
    """Tell the evaluations of a model that a callback has given it other weights."""
    for noticed in _SCORINGS:
        if noticed.model is model:
            noticed.averages = callback


HOLDING: weakref.WeakSet[keras.callbacks.Callback] = (
    weakref.WeakSet()
)  # callbacks that gave a model other weights, and hold its own ones


def release(model):
    """Let a model keep the weights that it has now: no callback will replace them by its own."""
    for callback in list(HOLDING):
        if callback.model is model:
            callback.release()


def retraced(model):
    """Make a change of a variable that is not the model's effective from the next step.

    JAX compiles such variables as constants, so it has to compile anew.
    """
    if backend.backend() == "jax":
        import jax

        model.train_function = None
        jax.clear_caches()
        model.make_train_function()
