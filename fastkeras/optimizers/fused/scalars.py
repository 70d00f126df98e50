"""The numbers of a step, such as its rate: in a dtype wide enough for all rules."""

import keras
import numpy as np
from keras import ops

from fastkeras.optimizers.fused.sparse import ON_TORCH


def _on_mps():
    """Tell whether Keras, on torch, computes on an Apple GPU."""
    if not ON_TORCH:
        return False
    import torch

    return torch.backends.mps.is_available()


# JAX has float64 only if enabled, and Apple's GPUs have none.
WIDE = "float32" if keras.backend.backend() == "jax" or _on_mps() else "float64"


def wide(value):
    """A scalar, or one for each variable, in this dtype."""
    if isinstance(value, (int, float, np.ndarray)):
        return ops.convert_to_tensor(value, dtype=WIDE)
    return ops.cast(value, WIDE)
