"""The negative log-likelihood as a Keras loss."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING
from weakref import ref

import keras
from keras import ops

from fastkeras._keras_private import (
    in_symbolic_scope,
    metric_names,
    reduce_weighted_values,
    training_call,
)
from fastkeras.crf.layers.arguments import ignored_class
from fastkeras.crf.layers.counting_metric import update_inside_loss
from fastkeras.crf.layers.output import (
    integer_tags,
    layer_of,
    mask_of,
    sequence_and_step_weights,
    steps_that_count,
)
from fastkeras.training.arguments import not_negative, share

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from fastkeras.crf.layers.crf import CRF as CRFLayer
    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFLoss(keras.losses.Loss):
    """Negative log-likelihood of the tags, averaged over the batch; never negative.

    `crf.loss` is one. It finds the `CRF` layer, with its transitions, and the mask through y_pred,
    the output of that layer; so it is saved and loaded with the model like any other loss.

    Labels are integers of shape (batch, steps) or (batch, steps, 1), or one-hot of shape (batch,
    steps, num_tags); at masked steps they may be anything. A label that is out of range at a valid
    step, or neither integer nor one-hot, is an error; in a compiled graph, which cannot raise, the
    loss is NaN. A sequence that the scores rule out (−inf) has an infinite loss and no gradient; a
    NaN among its scores makes its loss NaN.

    `sample_weight` has shape (batch,), or (batch, steps) for weights of the steps, as in
    `fastkeras.crf.weighted_log_likelihood`. A sequence of weight 0 does not count, whatever its
    loss. `class_weight` of `fit` is refused, since Keras would take it for weights of positions;
    use `tag_weights` instead.

    Args:
        layer: the `CRF` layer; needed only if y_pred is not the direct output of one.
        label_smoothing: the share of each label that is spread over all possible sequences, as in
            `fastkeras.crf.smoothed_log_likelihood`; 0 for none.
        tag_weights: num_tags numbers, how much a step with each tag counts, as in
            `fastkeras.crf.weighted_log_likelihood`. None: all the same.
        ignore_class: a label, such as −100, whose steps the chain skips, like masked steps. None
            for no such label.
        reduction: as in `keras.losses.Loss`; "sum_over_batch_size" is the mean over sequences.
        name: name of the loss.

    Raises:
        ValueError: y_pred is no output of a CRF layer and no layer was given; labels or weights of
            another shape.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import CRF
        >>> crf = CRF()
        >>> model = keras.Sequential([keras.layers.Dense(3), crf])
        >>> model.compile("adam", loss=crf.loss, metrics=[crf.accuracy])
        >>> history = model.fit(np.ones((2, 5, 4)), np.ones((2, 5), int), verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'loss']

    Source: Lafferty, McCallum & Pereira, 2001, "Conditional random fields", section 3.
    """

    def __init__(
        self,
        layer: CRFLayer | None = None,
        label_smoothing: float = 0.0,
        tag_weights: Iterable[float] | None = None,
        ignore_class: int | None = None,
        reduction: str = "sum_over_batch_size",
        name: str = "crf_loss",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.label_smoothing = share("label_smoothing", label_smoothing)
        self.tag_weights = (
            None if tag_weights is None else not_negative("tag_weights", tag_weights, (1,))
        )
        self.ignore_class = ignored_class(ignore_class)
        self._layer = None if layer is None else ref(layer)  # so that it is not saved with the loss

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        # not the method of keras.losses.Loss: that casts labels to float, and multiplies losses of
        # shape (batch,) by a mask of shape (batch, steps)
        _refuse_what_keras_misreads(sample_weight)
        with keras.name_scope(self.name):
            weights, of_steps = sequence_and_step_weights(sample_weight, y_pred)
            losses = self._losses(y_true, y_pred, of_steps)
            update_inside_loss(y_true, y_pred, sample_weight)
            if weights is not None:  # weight 0 means no loss, but 0 · inf and 0 · NaN are NaN
                losses = ops.where(weights == 0, 0, losses)
            return reduce_weighted_values(
                losses, sample_weight=weights, reduction=self.reduction, dtype=losses.dtype
            )

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Negative log-likelihoods, shape (batch,)."""
        return self._losses(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = ("label_smoothing", "tag_weights", "ignore_class")
        return super().get_config() | {name: getattr(self, name) for name in own}

    def _losses(self, y_true, y_pred, of_steps=None):
        if in_symbolic_scope():  # Keras builds its state on tensors that no layer has marked
            integer_tags(y_true, y_pred)
            return ops.sum(y_pred, axis=(1, 2))
        layer, mask = layer_of(y_pred, self._layer and self._layer()), mask_of(y_pred)
        tags = integer_tags(y_true, y_pred, mask)
        mask = steps_that_count(tags, mask, self.ignore_class)
        weights = self.tag_weights
        if weights is not None and len(weights) != layer.num_tags:
            raise ValueError(
                f"tag_weights must have one weight for each of the {layer.num_tags} tags of the "
                f"layer {layer.name!r}, got {len(weights)}"
            )
        if of_steps is not None:
            weights = _of_steps_and_tags(of_steps, weights, tags)
        return self._of_tags(layer, y_pred, tags, mask, weights)

    def _of_tags(self, layer, y_pred, tags, mask, weights):
        return -layer.log_likelihood(y_pred, tags, mask, self.label_smoothing, weights)


def _of_steps_and_tags(of_steps, tag_weights, tags):
    if tag_weights is None:
        return of_steps
    of_tags = ops.convert_to_tensor(tag_weights, of_steps.dtype)
    return of_steps * ops.take(of_tags, ops.clip(tags, 0, len(tag_weights) - 1), axis=0)


def _refuse_what_keras_misreads(sample_weight):
    model, class_weight = training_call()
    if class_weight is not None and sample_weight is not None:
        raise ValueError(
            "class_weight is read by Keras as weights of positions where labels are sequences; "
            "give the weights of the tags to the loss: CRFLoss(crf, tag_weights=[...])"
        )
    named = metric_names(model) & {"acc", "accuracy"}
    if named:
        warnings.warn(
            f"metrics={sorted(named)} compares the labels with the largest emission of each step, "
            "not with the tags that the CRF decodes: use metrics=[crf.accuracy]",
            stacklevel=2,
        )
