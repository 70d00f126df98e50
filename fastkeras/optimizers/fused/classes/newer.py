"""Optimizers that Keras, or some of its versions, lacks: their arguments are tables here."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType as Table
from typing import Any

import keras
import numpy as np
from keras import ops

from fastkeras.optimizers import rounding
from fastkeras.optimizers.fused import states
from fastkeras.optimizers.fused.classes.stock import ARGUMENTS, REST
from fastkeras.optimizers.fused.optimizer import Fused
from fastkeras.optimizers.rules import RULES

OF_KERAS = {  # the arguments of every optimizer of Keras after the learning rate
    "weight_decay": None,
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
    "name": None,
}


class Tabled(keras.optimizers.Optimizer):
    """An optimizer of Keras without a rule.

    A subclass has all arguments in their order with their defaults (`_ARGUMENTS`), and where it
    keeps each slot of its rule (`_KEPT`, names of lists with an entry for each variable).
    """

    _ARGUMENTS: Table[str, Any] = Table({})
    _KEPT: Table[str, str] = Table({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        parameters = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)
            for name, default in self._ARGUMENTS.items()
        ]
        bound = inspect.Signature(parameters).bind(*args, **kwargs)
        bound.apply_defaults()
        own = {name: bound.arguments.pop(name) for name in self._own()}
        super().__init__(**bound.arguments)
        for name, value in own.items():
            setattr(self, name, value)

    @classmethod
    def _own(cls):
        return [name for name in cls._ARGUMENTS if name not in ("learning_rate", *OF_KERAS)]

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        for attribute in self._KEPT.values():
            setattr(self, attribute, [])
        for variable in variables:
            for name, attribute in self._KEPT.items():
                getattr(self, attribute).append(self._made_slot(variable, name))

    def _made_slot(self, variable, name):
        if getattr(variable, "overwrite_with_gradient", False):
            return None
        slot = self.add_variable_from_reference(variable, name)
        if name in RULES[self._rule()].starts:
            self.assign(slot, ops.copy(ops.convert_to_tensor(variable)))
        return slot

    def _slots(self, position):
        return tuple(getattr(self, attribute)[position] for attribute in self._KEPT.values())

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {name: getattr(self, name) for name in self._own()}


class AdEMAMix(Fused, Tabled):
    """Adam with a second, slow momentum, which remembers gradients of thousands of steps ago.

    Pagliardini et al. 2024, "The AdEMAMix Optimizer: Better, Faster, Older",
    https://arxiv.org/abs/2409.03137. The slow momentum takes 4 more bytes for each number. Give
    both warm-ups, of as many steps as the training has, if it begins with random weights: without
    them the first thousands of steps may diverge.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        beta_1, beta_2: of the moments of Adam.
        beta_3: of the slow momentum; its weight beside the first one is `alpha`.
        alpha: see `beta_3`.
        epsilon: is added to the root of the corrected second moment.
        alpha_warmup: the steps in which alpha grows linearly from 0; 0 for none.
        beta_3_warmup: the steps in which the half-life of the slow momentum grows linearly from
            that of `beta_1`; 0 for none.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.999, "beta_3": 0.9999}
        | {"alpha": 5.0, "epsilon": 1e-8, "alpha_warmup": 0, "beta_3_warmup": 0}
        | OF_KERAS
    )
    _KEPT = Table(
        {"momentum": "_momentums", "slow_momentum": "_slow_momentums", "velocity": "_velocities"}
    )
    _HYPERPARAMETERS = (
        *("beta_1", "beta_2", "beta_3", "alpha", "epsilon", "alpha_warmup", "beta_3_warmup"),
    )

    def _rule(self):
        return "ademamix"


class StableAdamW(Fused, Tabled):
    """AdamW whose steps become shorter where gradients are much larger than they were.

    Wortsman et al. 2023, "Stable and low-precision training for large-scale vision-language
    models", https://arxiv.org/abs/2304.13013: the rate of a variable, for its decay too, is divided
    by the root mean square of its gradient relative to the second moment, if that is above 1, as in
    Adafactor. It makes clipping by norms unnecessary. Its state is that of AdamW.

    Args:
        learning_rate: a number, a schedule, or a function without arguments.
        beta_1, beta_2: of the moments of Adam.
        epsilon: is added to the root of the corrected second moment; the gradient is also compared
            with nothing smaller.
    """

    _ARGUMENTS = Table(
        {"learning_rate": 0.001, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-6}
        | OF_KERAS
        | {"weight_decay": 0.004}
    )
    _KEPT = Table({"momentum": "_momentums", "velocity": "_velocities"})
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon")

    def _rule(self):
        return "stable_adamw"


_AVERAGED = "averaged"  # key of states that were saved with the averages in the variables


