"""Repeat random noise whose generator a backend keeps outside the model.

Keras' layers draw from seeds that are variables, except for an unseeded Dropout on torch, which
draws from torch's own generators.
"""

from keras import backend


def noise_state():
    """The state of the generators outside the model."""
    if backend.backend() != "torch":
        return None
    import torch

    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), on_devices


def repeat_noise(state):
    """Restore a state, to draw the same noise again."""
    if state is None:
        return
    import torch

    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state_all(state[1])
