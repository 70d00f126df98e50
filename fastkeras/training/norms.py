"""Norms and histograms of weights and gradients while training."""

import keras
import numpy as np
from keras import ops

from fastkeras.training.several_gradients import Objective
from fastkeras.training.substitution import value_of
from fastkeras.training.weights import copied, synced


class Norms(keras.callbacks.Callback):
    """Record the length of each trainable weight, and of its gradient on a fixed batch.

    Keras' TensorBoard callback has histograms of weights (`histogram_freq`); it has none of
    gradients, and is bound to TensorFlow.

    Args:
        data: a batch (x, y) or (x, y, sample weights), to show gradients too.
        every: epochs from one record to the next.
        writer: anything with `add_histogram(tag, values, step)`, such as the `SummaryWriter` of
            torch or tensorboardX: gets all values.

    Attributes:
        history: dict with the epochs, and for each weight "weight/<path>" and "gradient/<path>" a
            list of lengths.

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

    def __init__(self, data=None, every=1, writer=None):
        super().__init__()
        if every < 1:
            raise ValueError(f"every={every!r} must be at least 1")
        self.data, self.every, self.writer = data, every, writer
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        variables = synced(self.model).trainable_variables
        self.history.setdefault("epoch", []).append(epoch)
        self._record("weight", variables, copied(variables), epoch)
        if self.data is not None:
            self._record("gradient", variables, gradients_of(self.model, *self.data), epoch)

    def _record(self, kind, variables, arrays, epoch):
        for variable, array in zip(variables, arrays, strict=True):
            tag = f"{kind}/{variable.path}"
            length = float(np.linalg.norm(array.astype("float64").ravel()))
            self.history.setdefault(tag, []).append(length)
            if self.writer is not None:
                self.writer.add_histogram(tag, array, epoch)


def gradients_of(model, x, y=None, sample_weight=None):
    """The gradients of a compiled model's loss on a batch, as NumPy arrays; it is left as it is.

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
    gradients = Objective(model, data, others, None).gradients(values)
    return [np.array(ops.convert_to_numpy(gradient)) for gradient in gradients]
