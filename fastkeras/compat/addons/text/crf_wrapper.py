"""`tfa.text.CRFModelWrapper` on Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from fastkeras.compat.addons.text.crf import crf_log_likelihood
from fastkeras.crf.layers.output import at_least_float32

if TYPE_CHECKING:
    from typing import Any, Self

    from fastkeras.typing import Identifier, Tensor


@keras.saving.register_keras_serializable(package="Addons")
class CRFModelWrapper(keras.Model):
    """A model with a CRF on top that trains by the CRF's likelihood and predicts tags.

    Args:
        base_model: a model with outputs of shape (batch, steps, channels), with or without a mask.
        units, chain_initializer, use_boundary, boundary_initializer, use_kernel, **kwargs: of
            `fastkeras.compat.addons.layers.CRF`.

    `compile` takes an optimizer and metrics, and no loss. Metrics get the labels and the tags, both
    (batch, steps): `keras.metrics.Accuracy()`. `fit` reports `loss` and `crf_loss` of the last
    batch. Subclasses may override `unpack_training_data` and `compute_crf_loss`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> import fastkeras.compat.addons as tfa
        >>> inputs = keras.Input((None,), dtype="int32")
        >>> outputs = keras.layers.Embedding(9, 4, mask_zero=True)(inputs)
        >>> model = tfa.text.CRFModelWrapper(keras.Model(inputs, outputs), 3)
        >>> model.compile("adam", metrics=[keras.metrics.Accuracy()])
        >>> history = model.fit(np.ones((2, 5), int), np.ones((2, 5), int), verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'crf_loss', 'loss']
        >>> model.predict(np.ones((2, 5), int), verbose=0).shape
        (2, 5)

    Source: tensorflow_addons.text.CRFModelWrapper, 0.23.
    """

    def __init__(
        self,
        base_model: keras.Model,
        units: int,
        chain_initializer: Identifier = "orthogonal",
        use_boundary: bool = True,
        boundary_initializer: Identifier = "zeros",
        use_kernel: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        from fastkeras.compat.addons.layers.crf import CRF  # not at the top: it imports `text`

        self.crf_layer = CRF(
            units, chain_initializer, use_boundary, boundary_initializer, use_kernel, **kwargs
        )
        self.base_model = base_model

    def unpack_training_data(self, data: Any) -> tuple[Any, Any, Any]:
        """Split what `fit` hands over into (x, y, sample_weight or None)."""
        return keras.utils.unpack_x_y_sample_weight(data)

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Tensor = None,
        return_crf_internal: bool = False,
    ) -> Tensor:
        """Tags (batch, steps), or ((potentials, lengths, transitions), tags)."""
        masks = {} if mask is None else {"mask": mask}
        tags, *internal = self.crf_layer(self.base_model(inputs, training=training, **masks))
        return (tuple(internal), tags) if return_crf_internal else tags

    def compute_crf_loss(
        self,
        potentials: Tensor,
        sequence_length: Tensor,
        kernel: Tensor,
        y: Tensor,
        sample_weight: Tensor = None,
    ) -> Tensor:
        """Mean over the batch of the weighted negative log-likelihoods."""
        log_likelihood, _ = crf_log_likelihood(potentials, y, sequence_length, kernel)
        if sample_weight is not None:
            weight = tf.cast(sample_weight, log_likelihood.dtype)
            log_likelihood = weight * tf.where(weight != 0, log_likelihood, 0)  # 0 · inf is NaN
        return -tf.reduce_mean(log_likelihood)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of the optimizer; returns the metrics and the losses of this batch."""
        x, y, sample_weight = self.unpack_training_data(data)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        with tf.GradientTape() as tape:
            results, loss = self._losses_of(x, y, sample_weight, training=True)
            # Keras sums the gradients of replicas, and divides by the factor of `scale_loss`
            loss = self.optimizer.scale_loss(at_least_float32(loss) / replicas)
        weights = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return results

    def test_step(self, data: Any) -> dict[str, Any]:
        """As `train_step`, without the optimizer."""
        x, y, sample_weight = self.unpack_training_data(data)
        return self._losses_of(x, y, sample_weight, training=False)[0]

    def _losses_of(self, x, y, sample_weight, training):
        internal, tags, *_ = self(x, training=training, return_crf_internal=True)
        crf_loss = self.compute_crf_loss(*internal, y, sample_weight)
        loss = crf_loss + sum(self.losses)
        metrics = self.compute_metrics(x, y, tags)
        return {**metrics, "loss": loss, "crf_loss": crf_loss}, loss

    def get_config(self) -> dict[str, Any]:
        """The configuration: that of the CRF, and the base model."""
        base_model = keras.saving.serialize_keras_object(self.base_model)
        return {"base_model": base_model, **self.crf_layer.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The model of a configuration."""
        base_model = keras.saving.deserialize_keras_object(config.pop("base_model"))
        return cls(base_model, **config)
