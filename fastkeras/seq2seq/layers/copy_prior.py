"""The prior that a generated token already occurs in the source."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("fastkeras")
class CopyPrior(keras.layers.Layer):
    """The average of the logits and a prior that knows which tokens the source contains.

    With χ_v = 1 if the token v is in the source and else 0, and s and t learned for each token,
        (logits_v + exp(s_v) χ_v + t_v) / 2
    s and t are initially zero. Useful where the output mostly consists of words of the input, as a
    headline does of words of its article.

    Call:
        logits: (batch, steps, vocabulary_size).
        in_source: χ, (batch, vocabulary_size), or the tokens of the source, integers (batch, source
            steps); tokens up to `padding` do not count.

    Args:
        padding: the token that stands for padding, 0 by default.
        **options: those of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.layers import CopyPrior
        >>> CopyPrior()(np.zeros((1, 1, 4), "float32"), np.array([[2, 3, 2, 0]]))[0, 0].numpy()
        array([0. , 0. , 0.5, 0.5], dtype=float32)

    Source: Su Jianlin, 2018, https://kexue.fm/archives/5861 (its `ScaleShift`).
    """

    def __init__(self, padding=0, **options):
        super().__init__(**options)
        self.padding = padding

    def build(self, logits_shape, in_source_shape=None):
        size = (logits_shape[-1],)
        self.log_scale = self.add_weight(name="log_scale", shape=size, initializer="zeros")
        self.shift = self.add_weight(name="shift", shape=size, initializer="zeros")
        self.built = True

    def call(self, logits, in_source):
        if keras.backend.is_int_dtype(in_source.dtype):
            in_source = tokens_in(in_source, logits.shape[-1], logits.dtype, self.padding)
        prior = ops.exp(self.log_scale) * in_source + self.shift
        return (logits + prior[:, None]) / 2

    def compute_output_shape(self, logits_shape, in_source_shape=None):
        return logits_shape

    def get_config(self):
        return {**super().get_config(), "padding": self.padding}


def tokens_in(source, vocabulary_size, dtype="float32", padding=0):
    """χ, (batch, vocabulary_size): 1 for each token that occurs in the source, else 0."""
    source = ops.cast(ops.convert_to_tensor(source), "int32")
    rows = ops.shape(source)[0]
    place = ops.arange(rows, dtype="int32")[:, None] * (vocabulary_size + 1)
    place = place + ops.where(source > padding, source, vocabulary_size)
    place = ops.reshape(place, (-1, 1))
    counts = ops.scatter(place, ops.ones_like(place[:, 0]), (rows * (vocabulary_size + 1),))
    counts = ops.reshape(counts, (rows, vocabulary_size + 1))[:, :vocabulary_size]
    return ops.cast(counts > 0, dtype)
