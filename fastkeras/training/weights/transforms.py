"""Transforms of a weight before its use, for `Reparameterize`.

A unit is an entry along the last axis of a weight: a column of a Dense kernel, a filter of a
convolution. Each transform has the weight's shape and dtype, and can be called by itself.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import keras
import numpy as np
from keras import ops

from fastkeras.training.arguments import flag, integer, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from fastkeras.typing import ArrayLike, Tensor


class WeightTransform(keras.layers.Layer):
    """A layer from weight to weight.

    Subclasses override `call(weight)`; those that have weights of their own can initialise them
    from `self.initial()`, the value of the weight to be transformed. If `replaces` is set, that
    weight is no longer trained.

    Example:
        See `Reparameterize`.
    """

    replaces = False
    initial = None

    def build(self, shape: Any) -> None:
        """Make nothing."""

    def compute_output_spec(self, weight: Tensor, **options: Any) -> Any:
        """That of the weight."""
        return keras.KerasTensor(weight.shape, dtype=weight.dtype)

    def copy(self, variable: keras.Variable) -> Self:
        """A new transform like this one, for one variable."""
        config = {**self.get_config(), "dtype": variable.dtype, "name": self.name}
        return type(self).from_config(config)


@keras.saving.register_keras_serializable("fastkeras")
class SpectralNorm(WeightTransform):
    """Divide by the largest singular value, found by power iteration.

    The weight is reshaped to a matrix with one column for each unit; so the result bounds the
    Lipschitz constant of a Dense layer, but not exactly that of a convolution. A weight of one axis
    is treated as a diagonal matrix, as in BatchNormalization: it is divided by its largest
    magnitude. (The article's layer divides it by its length, and starts from a vector of ones,
    which finds nothing in a kernel whose rows have mean zero.)

    The singular value found is at most the true one, so the norm of the result is at least 1, and
    closer to it with more rounds. Without `persistent`, gradients flow through the rounds too.

    Args:
        iterations: rounds, at least 1.
        persistent: whether to keep the vector from step to step, as in the paper, and change it
            only in training; then one round is enough. If not, every call begins anew and depends
            only on the weight.
        axis: the axis of the units: −1, or −2 for transposed convolutions.
        **options: of `keras.layers.Layer`.

    Raises:
        ValueError: `iterations` is below 1.

    Example:
        >>> import numpy as np
        >>> normalized = SpectralNorm(20)(np.array([[3.0, 0.0], [0.0, 4.0]], "float32"))
        >>> round(float(np.linalg.norm(normalized, 2)), 3)
        1.0

    Source: Miyato et al., 2018, "Spectral normalization for generative adversarial networks"; Su
    Jianlin, 2019, https://kexue.fm/archives/6311.
    """

    def __init__(
        self,
        iterations: int = 5,
        persistent: bool = False,
        axis: int | Sequence[int] = -1,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.iterations = integer("iterations", iterations, 1)
        self.persistent, self.axis = flag("persistent", persistent), axis

    def build(self, shape: Any) -> None:
        """Make the vector."""
        if self.persistent and len(shape) > 1:
            self.vector = self.add_weight(
                shape=(shape[self.axis],), initializer=_start, trainable=False, name="vector"
            )

    def call(self, weight: Tensor, training: bool | None = None) -> Tensor:
        """The weight divided by its largest singular value."""
        if len(weight.shape) == 1:
            return weight / ops.maximum(ops.max(ops.abs(weight)), _TINY)
        matrix = ops.reshape(ops.moveaxis(weight, self.axis, -1), (-1, weight.shape[self.axis]))
        if not self.persistent:
            right = ops.convert_to_tensor(_start((matrix.shape[1],), weight.dtype))
            return weight / _largest(matrix, _iterate(matrix, right, self.iterations))
        right = ops.convert_to_tensor(self.vector)
        if training:
            right = _iterate(ops.stop_gradient(matrix), right, self.iterations)
            self.vector.assign(right)
        return weight / _largest(matrix, ops.stop_gradient(right))

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = {"iterations": self.iterations, "persistent": self.persistent, "axis": self.axis}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("fastkeras")
class WeightNorm(WeightTransform):
    """Separate length and direction of each unit: gain · w / |w|, with trained gains.

    Gains begin as the lengths of the units, so that wrapping a layer changes nothing at first.

    Example:
        See `Reparameterize`.

    Source: Salimans & Kingma, 2016, "Weight normalization".
    """

    def build(self, shape: Any) -> None:
        """Make the gains."""

        def lengths(shape, dtype=None):
            if self.initial is None:
                return ops.ones(shape, dtype)
            return ops.reshape(_length(self.initial()), shape)

        self.gain = self.add_weight(shape=(shape[-1],), initializer=lengths, name="gain")

    def call(self, weight: Tensor) -> Tensor:
        """The weight, its units scaled to lengths equal to the gains."""
        return self.gain * (weight / ops.maximum(_length(weight), _TINY))


@keras.saving.register_keras_serializable("fastkeras")
class L2Normalize(WeightTransform):
    """Each unit has length 1: with inputs of length 1 a Dense layer computes cosines.

    Args:
        axis: axis or axes of a unit; all but the last by default. With −1 the rows of an Embedding
            have length 1.
        **options: of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.training import L2Normalize
        >>> np.asarray(L2Normalize()(np.array([[3.0, 0.0], [4.0, 2.0]])))
        array([[0.6, 0. ],
               [0.8, 1. ]], dtype=float32)
    """

    def __init__(self, axis: int | Sequence[int] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, weight: Tensor) -> Tensor:
        """The weight divided by the lengths of its units."""
        return weight / ops.maximum(_length(weight, self.axis), _TINY)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable("fastkeras")
class WeightStandardization(WeightTransform):
    """Each unit has mean 0 and variance 1, over all axes but the last.

    Args:
        epsilon: added to the variance.
        **options: of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.training import WeightStandardization
        >>> np.asarray(WeightStandardization(epsilon=0)(np.array([[3.0], [5.0]]))).round(3)
        array([[-1.],
               [ 1.]], dtype=float32)

    Source: Qiao et al., 2019, "Micro-batch training with batch-channel normalization and weight
    standardization".
    """

    def __init__(self, epsilon: float = 1e-5, **options: Any) -> None:
        super().__init__(**options)
        self.epsilon = number("epsilon", epsilon, "at least 0", lambda epsilon: epsilon >= 0)

    def call(self, weight: Tensor) -> Tensor:
        """The standardised weight."""
        axes = tuple(range(len(weight.shape) - 1))
        centred = weight - ops.mean(weight, axes, keepdims=True)
        return centred * ops.rsqrt(ops.mean(centred**2, axes, keepdims=True) + self.epsilon)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("fastkeras")
class LowRank(WeightTransform):
    """A product of two matrices in place of the weight, which is no longer trained.

    The product begins as the best approximation of the weight, by its singular values. Fewer
    numbers are trained, but the weight stays in memory. (To add a low-rank difference to a weight,
    Keras has LoRA.)

    Args:
        rank: number of columns of the first and rows of the second, at least 1.
        **options: of `keras.layers.Layer`.

    Raises:
        ValueError: `rank` is below 1 or above that of the weight.

    Example:
        See `Reparameterize`.
    """

    replaces = True

    def __init__(self, rank: int, **options: Any) -> None:
        super().__init__(**options)
        self.rank = integer("rank", rank, 1)

    def build(self, shape: Any) -> None:
        """Make the factors."""
        rows, columns = int(np.prod(shape[:-1])), shape[-1]
        if self.rank > min(rows, columns):
            raise ValueError(f"rank={self.rank} must be at most {min(rows, columns)} here")

        def factor(left):
            def initializer(shape, dtype=None):
                if self.initial is None:
                    return keras.initializers.GlorotUniform(0)(shape, dtype)
                u, s, v = ops.svd(ops.reshape(self.initial(), (rows, columns)), full_matrices=False)
                root = ops.sqrt(s[: self.rank])
                return u[:, : self.rank] * root if left else root[:, None] * v[: self.rank]

            return initializer

        self.left = self.add_weight(shape=(rows, self.rank), initializer=factor(True), name="left")
        self.right = self.add_weight(
            shape=(self.rank, columns), initializer=factor(False), name="right"
        )

    def call(self, weight: Tensor) -> Tensor:
        """The product, in the weight's shape."""
        return ops.reshape(ops.matmul(self.left, self.right), weight.shape)

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        return {**super().get_config(), "rank": self.rank}


