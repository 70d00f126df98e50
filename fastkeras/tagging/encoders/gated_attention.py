"""The gated attention unit: attention and a gated feed-forward layer in one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
from keras import ops

from fastkeras.tagging.encoders.relative_positions import RelativePositionBias
from fastkeras.tagging.encoders.rotary import rotary_positions
from fastkeras.training.arguments import flag, integer, one_of, optional_integer, share
from fastkeras.training.masking import normalized, without_masked

if TYPE_CHECKING:
    from typing import Any

    from fastkeras.typing import Identifier, Tensor

NORMALIZATIONS = ("squared_relu", "softmax", "softmax_plus", "laplace")


@keras.saving.register_keras_serializable("fastkeras")
class GatedAttentionUnit(keras.layers.Layer):
    """Gated attention unit: one layer in place of attention and feed-forward layer of a block.

        o = (u ⊙ A v) W_o,      u, v, z = φ(x W_u), φ(x W_v), φ(x W_z),      A = f(⟨q, k⟩)

    q and k are two scalings, with offsets, of the same small z. So there is one head, and half of
    the usual number of attention parameters. With n, the number of steps that a step may attend to,
    size s = `key_dim` and a bias b of the distance (0 without `num_buckets`), f is

        squared_relu    max(0, ⟨q, k⟩ / √s + b)² / n
        softmax         softmax(⟨q, k⟩ / √s + b)
        softmax_plus    softmax(⟨q, k⟩ log(n) / (√s log(512)) + b), for lengths not seen in training
        laplace         (1 + erf((⟨q, k⟩ / n + b − √½) / (σ √2))) / 2 with σ = 1 / √(4π)

    Neither normalization nor a residual connection is inside: for a block, `x + unit(norm(x))` or
    `norm(x + unit(x))`, and two such blocks in place of one of a transformer.

    Args:
        intermediate_dim: the size of u and v; None for twice the channels of the input.
        key_dim: s, the size of z; even, for rotary positions.
        normalization: f.
        use_rotary: whether q and k are turned by their positions.
        num_buckets: None, or the number of buckets of distances that have a b of their own, as in
            `RelativePositionBias`.
        causal: whether a step attends to itself and to earlier steps only.
        dropout: the share of A that is dropped in training.
        activation: φ.
        use_bias: whether the linear functions have a bias.
        kernel_initializer: of their kernels.
        **kwargs: of `keras.layers.Layer`.

    Call arguments:
        inputs: float, shape (batch, steps, channels).
        mask: bool, shape (batch, steps): no step attends to a masked one, and n does not count it.

    Returns:
        Shape (batch, steps, channels), in the compute dtype, with the mask of the inputs. A is
        computed in at least float32.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> import keras
        >>> import numpy as np
        >>> from fastkeras.layers import GatedAttentionUnit
        >>> words = keras.Input((None,), dtype="int32")
        >>> x = keras.layers.Embedding(100, 16, mask_zero=True)(words)
        >>> for _ in range(2):
        ...     x = keras.layers.LayerNormalization()(x + GatedAttentionUnit(key_dim=8)(x))
        >>> keras.Model(words, x)(np.array([[5, 6, 7, 0]])).shape == (1, 4, 16)
        True

    Source: Hua et al., 2022, "Transformer quality in linear time", arXiv 2202.10447, section 2; the
        scale of squared_relu and softmax_plus: Su Jianlin, 2022, https://kexue.fm/archives/8934 and
        https://kexue.fm/archives/9019; laplace: Ma et al., 2023, "Mega", arXiv 2209.10655.
    """

    def __init__(
        self,
        intermediate_dim: int | None = None,
        key_dim: int = 128,
        normalization: str = "squared_relu",
        use_rotary: bool = True,
        num_buckets: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        activation: Identifier = "silu",
        use_bias: bool = False,
        kernel_initializer: Identifier = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.intermediate_dim = optional_integer("intermediate_dim", intermediate_dim, 1)
        self.key_dim = integer("key_dim", key_dim, 1)
        self.normalization = one_of("normalization", normalization, NORMALIZATIONS)
        self.use_rotary, self.causal = flag("use_rotary", use_rotary), flag("causal", causal)
        if self.use_rotary and key_dim % 2:
            raise ValueError(f"key_dim={key_dim} must be even, for rotary positions")
        self.num_buckets = num_buckets
        self.dropout = share("dropout", dropout)
        self.activation = keras.activations.get(activation)
        self.use_bias = flag("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.positions = None
        if num_buckets is not None:
            self.positions = RelativePositionBias(
                1, num_buckets, bidirectional=not causal, dtype=self.dtype_policy
            )
        self.drop = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy)
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape: Any) -> None:
        """Create the weights for inputs of shape (batch, steps, channels)."""
        channels = input_shape[-1]
        self.size = self.intermediate_dim or 2 * channels

        def dense(units, name):
            return keras.layers.Dense(
                units,
                use_bias=self.use_bias,
                kernel_initializer=self.kernel_initializer,
                dtype=self.dtype_policy,
                name=name,
            )

        self.inner, self.outer = (
            dense(2 * self.size + self.key_dim, "inner"),
            dense(channels, "outer"),
        )
        self.inner.build(input_shape)
        self.outer.build((*input_shape[:-1], self.size))
        shape = (2, self.key_dim)  # of q and of k
        self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
        self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        if self.positions is not None:
            self.positions.build(input_shape)
        self.built = True

    def call(self, inputs: Any, mask: Tensor = None, training: bool | None = None) -> Tensor:
        """See the docstring of the class."""
        inner = self.activation(self.inner(without_masked(inputs, mask)))
        u, v, z = (
            inner[..., : self.size],
            inner[..., self.size : 2 * self.size],
            inner[..., 2 * self.size :],
        )
        both = z[..., None, :] * self.gamma + self.beta
        if self.use_rotary:
            both = rotary_positions(both)
        weights = self.drop(
            self._attention(both[..., 0, :], both[..., 1, :], mask), training=training
        )
        return self.outer(u * ops.matmul(weights, v))

    def _attention(self, q, k, mask):
        """A, shape (batch, steps, steps); 0 where a step is not attended to."""
        dtype = q.dtype
        wide = "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"
        steps = ops.shape(q)[1]
        allowed = ops.ones((1, steps, steps), "bool")
        if self.causal:
            t = ops.arange(steps, dtype="int32")
            allowed = (t[:, None] >= t[None])[None]
        if mask is not None:
            allowed = allowed & ops.cast(mask, "bool")[:, None]
        count = ops.maximum(ops.sum(ops.cast(allowed, wide), axis=-1, keepdims=True), 1)
        # the scale goes into q, so that no product leaves the range of float16
        root = self.key_dim**-0.5
        scores = ops.cast(ops.einsum("btd,bsd->bts", q * ops.cast(root, dtype), k), wide)
        if self.normalization == "softmax_plus":
            scores = scores * (ops.log(count) / math.log(512))
        if self.normalization == "laplace":
            scores = scores / (root * count)
        if self.positions is not None:
            scores = scores + ops.cast(self.positions(q), wide)
        if self.normalization.startswith("softmax"):
            return ops.cast(normalized(scores, allowed), dtype)
        if self.normalization == "laplace":  # σ √2 = 1 / √(2π)
            weights = (1 + ops.erf((scores - math.sqrt(0.5)) * math.sqrt(2 * math.pi))) / 2
        else:
            weights = ops.square(ops.relu(scores)) / count
        return ops.cast(ops.where(allowed, weights, 0), dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the inputs."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The configuration."""
        own = (
            "intermediate_dim",
            "key_dim",
            "normalization",
            "use_rotary",
            "num_buckets",
            "causal",
        )
        config = {name: getattr(self, name) for name in (*own, "dropout", "use_bias")}
        return {
            **super().get_config(),
            **config,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
