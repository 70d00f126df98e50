"""bert4keras' `ConditionalRandomField`, `ViterbiDecoder` and `AutoRegressiveDecoder`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras import crf
from fastkeras.compat.autoregressive import AutoRegressiveDecoder
from fastkeras.crf.layers.output import at_least_float32
from fastkeras.training.arguments import positive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import ArrayLike, Tensor

__all__ = ["AutoRegressiveDecoder", "ConditionalRandomField", "ViterbiDecoder"]

# bert4keras writes the former at masked steps, and takes all below the latter as masked.
MASKED, IS_MASKED = -1e12, -1e6


@keras.saving.register_keras_serializable(package="fastkeras.compat", name="bert4keras.CRF")
class ConditionalRandomField(keras.layers.Layer):
    """Owns the transitions `trans`; returns its inputs, with −1e12 at masked steps.

    The losses, and the accuracies of the plain argmax, find the mask in these values.

    Args:
        lr_multiplier: the transitions are stored divided by this number and multiplied by it when
            used, so that under Adam they change so many times faster.
        **kwargs: of `keras.layers.Layer`.

    Raises:
        ValueError: the multiplier is not above 0.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.compat.bert4keras import ConditionalRandomField, ViterbiDecoder
        >>> layer = ConditionalRandomField(lr_multiplier=100)
        >>> model = keras.Sequential([keras.layers.Dense(3), layer])
        >>> model.compile("adam", loss=layer.sparse_loss, metrics=[layer.sparse_accuracy])
        >>> history = model.fit(np.ones((2, 5, 4)), np.ones((2, 5), int), verbose=0)
        >>> decoder = ViterbiDecoder(keras.ops.convert_to_numpy(layer.trans), starts=[0])
        >>> decoder.decode(np.array([[1.0, 2.0, 3.0]]))
        array([0])

    Source: bert4keras.layers, 0.11.5.
    """

    def __init__(self, lr_multiplier: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lr_multiplier = positive("lr_multiplier", lr_multiplier)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Create the transitions for inputs of shape (batch, steps, num_tags)."""
        shape = (input_shape[-1], input_shape[-1])
        initial = keras.initializers.GlorotUniform()
        self._trans = self.add_weight(
            shape,
            lambda shape, dtype: initial(shape, dtype) / self.lr_multiplier,
            name="trans",
            autocast=False,
        )

    @property
    def trans(self) -> Tensor:
        """Transition scores, (num_tags, num_tags), multiplier included."""
        return ops.convert_to_tensor(self._trans) * self.lr_multiplier

    def call(self, inputs: Any, mask: Tensor = None) -> Tensor:
        """The inputs, −1e12 at masked steps."""
        return inputs if mask is None else ops.where(mask[..., None], inputs, MASKED)

    def compute_mask(self, inputs: Any, mask: Tensor = None) -> Any:
        """None: the mask is in the values."""

    def dense_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Negative log-likelihoods, (batch,), of one-hot labels (batch, steps, num_tags)."""
        return self.sparse_loss(ops.argmax(y_true, axis=-1), y_pred)

    def sparse_loss(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Negative log-likelihoods, (batch,), of labels (batch, steps) or (batch, steps, 1)."""
        mask, tags = _mask(y_pred), _tags(y_true, y_pred)
        return -crf.log_likelihood(at_least_float32(y_pred), tags, self.trans, mask=mask)

    def dense_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Share of the steps whose largest logit is that of the one-hot label, as a scalar."""
        return self.sparse_accuracy(ops.argmax(y_true, axis=-1), y_pred)

    def sparse_accuracy(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The same for labels (batch, steps) or (batch, steps, 1)."""
        mask, tags = _mask(y_pred), _tags(y_true, y_pred)
        right = mask & (tags == ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        return ops.sum(ops.cast(right, "float32")) / ops.sum(ops.cast(mask, "float32"))

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "lr_multiplier": self.lr_multiplier}


class ViterbiDecoder:
    """Decodes one sequence of logits, a NumPy array.

    Args:
        trans: transition scores, shape (num_tags, num_tags).
        starts, ends: the tags that may come first and last; None for all.

    Example:
        >>> import numpy as np
        >>> from fastkeras.compat.bert4keras import ViterbiDecoder
        >>> decoder = ViterbiDecoder(np.array([[0.0, 0.0], [10.0, 0.0]]))
        >>> decoder.decode(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
        [1, 0]

    Source: bert4keras.snippets, 0.11.5.
    """

    def __init__(
        self,
        trans: ArrayLike,
        starts: Sequence[int] | None = None,
        ends: Sequence[int] | None = None,
    ) -> None:
        self.trans = np.asarray(trans)
        self.num_labels = len(self.trans)
        self._start, self._end = (
            None if tags is None else np.where(np.isin(range(self.num_labels), tags), 0, -np.inf)
            for tags in (starts, ends)
        )

    def decode(self, nodes: ArrayLike) -> NDArray[Any]:
        """The best tags, int (steps,), of logits (steps, num_tags), which do not change."""
        boundaries: dict[str, Any] = {
            "start_transitions": self._start,
            "end_transitions": self._end,
        }
        return crf.viterbi(np.asarray(nodes)[None], self.trans, **boundaries)[0][0].astype(int)


def _mask(y_pred):
    return ops.any(y_pred > IS_MASKED, axis=-1)


def _tags(y_true, y_pred):
    return ops.cast(ops.reshape(y_true, ops.shape(y_pred)[:-1]), "int32")
