"""Call layers with other values in place of their variables."""

import keras

from fastkeras._keras_private import AutocastScope


class Substitution(keras.StatelessScope):
    """Scope in which variables have the values of tensors, through which gradients flow.

    Unlike in `keras.StatelessScope`, all other variables are as outside, even inside another such
    scope. With `keep_updates`, what a layer does to them (moving statistics, random seeds), and its
    losses, take effect outside. Without a scope outside, the losses are put into `losses`, and the
    layer that makes the call has to add them.

    Args:
        values: pairs of a variable and a tensor.
        keep_updates: whether changes of variables that are not substituted, and losses, are kept.
    """

    stops_gradients = False

    def __init__(self, values, keep_updates=True):
        super().__init__(values)
        self.keep_updates = keep_updates
        self._substituted = set(self.state_mapping)

    def __enter__(self):
        super().__enter__()
        outside = self.original_scope
        self.collect_losses = self.keep_updates and (outside is None or outside.collect_losses)
        return self

    def get_current_value(self, variable):
        """The value in this scope, or that outside."""
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value

    def add_update(self, update):
        """Assign a variable, here or outside."""
        variable, value = update
        if not self.keep_updates or id(variable) in self._substituted:
            super().add_update(update)
        elif self.original_scope is not None:
            self.original_scope.add_update(update)
        else:
            variable._direct_assign(value)

    def add_loss(self, loss):
        """Add a loss outside."""
        if self.original_scope is None:
            super().add_loss(loss)
        else:
            self.original_scope.add_loss(loss)


def value_of(variable):
    """The value of a variable in its own dtype, whatever the policy of the calling layer."""
    with AutocastScope(None):
        value = variable.value
    # on TensorFlow the value is a tf.Variable; read it once, here
    return value.read_value() if hasattr(value, "read_value") else value
