"""Learning-rate schedules that Keras lacks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.optimizers.hyperparameters import checked_integer, checked_number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fastkeras.typing import Tensor


@keras.saving.register_keras_serializable("fastkeras")
class PiecewiseLinear(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that is linear between points, as for warm-up and decay.

    Before the first point it is the first point's rate, after the last point the last one's.

    Args:
        points: pairs `(step, learning_rate)`, or a dict, in ascending order of steps, which are
            whole numbers from 0; rates are finite.
        name: string.

    Raises:
        ValueError: there is no point, a number is not as above, or the steps do not ascend.

    Example:
        >>> from fastkeras.optimizers import PiecewiseLinear
        >>> schedule = PiecewiseLinear([(0, 0.0), (100, 1.0), (300, 0.5)])
        >>> [float(schedule(step)) for step in (0, 50, 100, 200, 300, 1000)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """

    def __init__(
        self,
        points: Mapping[int, float] | Sequence[tuple[int, float]],
        name: str = "PiecewiseLinear",
    ) -> None:
        super().__init__()
        points = points.items() if isinstance(points, Mapping) else points
        self.points = [
            (
                checked_integer("points: a step", step, 0),
                float(checked_number("points: a learning rate", rate, "a finite number")),
            )
            for step, rate in points
        ]
        self.name = name
        steps = [step for step, _ in self.points]
        if not steps or any(b <= a for a, b in pairwise(steps)):
            raise ValueError(f"points must be at least one, in ascending order, got {self.points}")

    def __call__(self, step: Any) -> Tensor:
        steps, rates = (np.array(column, "float32") for column in zip(*self.points, strict=True))
        slopes = np.diff(rates) / np.diff(steps)
        step = ops.cast(step, "float32")
        # Each segment adds its share of the difference between its ends.
        rate = ops.convert_to_tensor(rates[0])
        for begin, end, slope in zip(steps[:-1], steps[1:], slopes, strict=True):
            rate = rate + (ops.clip(step, begin, end) - begin) * slope
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"points": [list(point) for point in self.points], "name": self.name}
