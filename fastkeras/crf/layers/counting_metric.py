"""The base class of the metrics of decoded sequences: layer, mask, weights, and what JAX needs."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet, ref

import keras
from keras import backend, ops

from fastkeras._keras_private import get_stateless_scope, in_symbolic_scope
from fastkeras.crf.layers.arguments import ignored_class
from fastkeras.crf.layers.output import (
    integer_tags,
    layer_of,
    marked_layer,
    mask_of,
    sequence_and_step_weights,
    steps_that_count,
)

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.crf.layers.crf import CRF as CRFLayer
    from fastkeras.typing import Tensor

_metrics: WeakSet[CountingMetric] = WeakSet()  # for `update_inside_loss`


class CountingMetric(keras.metrics.Metric):
    """Sums `counts` of the best tag sequences over batches; a metric computes a ratio from them.

    Args:
        layer: the `CRF` layer, or its name; needed if y_pred is not the direct output of one.
        shape: the shape of the counts.
        ignore_class: a label whose steps are left out, as in `CRFLoss`, or None.
        name: name of the metric.
        dtype: dtype of its state.
    """

    weighs_steps = False  # whether `sample_weight` may have shape (batch, steps)
    decoded_as = "tags"  # the output of the layer that is compared with the labels

    def __init__(
        self,
        layer: CRFLayer | str | None,
        shape: tuple[int, ...],
        ignore_class: int | None,
        name: str,
        dtype: str | None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.ignore_class = ignored_class(ignore_class)
        if layer is None or isinstance(layer, str):
            self._layer, self._layer_name = None, layer
        else:
            self._layer = ref(layer)  # so that it is not saved with the metric
            self._layer_name = layer.name
        self.total = self.add_variable(shape, initializer="zeros", name="total")
        if backend.backend() == "jax":  # what `update_inside_loss` counted, unweighted and weighted
            self.batch = self.add_variable((2, *shape), initializer="zeros", name="batch")
            self._has_batch = False
        _metrics.add(self)

    def counts(self, tags: Tensor, found: Tensor, valid: Tensor, weights: Tensor) -> Tensor:
        """The counts of a batch.

        Args:
            tags, found: int32, shape (batch, steps): the labels, and the best sequences.
            valid: bool, shape (batch, steps).
            weights: shape (batch,), or (batch, steps) if it `weighs_steps`, in the dtype of the
                metric.

        Returns:
            A tensor of the shape of the counts, in the dtype of the metric.
        """
        raise NotImplementedError

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Count a batch; `sample_weight` is (batch,) or None; some metrics take (batch, steps)."""
        tags = integer_tags(y_true, y_pred, mask_of(y_pred))
        sample_weight, of_steps = sequence_and_step_weights(sample_weight, y_pred)
        if of_steps is not None and not self.weighs_steps:
            raise ValueError(
                f"{type(self).__name__} counts whole sequences or spans: sample_weight must have "
                f"shape (batch,), got {tuple(of_steps.shape)}"
            )
        sample_weight = sample_weight if of_steps is None else of_steps
        if in_symbolic_scope():
            return  # Keras builds its state on tensors that no layer has marked
        if backend.backend() == "jax" and get_stateless_scope() is not None:
            counts = self._counted_inside_loss()[0 if sample_weight is None else 1]
        else:
            counts = self._count(tags, y_pred, sample_weight)
        self.total.assign_add(counts)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the name of the layer."""
        own = {"layer": self._layer_name, "ignore_class": self.ignore_class}
        return super().get_config() | own

    def _check_layer(self, layer):
        """Raise ValueError if the metric is of other tags than the layer."""

    def _layer_of(self, y_pred):
        return layer_of(y_pred, self._layer and self._layer())

    def _count(self, tags, y_pred, sample_weight):
        mask = steps_that_count(tags, mask_of(y_pred), self.ignore_class)
        layer = self._layer_of(y_pred)
        self._check_layer(layer)
        found = layer.decoded(y_pred, mask, self.decoded_as)
        valid = ops.ones_like(found, dtype="bool") if mask is None else ops.cast(mask, "bool")
        weights = ops.ones_like(found[:, 0], dtype=self.dtype)
        if sample_weight is not None:
            weights = ops.cast(sample_weight, self.dtype)
        return self.counts(tags, found, valid, weights)

    def _counted_inside_loss(self):
        if not self._has_batch:
            raise ValueError(
                "with JAX the metrics of a CRF are computed along with crf.loss: compile both"
            )
        self._has_batch = False
        return ops.convert_to_tensor(self.batch)


def update_inside_loss(y_true, y_pred, sample_weight):
    """On JAX, count for the metrics of the model whose loss is being computed.

    Keras' JAX trainer updates metrics outside the differentiated function. There y_pred has lost
    its mask and the mark of its layer, and trainable variables have their values from before the
    first step. Inside the loss all three are right, and the variables of the metrics are in scope.
    """
    scope = get_stateless_scope()
    if backend.backend() != "jax" or scope is None or in_symbolic_scope():
        return
    marked = marked_layer(y_pred)  # None: the output was changed on the way
    for metric in list(_metrics):
        of_this_model = scope.get_current_value(metric.batch) is not None
        of_this_layer = marked is None or metric._layer_name in (None, marked.name)
        if of_this_model and of_this_layer:
            tags = integer_tags(y_true, y_pred, mask_of(y_pred))
            weights, of_steps = sequence_and_step_weights(sample_weight, y_pred)
            weights = of_steps if metric.weighs_steps and of_steps is not None else weights
            counts = [metric._count(tags, y_pred, weights) for weights in (None, weights)]
            metric.batch.assign(ops.stack(counts))
            metric._has_batch = True
