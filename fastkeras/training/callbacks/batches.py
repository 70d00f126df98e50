"""How far training has come, in batches and in updates.

With `compile(steps_per_execution=n)` Keras calls callbacks only once in n batches, and with
`gradient_accumulation_steps` the weights change only once in several batches.
"""

from keras import ops


class BatchCount:
    """Counts the batches of all epochs, of which Keras tells only the positions in each epoch.

    Attributes:
        done: number of batches that are done.
    """

    def __init__(self):
        self.done = 0
        self._next = 0  # position in its epoch of the batch that comes next
        self._of_epoch = (0, None)  # when the epoch began: batches done, and seen by the optimizer

    def begin_epoch(self, model, params):
        """Note where an epoch begins; call it before the first batch."""
        self._next = 0
        unknown = not params.get("steps") and getattr(model, "steps_per_execution", 1) > 1
        self._of_epoch = self.done, (batches_seen_by(model) or 0) if unknown else None

    def begin(self, batch):
        """Note which batch begins."""
        self._next = batch

    def end(self, batch, params):
        """Return how many batches the execution had that ends with this one.

        The last execution of an epoch may be shorter, but Keras then names the batch with which a
        full one would have ended.
        """
        steps = params.get("steps")
        after = min(batch + 1, steps) if steps else batch + 1
        count = max(after - self._next, 0)
        self.done, self._next = self.done + count, after
        return count

    def end_epoch(self, model):
        """Correct the count of an epoch whose length was unknown."""
        done, seen = self._of_epoch
        if seen is not None and (now := batches_seen_by(model)) is not None and now > seen:
            self.done = done + now - seen


def batches_seen_by(model):
    """How many batches the optimizer of a model (whose variables are in sync) was given, or None.

    Batches that a LossScaleOptimizer skips are not counted.
    """
    optimizer = inner_optimizer(model)
    if optimizer is None or not optimizer.built:
        return None
    return int(ops.convert_to_numpy(ops.stop_gradient(optimizer._iterations.value)))


def inner_optimizer(model):
    """The optimizer of a model, without the LossScaleOptimizer around it; None if it has none."""
    optimizer = getattr(model, "optimizer", None)
    return getattr(optimizer, "inner_optimizer", optimizer)
