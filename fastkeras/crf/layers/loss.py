"""The negative log-likelihood as a Keras loss."""

from weakref import ref

import keras
from keras import ops
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.losses.loss import reduce_weighted_values

from fastkeras.crf.layers.counting_metric import update_inside_loss
from fastkeras.crf.layers.output import integer_tags, layer_of, mask_of, sequence_weights


@keras.saving.register_keras_serializable(package="fastkeras")
class CRFLoss(keras.losses.Loss):
    """Negative log-likelihood of the tags, averaged over the batch; never negative.

    `crf.loss` is one. It takes the transitions from the `CRF` layer whose output it is given, and
    the mask from there too, so that it is saved and loaded with the model like any other loss.

    Labels are integers of shape (batch, steps) or (batch, steps, 1), or one-hot of shape (batch,
    steps, num_tags); at masked steps they may be anything. `sample_weight` has shape (batch,). A
    label out of range at a valid step is an error, or a loss of NaN where a compiled graph cannot
    raise. A sequence that the scores rule out (−inf) has an infinite loss and no gradient.

    Args:
        layer: the `CRF` layer to ask where y_pred does not come straight from one.
        label_smoothing: the share of each label that is spread over all possible sequences, as in
            `fastkeras.crf.smoothed_log_likelihood`; 0 for none.
        tag_weights: num_tags numbers, how much a step with each tag counts, as in
            `fastkeras.crf.weighted_log_likelihood`, on the engine `keras`; None for all the same.
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
        layer=None,
        label_smoothing=0.0,
        tag_weights=None,
        reduction="sum_over_batch_size",
        name="crf_loss",
    ):
        super().__init__(name=name, reduction=reduction)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in 0 <= ε < 1, got {label_smoothing!r}")
        if tag_weights is not None and not all(weight >= 0 for weight in tag_weights):
            raise ValueError(f"tag_weights must not be below 0, got {tag_weights!r}")
        self.label_smoothing = float(label_smoothing)
        self.tag_weights = None if tag_weights is None else [float(w) for w in tag_weights]
        self._layer = None if layer is None else ref(layer)  # not to be saved as a part of the loss

    def __call__(self, y_true, y_pred, sample_weight=None):
        """The loss of a batch, reduced."""
        # not the method of keras.losses.Loss: that casts labels to float, and multiplies losses of
        # shape (batch,) by a mask of shape (batch, steps)
        with keras.name_scope(self.name):
            sample_weight = sequence_weights(sample_weight)
            losses = self.call(y_true, y_pred)
            update_inside_loss(y_true, y_pred, sample_weight)
            return reduce_weighted_values(
                losses, sample_weight=sample_weight, reduction=self.reduction, dtype=losses.dtype
            )

    def call(self, y_true, y_pred):
        """Negative log-likelihoods, shape (batch,)."""
        if in_symbolic_scope():  # Keras builds its state with tensors that come from no layer
            integer_tags(y_true, y_pred)
            return ops.sum(y_pred, axis=(1, 2))
        layer, mask = layer_of(y_pred, self._layer and self._layer()), mask_of(y_pred)
        tags = integer_tags(y_true, y_pred)
        return -layer.log_likelihood(y_pred, tags, mask, self.label_smoothing, self.tag_weights)

    def get_config(self):
        """The configuration."""
        config = super().get_config()
        return config | {"label_smoothing": self.label_smoothing, "tag_weights": self.tag_weights}