class _ScheduleFree(Fused):
    _of_average = ""  # the name of the argument that says how much of the average is in a weight
    _MARKS = (_AVERAGED,)
    _averaged = False  # whether the averages are in the variables
    _saved_averaged = False  # whether they were when the state was saved that is loaded

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        value = getattr(self, self._of_average)
        if not 0 < value < 1:
            raise ValueError(f"{self._of_average} must be above 0 and below 1, got {value!r}")

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Put the averaged weights into the variables, within a `with`, to evaluate or save them.

        Training goes on from what the variables were before. A model that is saved here has the
        averages for its weights, and cannot be trained on when it is loaded.

        Raises:
            ValueError: the optimizer is not built.
        """
        if not self.built:
            raise ValueError("the optimizer is not built: train a step, or call optimizer.build")
        kept = getattr(self, self._of_average)
        updates = ops.convert_to_numpy(ops.convert_to_tensor(self.iterations))
        behind = ops.convert_to_numpy(ops.convert_to_tensor(self._settings.behind))
        before = []
        for position, variable in enumerate(self._trainable_variables):
            if updates <= behind[position]:
                continue  # the average begins with its first update
            value = ops.copy(ops.convert_to_tensor(variable))
            remainder = self._settings.remainders[position]
            rest = None if remainder is None else ops.convert_to_tensor(remainder)
            last = ops.convert_to_tensor(self._slots(position)[0])
            wide = rounding.widened(ops, value, rest)
            before.append((variable, value))
            self.assign(variable, ops.cast(last + (wide - last) / kept, value.dtype))
        outer, self._averaged = self._averaged, True
        try:
            yield
        finally:
            self._averaged = outer
            for variable, value in before:
                self.assign(variable, value)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        if self._averaged:
            store[_AVERAGED] = np.array(1, "int32")

    def load_own_variables(self, store: Any) -> None:
        is_averaged = _AVERAGED in set(store.keys())
        if is_averaged and int(states.numpy_of(self.iterations)):
            raise ValueError(_NOT_TO_TRAIN)  # a step that is compiled would not ask
        super().load_own_variables(store)
        self._saved_averaged = is_averaged

    def _directions(self, gradients, variables, positions, chains, frozen):
        if self._saved_averaged:
            raise ValueError(_NOT_TO_TRAIN)
        return super()._directions(gradients, variables, positions, chains, frozen)


_NOT_TO_TRAIN = (
    "the model was saved within optimizer.averages(), so its weights are the averages, from which "
    "training does not go on: save it outside of that context, or compile it with a new optimizer"
)

_OF_SCHEDULE_FREE = """{name}: an average of all steps in place of a schedule of the learning rate.

Defazio et al. 2024, "The Road Less Scheduled", https://arxiv.org/abs/2405.15682. The variables are
those where gradients are computed, between the last step and the average. Evaluate and save the
average:

    with optimizer.averages():
        model.evaluate(x, y)
        model.save("to_predict.keras")
    model.save("to_train_on.keras")

{more}
Args:
    learning_rate: a number, a schedule, or a function without arguments.
    {arguments}
    warmup_steps: steps in which the rate grows linearly from 0.
"""


class ScheduleFreeAdamW(_ScheduleFree, Tabled):  # noqa: D101
    __doc__ = _OF_SCHEDULE_FREE.format(
        name="`keras.optimizers.ScheduleFreeAdamW`, with one kernel call for all variables",
        more="Arguments, defaults, formulas and variables are those of Keras 3.15, so that saved "
        "states go both\nways.\n",
        arguments="beta_1: how much of the average is in a variable, above 0 and below 1.\n"
        "    beta_2: of the mean of squared gradients.\n"
        "    epsilon: is added to the root of the corrected mean.",
    )
    _ARGUMENTS = Table(
        {"learning_rate": 0.0025, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-8}
        | {"warmup_steps": 0, **OF_KERAS}
    )
    _KEPT = Table({"momentum": "_momentums", "velocity": "_velocities"})
    _HYPERPARAMETERS = ("beta_1", "beta_2", "epsilon", "warmup_steps")
    _of_average = "beta_1"

    def _rule(self):
        return "schedule_free_adamw"


class ScheduleFreeSGD(_ScheduleFree, Tabled):  # noqa: D101
    __doc__ = _OF_SCHEDULE_FREE.format(
        name="Stochastic gradient descent with",
        more="",
        arguments="momentum: how much of the average is in a variable, above 0 and below 1.",
    ).replace("with: an", "with an")
    _ARGUMENTS = Table({"learning_rate": 0.1, "momentum": 0.9, "warmup_steps": 0, **OF_KERAS})
    _KEPT = Table({"momentum": "_momentums"})
    _HYPERPARAMETERS = ("momentum", "warmup_steps")
    _of_average = "momentum"

    def _rule(self):
        return "schedule_free_sgd"


_REST_OF_KERAS = """\
    *args, **kwargs: the above, in this order, and then those of every optimizer of Keras, from
        `weight_decay` to `name`.
"""

NEWER = (AdEMAMix, StableAdamW, ScheduleFreeAdamW, ScheduleFreeSGD)


def described(ours):
    """Complete the docstring and the signature of a class by what it shares with all others."""
    head, _, own = inspect.cleandoc(ours.__doc__ or "").partition("\nArgs:\n")
    rest = REST.format(name=ours.__name__)
    ours.__doc__ = f"{head}\nArgs:\n{own.rstrip()}\n{_REST_OF_KERAS}{ARGUMENTS}\n{rest}"
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(n, kind, default=d) for n, d in ours._ARGUMENTS.items()]
    of_fused = inspect.signature(Fused.__init__).parameters.values()
    parameters += [p for p in of_fused if p.kind is p.KEYWORD_ONLY]
    ours.__signature__ = inspect.Signature(parameters)


for _class in NEWER:
    described(_class)
    keras.saving.register_keras_serializable("fastkeras")(_class)
