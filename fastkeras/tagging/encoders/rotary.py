"""Rotary position embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from keras import backend, ops

from fastkeras.training.arguments import positive

if TYPE_CHECKING:
    from fastkeras.typing import ArrayLike, Tensor


def rotary_positions(
    x: Tensor, positions: ArrayLike | None = None, base: float = 10000.0
) -> Tensor:
    """Turn queries or keys by their positions, so that inner products depend on distances.

    The numbers 2i and 2i + 1 of a vector at position t are a point in the plane, which is turned by
    the angle t · base^(−2i / size). The inner product of two turned vectors depends on how far
    apart they are, and not on where.

    Args:
        x: float, shape (batch, steps, …, size), with an even size.
        positions: numbers, shape (steps,) or (batch, steps). None: 0, 1, 2 …
        base: the ratio of the largest wavelength to the smallest, nearly.

    Returns:
        A tensor of the shape and dtype of x. Angles are computed in float32 or wider.

    Raises:
        ValueError: x has fewer than three axes, or an odd size; base is not above 0.

    Example:
        >>> import numpy as np
        >>> from fastkeras.tagging import rotary_positions
        >>> x = rotary_positions(np.ones((1, 9, 4)))[0].numpy()
        >>> np.allclose(x[2] @ x[5], x[4] @ x[7])
        True

    Source: Su et al., 2021, "RoFormer: enhanced transformer with rotary position embedding", arXiv
        2104.09864.
    """
    x = ops.convert_to_tensor(x)
    shape = tuple(x.shape)
    if len(shape) < 3 or shape[-1] is None or shape[-1] % 2:
        raise ValueError(f"x must have shape (batch, steps, …, an even size), got {shape}")
    positive("base", base)
    half = shape[-1] // 2
    wide = "float64" if backend.standardize_dtype(x.dtype) == "float64" else "float32"
    if positions is None:
        positions = ops.arange(ops.shape(x)[1], dtype="int32")
    positions = ops.cast(positions, wide)
    frequencies = ops.convert_to_tensor((float(base) ** (-np.arange(half) / half)).astype(wide))
    angles = positions[..., None] * frequencies  # ([batch,] steps, half)
    if len(angles.shape) == 2:
        angles = angles[None]
    for _ in range(len(shape) - 3):
        angles = ops.expand_dims(angles, axis=-2)
    cosine, sine = ops.cast(ops.cos(angles), x.dtype), ops.cast(ops.sin(angles), x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    turned = ops.stack([even * cosine - odd * sine, even * sine + odd * cosine], axis=-1)
    return ops.reshape(turned, ops.shape(x))
