"""The optimizers of Keras, fused: the rule of each, and where it keeps its slots."""

import inspect
from typing import Any

import keras
from keras import ops

from fastkeras.optimizers.fused.fused_step import FusedStep
from fastkeras.optimizers.fused.optimizer import Fused
from fastkeras.optimizers.fused.scalars import wide
from fastkeras.optimizers.rounding import HALVES
from fastkeras.optimizers.rules.coefficients import product_of_nadam

ARGUMENTS = """\
    learning_rate_multipliers: pairs `(target, multiplier)`; a variable trains at the learning rate
        times the multiplier of the first pair that matches it, or times 1. A target is a regular
        expression that is searched in `variable.path`, a layer, a model, a variable, or a list of
        these. Or a function of a variable, or one number for each variable. 0 freezes at no cost:
        neither variable nor moments are touched, and they may be unfrozen at any time.
    gradient_transforms: a transform or chain for all gradients, or pairs `(target, chain)`, of
        which the first match counts; see `fastkeras.optimizers.transforms`. They come after the
        arguments `clipnorm`, `clipvalue` and `global_clipnorm`, and before weight decay.
    weight_decay_overrides: pairs `(target, weight_decay)` that go before `weight_decay` and
        `exclude_from_weight_decay`. The decay is decoupled and goes at the variable's own rate:
        it loses `weight_decay · learning_rate · multiplier` of itself.
    ema_bias_correction: with `use_ema`, divide out the weight of the first value, so that the
        average is one of all values from the start. Under `gradient_accumulation_steps` the average
        moves once an update, where that of Keras moves at each call.
    moment_bits: 8 keeps moments in 8 bits, in blocks of 256 numbers with a common scale, rounded at
        random with the right mean; not those of lazy variables and of less than 4,096 numbers. 16
        keeps them as bfloat16, rounded in the same way; lazy ones too. For all rules but AMSGrad,
        centered RMSprop, Adagrad, Adafactor and the schedule-free; Muon, SOAP and APOLLO have them
        where they go by AdamW. A saved state is converted when it is loaded.
    lazy: rows of a variable that have no gradient stay as they are, and so do their moments, which
        would decay: a step costs what its rows cost. True for all embeddings, or a list of targets
        as above. SGD without momentum and Adagrad do so for every sparse gradient, since there it
        changes nothing. With `gradient_accumulation_steps` the rows are those of all its batches.
    layer_adaptation: the step of a variable is as long as the variable, times the learning rate
        ("LARS", "LAMB"). True for all variables, or a list of targets. Lamb always does.
    lookahead_period: every so many steps, slow weights move by `slow_step_size` of the way to the
        variables, which then go on from there.
    slow_step_size: above 0, at most 1.
    master_weights: keep beside each float16 and bfloat16 variable, in float32, what it cannot hold
        of its value, so that no update is too small to count.
    stochastic_rounding: round bfloat16 variables up or down at random, right on average, which
        needs no memory.
    schedule_by: what a schedule of the learning rate counts under `gradient_accumulation_steps`:
        "calls", as that of Keras, one for each batch, or "updates" of the variables.
    cautious: of Adam, AdamW and Lion alone: only those numbers of a variable move whose step agrees
        in sign with the gradient of the moment, by so much more as they are fewer (Liang et al.
        2024). Moments are as without it.
    shard_states: with `keras.distribution` on JAX, divide moments and all other state of a variable
        among the devices that have copies of it (ZeRO, stage 1), along its first axis that their
        number divides. Each updates its part of the variable. Without a distribution, and on other
        backends, it changes nothing.
"""

REST = """\
Raises:
    ValueError: a target matches no variable (when built), a multiplier is negative, or whatever
        Keras refuses.

Example:
    >>> import keras
    >>> from fastkeras.optimizers import {name}
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="body"),
    ...                           keras.layers.Dense(1, name="head")])
    >>> optimizer = {name}(0.01, learning_rate_multipliers=[("body", 0.1)])
    >>> model.compile(optimizer, "mse")
    >>> optimizer.build(model.trainable_variables)
    >>> optimizer.learning_rate_multipliers
    [0.1, 0.1, 1.0, 1.0]
"""

_DOC = """`keras.optimizers.{name}`, with one kernel call for all variables.

Arguments, defaults, formulas and variables are those of Keras, so that saved states go both ways;
its documentation holds, and these arguments come on top. Two things differ: a sparse gradient that
has a row more than once is summed before anything is squared, as if it were dense; and bias is
corrected by how often a variable was updated itself, so that one which was frozen before, or had no
gradient, begins like that of a fresh optimizer.

Args:
    *args, **kwargs: the arguments of `keras.optimizers.{name}`.
{arguments}
{rest}"""


