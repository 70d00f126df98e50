"""F1, precision and recall of spans that may be nested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.tagging.span_loss import labels_of_spans
from fastkeras.training.arguments import number, one_of, optional_integer

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Tensor

MEASURES = ("f1", "precision", "recall")


@keras.saving.register_keras_serializable("fastkeras")
class NestedSpanScore(keras.metrics.Metric):
    """F1, precision or recall of the spans whose scores are above a threshold.

    A span is right if there is one with the same first and last step and the same type in the
    labels; where these are numbers from 0 to 1, one that is above 0.5. Spans of all sequences and
    types are counted together (micro average).

    Args:
        measure: "f1", "precision" or "recall".
        kind: the number of the type whose spans count; None for all.
        threshold: as in `fastkeras.tagging.decode_spans`.
        name: name of the metric; None for span_f1, span_f1_2 and so on.
        dtype: dtype of its state.

    Raises:
        ValueError: an argument out of range; labels of another shape.

    Example:
        >>> import numpy as np
        >>> from fastkeras.metrics import NestedSpanScore
        >>> scores = np.full((1, 1, 3, 3), -1.0)
        >>> scores[0, 0, 0, 2] = scores[0, 0, 1, 1] = 1.0
        >>> f1 = NestedSpanScore()
        >>> f1.update_state(np.array([[[0, 2, 0]]]), scores)
        >>> round(float(f1.result()), 6)
        0.666667

    Source: Su et al., 2022, "Global Pointer", arXiv 2208.03054, section 3.
    """

    def __init__(
        self,
        measure: str = "f1",
        kind: int | None = None,
        threshold: float = 0.0,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        one_of("measure", measure, MEASURES)
        kind = optional_integer("kind", kind, 0)
        default = "_".join(["span", measure, *([] if kind is None else [str(kind)])])
        super().__init__(name=default if name is None else name, dtype=dtype)
        self.measure, self.kind = measure, kind
        self.threshold = float(number("threshold", threshold, "a number", lambda x: x == x))
        self.total = self.add_variable((3,), initializer="zeros", name="total")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        """Count a batch.

        Args:
            y_true, y_pred: as for `SpanCrossentropy`.
            sample_weight: shape (batch,), or None.
        """
        labels, _ = labels_of_spans(y_true, y_pred)
        true = ops.cast(labels, self.dtype) > 0.5
        found = ops.convert_to_tensor(y_pred) > self.threshold
        if self.kind is not None:
            if self.kind >= y_pred.shape[1]:
                raise ValueError(f"kind={self.kind} must be below {y_pred.shape[1]}, the types")
            true, found = true[:, self.kind], found[:, self.kind]
        axes = tuple(range(1, len(true.shape)))
        counts = ops.stack(
            [
                ops.sum(ops.cast(where, self.dtype), axis=axes)
                for where in (true & found, found, true)
            ]
        )
        if sample_weight is not None:
            counts = counts * ops.reshape(ops.cast(sample_weight, self.dtype), (1, -1))
        self.total.assign_add(ops.sum(counts, axis=1))

    def result(self) -> Tensor:
        """The measure so far; 0 where it is undefined."""
        right, found, true = ops.unstack(ops.convert_to_tensor(self.total), 3)
        of = {"precision": found, "recall": true, "f1": (found + true) / 2}[self.measure]
        return ops.divide_no_nan(right, of)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = {"measure": self.measure, "kind": self.kind, "threshold": self.threshold}
        return {**super().get_config(), **own}