@keras.saving.register_keras_serializable("fastkeras")
class Masked(WeightTransform):
    """Entries where the mask is 0 are 0 and get no gradient, whatever the weight holds there.

    Args:
        mask: array of the weight's shape, or one that broadcasts to it. It is saved both in the
            configuration, one bit for each entry, and with the weights.
        **options: of `keras.layers.Layer`.

    Example:
        >>> import numpy as np
        >>> from fastkeras.training import Masked
        >>> np.asarray(Masked(np.eye(2))(np.ones((2, 2))))
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """

    def __init__(self, mask: ArrayLike | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._given = None if mask is None else _unpacked(mask)

    def build(self, shape: Any) -> None:
        """Make the mask."""

        def initializer(shape, dtype=None):
            mask = np.ones(shape, bool) if self._given is None else self._given
            return ops.convert_to_tensor(np.broadcast_to(mask, shape).astype("uint8"))

        self.mask = self.add_weight(
            shape=shape, initializer=initializer, trainable=False, dtype="uint8", name="mask"
        )

    def call(self, weight: Tensor) -> Tensor:
        """The masked weight."""
        return ops.where(ops.cast(self.mask, "bool"), weight, 0)

    def get_config(self) -> dict[str, Any]:
        """The configuration, with the mask as it was given."""
        mask = None if self._given is None else _packed(self._given)
        return {**super().get_config(), "mask": mask}


_TINY = 1e-12


def _packed(mask):
    bits = base64.b64encode(np.packbits(mask).tobytes()).decode("ascii")
    return {"shape": list(mask.shape), "bits": bits}


def _unpacked(mask):
    if not isinstance(mask, dict):
        return np.asarray(mask).astype(bool)
    shape, bits = tuple(mask["shape"]), np.frombuffer(base64.b64decode(mask["bits"]), "uint8")
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _start(shape, dtype=None):
    vector = np.random.default_rng(0).standard_normal(shape)
    return (vector / np.linalg.norm(vector)).astype(keras.backend.standardize_dtype(dtype))


def _iterate(matrix, right, rounds):
    for _ in range(rounds):
        left = _unit(ops.matmul(matrix, right[:, None]))
        right = _unit(ops.matmul(ops.transpose(matrix), left))[:, 0]
    return right


def _largest(matrix, right):
    square = ops.sum(ops.square(ops.matmul(matrix, right[:, None])))
    return ops.sqrt(ops.maximum(square, _TINY**2))


def _unit(column):
    return column * ops.rsqrt(ops.maximum(ops.sum(column * column), _TINY**2))


def _length(weight, axis=None):
    axis = tuple(range(len(weight.shape) - 1)) if axis is None else axis
    return ops.sqrt(ops.maximum(ops.sum(weight * weight, axis, keepdims=True), _TINY**2))
