"""All that fastkeras takes from inside of Keras, where a minor version may move it.

No other file imports `keras.src`. tests/test_keras_private.py names each function, so that a Keras
that moved something fails there, and not in a user's model.
"""

import sys

import keras
from keras.src.backend.common.global_state import get_global_attribute
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
    "set_keras_mask",
    "set_tensor_attr",
    "training_call",
]


def is_exporting(to="keras.src.export"):
    """Whether Keras is writing a model for serving, which must not need a custom op.

    Keras gives no other sign of it than who is calling.
    """
    return any(frame.f_globals.get("__name__", "").startswith(to) for frame in _frames())


def training_call():
    """The model whose `fit` or the like is being traced or run, and that call's class_weight.

    Returns:
        (None, None) outside of such a call.
    """
    for frame in _frames():
        if frame.f_code.co_name in ("fit", "train_on_batch"):
            model = frame.f_locals.get("self")
            if isinstance(model, keras.Model):
                return model, frame.f_locals.get("class_weight")
    return None, None


def metric_names(model):
    """The metrics that `compile` was given by name."""
    compiled = getattr(model, "_compile_metrics", None)
    given = keras.tree.flatten(getattr(compiled, "_user_metrics", None))
    return {metric for metric in given if isinstance(metric, str)}


def _frames():
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back
