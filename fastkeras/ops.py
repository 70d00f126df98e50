"""Operations that `keras.ops` lacks."""

from fastkeras.training.gradients.reversal import (
    gradient_after_loss,
    gradient_reversal,
    stop_gradient_through,
)

__all__ = ["gradient_after_loss", "gradient_reversal", "stop_gradient_through"]
