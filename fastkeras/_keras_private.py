"""All that fastkeras uses of Keras' private modules, which any minor version may change.

No other file imports `keras.src`. tests/test_keras_private.py names each function, so that after a
change in Keras a test fails, and not a user's model.
"""

import sys

import keras
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.backend.common.tensor_attributes import get_tensor_attr, set_tensor_attr
from keras.src.backend.common.variables import AutocastScope
from keras.src.losses.loss import reduce_weighted_values
from keras.src.optimizers.base_optimizer import BaseOptimizer

__all__ = [
    "AutocastScope",
    "BaseOptimizer",
    "get_global_attribute",
    "get_keras_mask",
    "get_stateless_scope",
    "get_tensor_attr",
    "in_symbolic_scope",
    "is_exporting",
    "metric_names",
    "reduce_weighted_values",
    "set_global_attribute",
    "set_keras_mask",
    "set_tensor_attr",
    "training_call",
]


def _never_traced(function):
    """Let torch.compile call a function in place of tracing it: callers are no part of a graph."""
    if keras.backend.backend() != "torch":
        return function
    from torch import compiler

    return compiler.disable(function)


@_never_traced
def is_exporting(to="keras.src.export"):
    """Whether Keras is exporting a model for serving, which must not need a custom op.

    The only sign of it is who the callers are.
    """
    return any(frame.f_globals.get("__name__", "").startswith(to) for frame in _frames())


@_never_traced
def training_call():
    """The model whose `fit` or similar is being traced or run, and that call's class_weight.

    Returns:
        Model and class_weight; (None, None) outside such a call.
    """
    for frame in _frames():
        if frame.f_code.co_name in ("fit", "train_on_batch"):
            model = frame.f_locals.get("self")
            if isinstance(model, keras.Model):
                return model, frame.f_locals.get("class_weight")
    return None, None


def metric_names(model):
    """The metrics that `compile` was given as names."""
    compiled = getattr(model, "_compile_metrics", None)
    given = keras.tree.flatten(getattr(compiled, "_user_metrics", None))
    return {metric for metric in given if isinstance(metric, str)}


def _frames():
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
