"""What the fused optimizers add to those of Keras: one call for all variables, and its settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import keras
import numpy as np

from fastkeras.optimizers.fused import matching, multipliers, per_variable, sharding, states
from fastkeras.optimizers.fused.checkpoints import Marked, MomentCodes
from fastkeras.optimizers.fused.fused_step import FusedStep
from fastkeras.optimizers.fused.report import report
from fastkeras.optimizers.fused.scalars import WIDE
from fastkeras.optimizers.fused.sparse import ON_TENSORFLOW
from fastkeras.optimizers.hyperparameters import (
    check_arguments_of_keras,
    check_hyperparameter,
    checked_flag,
    checked_integer,
    checked_number,
)
from fastkeras.optimizers.quantization import BLOCK, is_worth_it, scales_of
from fastkeras.optimizers.rounding import HALVES
from fastkeras.optimizers.rules import RULES, check_moment_bits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from fastkeras.optimizers.transforms import Transform
    from fastkeras.typing import Identifier

_PLAIN = {  # arguments that are saved as given, and their defaults
    "ema_bias_correction": False,
    "moment_bits": 32,
    "lookahead_period": None,
    "slow_step_size": 0.5,
    "master_weights": False,
    "stochastic_rounding": False,
    "schedule_by": "calls",
    "cautious": False,
    "shard_states": False,
}


class Fused(Marked, FusedStep):
    """The base class to put before an optimizer of Keras.

    A subclass tells its rule (`_rule`), its slots for each variable (`_slots`), and which of its
    attributes are hyperparameters of the rule (`_HYPERPARAMETERS`). All else is that of Keras:
    arguments, defaults, variables and their order.
    """

    _MARKS: tuple[str, ...] = ()  # what is in saved states besides variables

    def __init__(
        self,
        *args: Any,
        learning_rate_multipliers: Sequence[tuple[Any, float]]
        | Sequence[float]
        | Callable[[Any], float]
        | None = None,
        gradient_transforms: Transform
        | Callable[[Any, Any], Any]
        | list[Any]
        | tuple[Any, ...]
        | None = None,
        weight_decay_overrides: Sequence[tuple[Any, float | None]] | None = None,
        ema_bias_correction: bool = False,
        moment_bits: int = 32,
        lazy: bool | Sequence[Any] | None = None,
        layer_adaptation: bool | Sequence[Any] | None = None,
        lookahead_period: int | None = None,
        slow_step_size: float = 0.5,
        master_weights: bool = False,
        stochastic_rounding: bool = False,
        schedule_by: str = "calls",
        cautious: bool = False,
        shard_states: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_arguments_of_keras(self)
        self.cautious = checked_flag("cautious", cautious)
        if cautious and RULES[self._rule()].scaling != "agreement":
            raise ValueError(
                "cautious is for Adam and AdamW, without amsgrad, and for Lion, not for "
                f"{type(self).__name__} with the rule {self._rule()}"
            )
        if schedule_by not in ("calls", "updates"):
            raise ValueError(f'schedule_by must be "calls" or "updates", got {schedule_by!r}')
        self.schedule_by = schedule_by
        self.shard_states = checked_flag("shard_states", shard_states)
        for name in self._HYPERPARAMETERS:
            check_hyperparameter(name, getattr(self, name))
        self.ema_bias_correction = checked_flag("ema_bias_correction", ema_bias_correction)
        check_moment_bits(self._rule(), moment_bits)
        self.moment_bits = moment_bits
        if lookahead_period is not None and RULES[self._rule()].reads_parameter:
            raise ValueError(
                f"lookahead_period must be None for {type(self).__name__}, which averages itself, "
                f"got {lookahead_period!r}"
            )
        self.lookahead_period: int | None = None
        if lookahead_period is not None:
            self.lookahead_period = checked_integer("lookahead_period", lookahead_period, 1)
        self.slow_step_size = checked_number(
            "slow_step_size", slow_step_size, "a number above 0, at most 1", lambda x: 0 < x <= 1
        )
        self.master_weights = checked_flag("master_weights", master_weights)
        self.stochastic_rounding = checked_flag("stochastic_rounding", stochastic_rounding)
        if master_weights and stochastic_rounding:
            raise ValueError("stochastic_rounding is of no use with master_weights")
        self._scales = SimpleNamespace(
            of={}, not_for=set()
        )  # of 8-bit moments: by id of the variable of codes
        if moment_bits != 32 and ON_TENSORFLOW:
            self._moment_codes = MomentCodes(moment_bits)  # tracked by tf.train.Checkpoint
        # In namespaces, since Keras tracks lists and variables that are attributes.
        self._given = SimpleNamespace(
            multipliers=multipliers.checked(learning_rate_multipliers),
            transforms=per_variable.transforms(gradient_transforms),
            decays=per_variable.numbers("weight_decay_overrides", weight_decay_overrides),
            lazy=per_variable.flags("lazy", lazy),
            adapted=per_variable.flags("layer_adaptation", layer_adaptation),
        )
        self._settings: Any = None

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        variables = list(variables)
        _check_dtypes(variables)
        lazy, adapted = self._resolve_flags(variables)
        self._scales.not_for = {
            id(v) for v, is_lazy in zip(variables, lazy, strict=True) if is_lazy
        }
        super().build(variables)
        for variable in self._made_by_keras():
            if not any(variable is other for other in self._variables):
                self._track_variable(variable)
        chains = per_variable.resolve_transforms(self._given.transforms, variables)
        self._settings = SimpleNamespace(
            multipliers=_untrained(multipliers.resolve(self._given.multipliers, variables)),
            chains=chains,
            lazy=lazy,
            adapted=adapted,
            remainders=self._beside(variables, "remainder", self._keeps_remainder),
            slow=self.lookahead_period and self._beside(variables, "slow", lambda variable: True),
            decays=per_variable.resolve_numbers(
                "weight_decay_overrides", self._given.decays, variables
            ),
            behind=self._made_behind(variables),
            skipped=_untrained(0, "int32") if _any_has(chains, "sanitize") else None,
            noise=keras.random.SeedGenerator() if _any_has(chains, "add_noise") else None,
        )
        if keras.backend.backend() == "jax":  # a compiled step needs its state as inputs
            for variable in self._beside_those_of_keras():
                self._track_variable(variable)
        if self._settings.noise is not None:
            self._track_variable(self._settings.noise.state)
        multipliers.follow(self)

    def _made_by_keras(self):
        """Variables that Keras tracks as attributes, but not while it scales losses."""
        return []

    def _made_behind(self, variables):
        """How many updates each variable has missed, if that matters to the rule or to Lookahead.

        Missed ones, since they default to 0 where they were not saved, as by Keras.
        """
        if not RULES[self._rule()].by_number and not self.lookahead_period:
            return None
        return _untrained(np.zeros(len(variables)), WIDE)

    def _resolve_flags(self, variables):
        is_embedding = [matching.path_of(v).endswith("embeddings") for v in variables]
        lazy = per_variable.resolve_flags("lazy", self._given.lazy, variables, is_embedding)
        everything = [True] * len(variables)
        adapted = per_variable.resolve_flags(
            "layer_adaptation", self._given.adapted, variables, everything
        )
        rule = RULES[self._rule()]
        if not rule.element_wise and any(adapted + lazy):
            raise ValueError(
                f"layer_adaptation and lazy are not for {type(self).__name__} with the rule "
                f"{self._rule()}, whose steps are scaled by a variable as a whole already"
            )
        if rule.reads_parameter and any(adapted + lazy):
            raise ValueError(
                f"layer_adaptation and lazy are not for {type(self).__name__}, whose step is also "
                "that of an average over all steps"
            )
        for variable, is_lazy, is_adapted in zip(variables, lazy, adapted, strict=True):
            if is_lazy and (is_adapted or rule.adapts):
                raise ValueError(
                    f"lazy: {matching.path_of(variable)} cannot be lazy, since layer adaptation "
                    "needs all of its rows"
                )
        return lazy, adapted

    def _keeps_remainder(self, variable):
        return self.master_weights and str(variable.dtype) in HALVES

    def _beside(self, variables, name, is_needed):
        return [
            self.add_variable_from_reference(variable, name) if is_needed(variable) else None
            for variable in variables
        ]

    def add_variable_from_reference(
        self,
        reference_variable: keras.Variable,
        name: str | None = None,
        initializer: Identifier = "zeros",
    ) -> keras.Variable:
        """Keep moments in 8 or 16 bits, or those of float16 and bfloat16 variables in float32.

        In bfloat16 a velocity would never move: 0.001 of a change is below its last digit. With
        `shard_states`, each device keeps a part.
        """
        dtype, shape = str(reference_variable.dtype), tuple(reference_variable.shape)
        path = matching.path_of(reference_variable)
        is_wide = name not in ("average", "gradient_accumulator")
        is_moment = is_wide and name not in ("remainder", "slow")
        bits = self._bits_of(reference_variable)
        in_codes = bits == 8
        quantized, halved = in_codes and is_moment, bits == 16 and is_moment
        layout = getattr(reference_variable, "_layout", None)
        if self.shard_states:
            block = BLOCK if in_codes and is_wide else 1
            layout = sharding.layout_of_state(reference_variable, block)
        is_divided = layout is not getattr(reference_variable, "_layout", None)
        is_of_its_dtype = not (quantized or halved or (is_wide and dtype in HALVES))
        if is_of_its_dtype and not is_divided:
            return super().add_variable_from_reference(reference_variable, name, initializer)
        of_moment = "float32" if is_wide and dtype in HALVES else dtype
        of_moment = "uint8" if quantized else "bfloat16" if halved else of_moment
        moment = self.add_variable(
            shape=shape,
            initializer=initializer,
            dtype=of_moment,
            name=f"{path.replace('/', '_').replace(':', '_')}_{name}",
            layout=layout,
        )
        if quantized:
            size = int(np.prod(shape))
            of_scales = sharding.first_axis(layout) if is_divided else None
            scales = self.add_variable(
                (scales_of(size),), dtype="float32", name=f"{name}_scales", layout=of_scales
            )
            self._scales.of[id(moment)] = scales
        return moment

    def _bits_of(self, variable):
        """The bits of the moments of a variable."""
        is_wide = str(variable.dtype) == "float64" or not is_worth_it(tuple(variable.shape))
        is_lazy = self.moment_bits == 8 and id(variable) in self._scales.not_for
        return 32 if is_wide or is_lazy else self.moment_bits

    def _way_of(self, position):
        """The name of the rule of a variable, for the report, if not all have the same."""
        return ""

    def _slots_and_scales(self, position):
        slots = []
        for slot in self._slots(position):
            scales = self._scales.of.get(id(slot))
            slots += [slot] if scales is None else [slot, scales]
        return slots

    def _state_of(self, position):
        beside = [self._settings.remainders[position]]
        beside += [self._settings.slow[position]] if self._settings.slow else []
        return self._slots_and_scales(position) + [v for v in beside if v is not None]

    def _zeros_at_first(self, position):
        """The state of a variable that is zeros until its first update."""
        rule = RULES[self._rule()]
        starting = {id(s) for s in self._slots(position)[: len(rule.starts)]}
        return [held for held in self._state_of(position) if id(held) not in starting]

    def _beside_those_of_keras(self):
        if self._settings is None:
            return []
        settings = self._settings
        beside = (settings.multipliers, settings.skipped, settings.behind)
        return [variable for variable in beside if variable is not None]

    def save_own_variables(self, store: Any) -> None:
        states.save(self, store)

    def load_own_variables(self, store: Any) -> None:
        if not states.load(self, store, self._MARKS):
            super().load_own_variables(store)  # warns

    @property
    def learning_rate_multipliers(self) -> Any:
        """The multiplier of each variable, in their order; before `build`, what was given."""
        if self._settings is None:
            given = self._given.multipliers
            return given.values if isinstance(given, per_variable.Saved) else given
        # By way of its shortest digits a float32 becomes 0.1 again, not 0.10000000149.
        return [float(str(value)) for value in states.numpy_of(self._settings.multipliers)]

    @property
    def skipped_steps(self) -> int:
        """How many steps `sanitize` has skipped."""
        skipped = self._settings and self._settings.skipped
        return 0 if skipped is None else int(states.numpy_of(skipped))

    def report(
        self, model: keras.Model | None = None, print_fn: Callable[[str], Any] = print
    ) -> int:
        """Print for each variable its multiplier, transforms, decay and the size of its state.

        Of an optimizer of matrices, such as Muon, also whether a variable goes by it or by AdamW.

        Also print which engine does the steps, and if it is `keras` in spite of the kernels, why.

        Args:
            model: whose variables are shown; None for all that the optimizer knows.
            print_fn: called once with the text.

        Returns:
            The bytes of all moments and all other state of the variables.

        Raises:
            ValueError: the optimizer is not built, or does not know a variable of the model.
        """
        if not self.built:
            raise ValueError("the optimizer is not built: train a step, or call optimizer.build")
        if model is not None:
            self._check_variables_are_known(model.trainable_variables)
        return report(self, model, print_fn)

    def _refresh_multipliers(self):
        resolved = multipliers.resolve(self._given.multipliers, self._trainable_variables)
        self._settings.multipliers.assign(np.asarray(resolved, "float32"))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        given = self._given
        built = self._settings is not None
        own = {
            "learning_rate_multipliers": (
                self.learning_rate_multipliers if built else given.multipliers
            ),
            "gradient_transforms": self._settings.chains if built else given.transforms,
            "weight_decay_overrides": self._settings.decays if built else given.decays,
            "lazy": self._settings.lazy if built else given.lazy,
            "layer_adaptation": self._settings.adapted if built else given.adapted,
        }
        for name, default in _PLAIN.items():
            value = getattr(self, name)
            config |= {} if value == default else {name: value}
        variables = self._trainable_variables if built else None
        return config | per_variable.serialized(own, variables)


def _untrained(value, dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), trainable=False, dtype=dtype)


def _check_dtypes(variables):
    for variable in variables:
        if "float" not in str(variable.dtype):
            raise ValueError(
                f"variables: {matching.path_of(variable)} is {variable.dtype}, and what is trained "
                "must be float16, bfloat16, float32 or float64: make it with such a dtype, or with "
                "trainable=False"
            )


def _any_has(chains, name):
    return any(getattr(step, "name", None) == name for steps in chains for step in steps)
