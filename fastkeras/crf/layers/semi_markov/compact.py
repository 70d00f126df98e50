"""Sequences whose steps may be masked anywhere, as the functions of `crf.semi_markov` take them."""

from keras import ops


class Compact:
    """Sequences with the valid steps first.

    Args:
        emissions: shape (batch, steps, channels).
        mask: shape (batch, steps), or None: all steps are valid.
    """

    def __init__(self, emissions, mask):
        steps = ops.shape(emissions)[1]
        t = ops.arange(steps, dtype="int32")
        valid = ops.ones_like(emissions[..., 0], dtype="bool")
        self.order = None
        if mask is not None:
            valid = ops.cast(mask, "bool")
            self.order = ops.argsort(ops.where(valid, t, t + steps), axis=1)
            emissions = ops.take_along_axis(emissions, self.order[..., None], axis=1)
        self.lengths = ops.sum(ops.cast(valid, "int32"), axis=1)
        self.valid = t < self.lengths[:, None]
        self.emissions = ops.where(self.valid[..., None], emissions, 0)

    def moved(self, of_steps):
        """What there is for each step, (batch, steps), in the same order."""
        if self.order is None:
            return of_steps
        return ops.take_along_axis(of_steps, self.order, axis=1)

    def moved_back(self, of_steps):
        """The opposite, also for more than one number a step, (batch, steps, …)."""
        if self.order is None:
            return of_steps
        places = ops.argsort(self.order, axis=1)
        places = places[(..., *(None,) * (len(of_steps.shape) - 2))]
        return ops.take_along_axis(of_steps, places, axis=1)
