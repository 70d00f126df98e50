"""Token accuracy of the decoded path as a Keras metric."""

from weakref import WeakSet, ref

import keras
from keras import backend, ops
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from fastkeras.crf.targets import integer_tags, layer_of, mask_of, sequence_weights

_metrics = WeakSet()  # for `update_inside_loss`


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFAccuracy(keras.metrics.Metric):
    """Share of the valid steps at which the best tag sequence has the right tag.

    `crf.accuracy` is one. Layer and mask come with y_pred, as for `CRFLoss`. With JAX it works in
    `fit` and `evaluate` of a model compiled with `crf.loss`.

    Args:
        layer: the `CRF` layer to ask where y_pred does not come straight from one, or its name.
        name: name of the metric.
        dtype: dtype of its state.

    Raises:
        ValueError: as `CRFLoss`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> crf = CRF()
        >>> emissions = crf(np.array([[[0.0, 9.0], [9.0, 0.0]]]))
        >>> accuracy = crf.accuracy
        >>> accuracy.update_state(np.array([[1, 1]]), emissions)
        >>> float(accuracy.result())
        0.5

    Source: Forney, 1973, "The Viterbi algorithm".
    """

    def __init__(self, layer=None, name="accuracy", dtype=None):
        super().__init__(name=name, dtype=dtype)
        named = layer is None or isinstance(layer, str)
        self._layer = None if named else ref(layer)  # not to be saved as a part of the metric
        self._layer_name = layer if named else layer.name
        self.right = self.add_variable((), initializer="zeros", name="right")
        self.steps = self.add_variable((), initializer="zeros", name="steps")
        if (
            backend.backend() == "jax"
        ):  # what `update_inside_loss` counted, without and with weights
            self.batch = self.add_variable((2, 2), initializer="zeros", name="batch")
            self._has_batch = False
        _metrics.add(self)

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Count the steps of a batch; `sample_weight` of shape (batch,) or None."""
        tags = integer_tags(y_true, y_pred)
        sample_weight = sequence_weights(sample_weight)
        if in_symbolic_scope():
            return  # Keras builds its state with tensors that come from no layer
        if backend.backend() == "jax" and get_stateless_scope() is not None:
            right, steps = self._counted_inside_loss()[0 if sample_weight is None else 1]
        else:
            right, steps = self._count(tags, y_pred, sample_weight)
        self.right.assign_add(right)
        self.steps.assign_add(steps)

    def result(self):
        """The accuracy so far; 0 before the first valid step."""
        return ops.divide_no_nan(self.right, self.steps)

    def get_config(self):
        """The configuration, with the layer by its name."""
        return {**super().get_config(), "layer": self._layer_name}

    def _layer_of(self, y_pred):
        return layer_of(y_pred, self._layer and self._layer())

    def _count(self, tags, y_pred, sample_weight):
        mask = mask_of(y_pred)
        found = self._layer_of(y_pred).decoded(y_pred, mask)
        weights = ops.ones_like(found, dtype=self.dtype)
        if mask is not None:
            weights = weights * ops.cast(mask, self.dtype)
        if sample_weight is not None:
            weights = weights * ops.cast(sample_weight, self.dtype)[:, None]
        return ops.sum(ops.cast(found == tags, self.dtype) * weights), ops.sum(weights)

    def _counted_inside_loss(self):
        if not self._has_batch:
            raise ValueError(
                "with JAX the accuracy of a CRF is computed along with crf.loss: compile both"
            )
        self._has_batch = False
        return ops.convert_to_tensor(self.batch)


def update_inside_loss(y_true, y_pred, sample_weight):
    """On JAX, count for the metrics of the model whose loss is being computed.

    Keras' JAX trainer updates metrics outside the differentiated function: there y_pred has lost
    mask and mark, and the trainable variables are those of before the first step. The loss still
    has all three, and the metrics' variables are in its scope.
    """
    scope = get_stateless_scope()
    if backend.backend() != "jax" or scope is None or in_symbolic_scope():
        return
    for metric in list(_metrics):
        of_this_model = scope.get_current_value(metric.batch) is not None
        name = metric._layer_name
        if of_this_model and name in (None, metric._layer_of(y_pred).name):
            tags = integer_tags(y_true, y_pred)
            counts = [metric._count(tags, y_pred, weights) for weights in (None, sample_weight)]
            metric.batch.assign(ops.stack([ops.stack(count) for count in counts]))
            metric._has_batch = True
