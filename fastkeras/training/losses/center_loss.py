"""Center loss: draws features to the centre of their class; the centres are learned too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.training.arguments import integer
from fastkeras.training.losses.counted import without_uncounted
from fastkeras.training.losses.labels import positions
from fastkeras.training.losses.loss_layers import LossLayer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Identifier, Tensor


@keras.saving.register_keras_serializable("fastkeras")
class CenterDistances(keras.layers.Layer):
    """Half the squared distances of features to the learned centres of all classes.

    Its output has shape (batch, classes), so that `CenterLoss` is a loss like any other: the
    centres are weights of the model, are saved with it and get their gradient on every backend.
    It takes memory for batch × classes × features numbers; with many classes use `CenterLossLayer`.

    Args:
        classes: number of classes.
        centers_initializer: "zeros" as in the paper, or any other.
        **options: of `keras.layers.Layer`.

    Example:
        >>> import keras
        >>> x = keras.Input((8,))
        >>> features = keras.layers.Dense(2)(x)
        >>> logits = keras.layers.Dense(10, name="logits")(features)
        >>> distances = CenterDistances(10, name="distances")(features)
        >>> model = keras.Model(x, {"logits": logits, "distances": distances})
        >>> cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", {"logits": cross_entropy, "distances": CenterLoss()},
        ...               loss_weights={"logits": 1, "distances": 0.5})

    Source: Wen, Zhang, Li & Qiao, 2016, "A discriminative feature learning approach for deep face
    recognition"; Su Jianlin, 2018, https://kexue.fm/archives/5765.
    """

    def __init__(
        self, classes: int, centers_initializer: Identifier = "zeros", **options: Any
    ) -> None:
        super().__init__(**options)
        self.classes = integer("classes", classes, 1)
        self.centers_initializer = keras.initializers.get(centers_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the centres."""
        self.centers = self.add_weight(
            shape=(self.classes, input_shape[-1]),
            initializer=self.centers_initializer,
            name="centers",
        )

    def call(self, features: Tensor) -> Tensor:
        """Distances of shape (batch, classes)."""
        # |f|² - 2fc + |c|² would lose all digits where features are near their centre
        return 0.5 * ops.sum(ops.square(features[:, None] - self.centers), -1)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        initializer = keras.initializers.serialize(self.centers_initializer)
        own = {"classes": self.classes, "centers_initializer": initializer}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("fastkeras")
class CenterLoss(keras.losses.Loss):
    """The entry of the true class in the output of `CenterDistances`.

    Labels are integers of shape (batch,) or (batch, 1).

    Args:
        reduction: as in `keras.losses.Loss`.
        name: name of the loss.

    Example:
        See `CenterDistances`.
    """

    def __init__(self, reduction: str = "sum_over_batch_size", name: str = "center_loss") -> None:
        super().__init__(reduction=reduction, name=name)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> Tensor:
        """The loss of a batch, reduced."""
        y_true = ops.cast(y_true, "float32")  # of int64 JAX would make int32
        y_true, y_pred = without_uncounted(y_true, y_pred, sample_weight)
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Losses of shape (batch,)."""
        labels = positions(ops.reshape(y_true, (-1, 1)), y_pred.shape[-1])
        return ops.squeeze(ops.take_along_axis(y_pred, labels, axis=-1), -1)


@keras.saving.register_keras_serializable("fastkeras")
class CenterLossLayer(LossLayer):
    """Center loss as a layer: called with [features, labels], it returns the features.

    Reads only the centres of the labels in the batch, whatever the number of classes. Labels are
    another input of the model: integers of shape (batch,) or (batch, 1).

    A centre's gradient is proportional to the share of its class in the batch, so centres of rare
    classes move slowly; with `learning_rate_multipliers=[("centers", 10)]` of any fastkeras
    optimizer centres move faster than the network.

    Args:
        classes: number of classes.
        weight: factor of the loss, as in `LossLayer`.
        centers_initializer: "zeros" as in the paper, or any other.
        **options: of `LossLayer`.

    Raises:
        ValueError: as `LossLayer`.

    Example:
        >>> import keras
        >>> x, label = keras.Input((8,)), keras.Input((), dtype="int32")
        >>> features = CenterLossLayer(10, 0.5)([keras.layers.Dense(2)(x), label])
    """

    def __init__(
        self,
        classes: int,
        weight: float = 0.5,
        centers_initializer: Identifier = "zeros",
        **options: Any,
    ) -> None:
        super().__init__(weight=weight, **options)
        self.classes = integer("classes", classes, 1)
        self.centers_initializer = keras.initializers.get(centers_initializer)

    build_centers = CenterDistances.build

    def build(self, input_shape: Any) -> None:
        """Make the centres."""
        self.build_centers(input_shape[0])

    def compute_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Losses of shape (batch,)."""
        labels = positions(ops.reshape(labels, (-1,)), self.classes)
        return 0.5 * ops.sum(ops.square(features - ops.take(self.centers, labels, axis=0)), -1)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        initializer = keras.initializers.serialize(self.centers_initializer)
        own = {"classes": self.classes, "centers_initializer": initializer}
        return {**super().get_config(), **own}