class _OfAdam(Fused):
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def _rule(self):
        if self.amsgrad:
            return "amsgrad"
        return "cautious_adam" if self.cautious else "adam"

    def _slots(self, position):
        slots = (self._momentums[position], self._velocities[position])
        return (*slots, self._velocity_hats[position]) if self.amsgrad else slots


class Adam(_OfAdam, keras.optimizers.Adam):  # noqa: D101
    pass


class AdamW(_OfAdam, keras.optimizers.AdamW):  # noqa: D101
    pass


class SGD(Fused, keras.optimizers.SGD):  # noqa: D101
    _HYPERPARAMETERS = ("momentum",)

    def _rule(self):
        if self.momentum == 0:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    def _slots(self, position):
        return (self.momentums[position],) if self.momentum != 0 else ()


class Nadam(Fused, keras.optimizers.Nadam):  # noqa: D101
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def _rule(self):
        return "nadam"

    def _slots(self, position):
        return self._momentums[position], self._velocities[position]

    def _made_by_keras(self):
        return [self._u_product]

    def _product(self):
        """The product of the momentums of all steps, including the present one."""
        number = ops.cast(self.iterations + 1, self._u_product.dtype)
        return self._u_product * self.beta_1 * (1.0 - 0.5 * ops.power(0.96, number))

    def _hyperparameters(self, number, numbers):
        own = product_of_nadam(ops, self.beta_1, numbers)
        product = ops.where(numbers == number, wide(self._product()), own)
        return super()._hyperparameters(number, numbers) | {"u_product": product}

    def _after_step(self, finite):
        product = self._product()
        if self._settings.skipped is not None:
            product = ops.where(finite, product, ops.convert_to_tensor(self._u_product))
        self.assign(self._u_product, product)
        super()._after_step(finite)


class Lion(Fused, keras.optimizers.Lion):  # noqa: D101
    _HYPERPARAMETERS = ("beta_1", "beta_2")

    def _rule(self):
        return "cautious_lion" if self.cautious else "lion"

    def _slots(self, position):
        return (self._momentums[position],)


class Lamb(Fused, keras.optimizers.Lamb):  # noqa: D101
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def _rule(self):
        return "lamb"

    def _slots(self, position):
        return self._momentums[position], self._velocities[position]


class RMSprop(Fused, keras.optimizers.RMSprop):  # noqa: D101
    _HYPERPARAMETERS = ("rho", "momentum", "epsilon")

    def _rule(self):
        rule = "rmsprop_momentum" if self.momentum > 0 else "rmsprop"
        return f"centered_{rule}" if self.centered else rule

    def _slots(self, position):
        # A list is empty if the rule does not keep such a slot.
        lists = (self._velocities, self._momentums, self._average_gradients)
        return tuple(slots[position] for slots in lists if slots)


class Adagrad(Fused, keras.optimizers.Adagrad):  # noqa: D101
    _HYPERPARAMETERS = ("epsilon",)

    def _rule(self):
        return "adagrad"

    def _slots(self, position):
        return (self._accumulators[position],)


class Adafactor(Fused, keras.optimizers.Adafactor):  # noqa: D101
    _HYPERPARAMETERS = ("beta_2_decay", "epsilon_1", "epsilon_2", "clip_threshold")

    def _rule(self):
        return "adafactor"

    def add_variable(
        self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **kwargs: Any
    ) -> keras.Variable:
        # Keras makes the means of rows and of columns, once there is `_r`, in the variable's dtype
        is_mean = hasattr(self, "_r") and str(dtype) in HALVES
        return super().add_variable(shape, initializer, "float32" if is_mean else dtype, **kwargs)

    def _slots(self, position):
        return self._r[position], self._c[position], self._v[position]


OPTIMIZERS = (SGD, Adam, AdamW, Nadam, Lion, Lamb, Adafactor, RMSprop, Adagrad)


def _signature_of(ours):
    """The arguments of Keras, by name or position, followed by ours, by name only."""
    theirs = inspect.signature(ours.__mro__[ours.__mro__.index(FusedStep) + 1])
    own = inspect.signature(Fused.__init__).parameters.values()
    parameters = [p for p in theirs.parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters += [p for p in own if p.kind is p.KEYWORD_ONLY]
    return theirs.replace(parameters=parameters)


for _class in OPTIMIZERS:
    _rest = REST.format(name=_class.__name__)
    _class.__doc__ = _DOC.format(name=_class.__name__, arguments=ARGUMENTS, rest=_rest)
    _class.__signature__ = _signature_of(_class)
    keras.saving.register_keras_serializable("fastkeras")(_class)
