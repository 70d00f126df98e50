"""Norms and histograms of weights and gradients while training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras._arrays import as_numpy
from fastkeras.training.arguments import integer
from fastkeras.training.callbacks.event_files import summary_writer
from fastkeras.training.gradients.several_gradients import Objective
from fastkeras.training.model_state import copied, synced
from fastkeras.training.substitution import value_of

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from fastkeras.typing import FilePath


class Norms(keras.callbacks.Callback):
    """Record the length of each trainable weight, and of its gradient on a fixed batch.

    With `log_dir` TensorBoard shows them, and histograms of all values. Keras' TensorBoard callback
    has histograms of weights (`histogram_freq`) but not of gradients, and needs TensorFlow and
    tensorboard on every backend. Histograms leave out values that are not finite; they show in the
    length.

    Args:
        data: a batch (x, y) or (x, y, sample weights), to record gradients too.
        every: record once in so many epochs.
        log_dir: folder for the event files of TensorBoard, one for each `fit`. On JAX and torch
            writing them needs tensorboardX (or TensorFlow, or on torch tensorboard).
        writer: instead of `log_dir`, anything with `add_scalar` and `add_histogram`, each of (tag,
            values, step), such as a `SummaryWriter` of torch or tensorboardX. It stays open.

    Attributes:
        history: dict with the epochs of all fits of one model, and for each weight
            "weight/<path>" and "gradient/<path>" a list of lengths. In TensorBoard these are the
            tags of the histograms, and the lengths have "weight_norm/<path>" and
            "gradient_norm/<path>".

    Raises:
        ImportError: `log_dir` is given, and no package is installed that writes event files.
        ValueError: `every` is below 1, `data` is not such a tuple, or both `log_dir` and `writer`
            are given.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> x = keras.Input((2,))
        >>> model = keras.Model(x, keras.layers.Dense(1, name="d")(x))
        >>> model.compile("sgd", "mse")
        >>> x, y = np.ones((4, 2)), np.ones((4, 1))
        >>> norms = Norms(data=(x, y))
        >>> history = model.fit(x, y, callbacks=[norms], verbose=0)
        >>> sorted(norms.history)
        ['epoch', 'gradient/d/bias', 'gradient/d/kernel', 'weight/d/bias', 'weight/d/kernel']
    """

    def __init__(
        self, data: Any = None, every: int = 1, log_dir: FilePath | None = None, writer: Any = None
    ) -> None:
        super().__init__()
        if log_dir is not None and writer is not None:
            raise ValueError("log_dir and writer: give one of them")
        if data is not None and not (isinstance(data, (tuple, list)) and 2 <= len(data) <= 3):
            raise ValueError(
                f"data must be (x, y) or (x, y, sample weights), got {type(data).__name__}"
            )
        self.data, self.every, self.writer = data, integer("every", every, 1), writer
        self.log_dir = log_dir
        self._writer_class: Any = None if log_dir is None else summary_writer()
        self.history: dict[str, list[float]] = {}

    def set_model(self, model: keras.Model) -> None:
        """Attach to a model; another one begins a new history."""
        if model is not self._model:
            self.history = {}
        super().set_model(model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self.log_dir is not None:
            self._close()  # the one of a fit that was interrupted
            self.writer = self._writer_class(str(self.log_dir))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._close()

    def _close(self):
        if self.log_dir is not None and self.writer is not None:
            self.writer.close()
            self.writer = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        variables = synced(self.model).trainable_variables
        self.history.setdefault("epoch", []).append(epoch)
        self._record("weight", variables, copied(variables), epoch)
        if self.data is not None:
            self._record("gradient", variables, gradients_of(self.model, *self.data), epoch)

    def _record(self, kind, variables, arrays, epoch):
        for variable, array in zip(variables, arrays, strict=True):
            length = float(np.linalg.norm(array.astype("float64").ravel()))
            self.history.setdefault(f"{kind}/{variable.path}", []).append(length)
            if self.writer is not None:
                self.writer.add_scalar(f"{kind}_norm/{variable.path}", length, epoch)
                finite = array[np.isfinite(array)]
                if finite.size:
                    self.writer.add_histogram(f"{kind}/{variable.path}", finite, epoch)


def gradients_of(
    model: keras.Model, x: Any, y: Any = None, sample_weight: Any = None
) -> list[NDArray[Any]]:
    """The gradients of a compiled model's loss on a batch; nothing changes.

    Args:
        model: a compiled model.
        x, y, sample_weight: a batch, as for `model.train_on_batch`.

    Returns:
        A list of NumPy arrays, in the order of `model.trainable_variables`.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        >>> model.compile(loss="mse")
        >>> model.set_weights([np.ones((2, 1))])
        >>> gradients_of(model, np.ones((4, 2), "float32"), np.ones((4, 1), "float32"))[0].tolist()
        [[2.0], [2.0]]
    """
    synced(model)
    data = keras.tree.map_structure(
        lambda part: None if part is None else ops.convert_to_tensor(part), (x, y, sample_weight)
    )
    others = (*model.non_trainable_variables, *model.metrics_variables)
    others = [(variable, ops.stop_gradient(value_of(variable))) for variable in others]
    values = [ops.stop_gradient(value_of(variable)) for variable in model.trainable_variables]
    gradients = Objective(model, data, others).gradients(values)
    return [np.array(as_numpy(gradient)) for gradient in gradients]
