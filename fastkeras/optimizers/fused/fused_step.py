"""The step of the fused optimizers, in place of Keras' loop over variables."""

from itertools import chain
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from fastkeras import _engines
from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding, transforms
from fastkeras.optimizers.fused import averages, lookahead, replicas, rows, sharding, sparse
from fastkeras.optimizers.fused.engine import why_keras
from fastkeras.optimizers.fused.replicas import value_of
from fastkeras.optimizers.fused.scalars import WIDE, wide
from fastkeras.optimizers.fused.sparse import ON_TENSORFLOW
from fastkeras.optimizers.rules import RULES
from fastkeras.optimizers.step import Step, changed, do

if ON_TENSORFLOW:
    import tensorflow as tf

    _traced = tf.autograph.experimental.do_not_convert  # it takes seconds, for nothing
else:

    def _traced(function):
        return function


OF_KERAS = -1  # the group of the argument `global_clipnorm`


# Type checkers find in it what an optimizer of Keras, which comes behind it, has.
if TYPE_CHECKING:
    from keras import Optimizer as _OfKeras
else:
    _OfKeras = object


class FusedStep(_OfKeras):
    """The half of `optimizer.Fused` that Keras calls at each step."""

    _HYPERPARAMETERS: tuple[str, ...] = ()
    _fusing = False  # outside a step, Keras may call the next two methods for itself
    _release: Any = None  # what `release_gradients` does with gradients

    def _filter_empty_gradients(self, gradients, variables):
        if self._release is not None:
            gradients = self._release.arrived(gradients, variables)
        return super()._filter_empty_gradients(gradients, variables)

    def _clip_gradients(self, gradients):
        return gradients if self._fusing else super()._clip_gradients(gradients)

    def _apply_weight_decay(self, variables):
        if not self._fusing:
            super()._apply_weight_decay(variables)

    def _get_current_learning_rate(self):
        schedule = keras.optimizers.schedules.LearningRateSchedule
        if self.schedule_by == "updates" and isinstance(self._learning_rate, schedule):
            return self._learning_rate(self.iterations)  # that of Keras counts calls
        return super()._get_current_learning_rate()

    @_traced
    def _backend_apply_gradients(self, gradients, variables):
        if ON_TENSORFLOW and replicas.is_on_one():
            replicas.apply(self, gradients, variables)
            return
        frequency, self.ema_overwrite_frequency = self.ema_overwrite_frequency, None
        self._fusing = True
        self._calls_before = self._iterations + 0 if self.use_ema else None  # a copy
        try:
            super()._backend_apply_gradients(gradients, variables)
            if self.use_ema and frequency:
                averages.overwrite_every(self, frequency)
        finally:
            self._fusing, self.ema_overwrite_frequency = False, frequency
            self._calls_before = None

    def _backend_update_step(self, gradients, variables, learning_rate):
        if not ON_TENSORFLOW or replicas.are_none(self):
            self._step(gradients, variables, learning_rate)
        else:
            replicas.step(self, gradients, variables, learning_rate)

    def _update_model_variables_moving_average(self, variables):
        averages.update(self, variables)

    def _overwrite_model_variables_with_average_value(self, variables):
        """Do what `fit` asks for at its end."""
        if averages.may_be_none(self):
            averages.overwrite_if_any(self)
        else:
            super()._overwrite_model_variables_with_average_value(variables)

    def _after_step(self, finite):
        """Update the variables of the optimizer as a whole, unless the step was skipped."""
        settings = self._settings
        if settings.skipped is not None:
            skipped = 1 - ops.cast(finite, "int32")
            settings.skipped.assign_add(skipped)
            calls = self.gradient_accumulation_steps or 1  # the last is yet to be added by Keras
            self._iterations.assign_sub(ops.cast(skipped * calls, self._iterations.dtype))

    def _step(self, gradients, variables, learning_rate):
        settings = self._settings
        positions = [self._get_variable_index(variable) for variable in variables]
        if self._release is None:
            finite, frozen = self._move(gradients, variables, positions, learning_rate)
        else:  # which refuses what could make a step not finite
            for part, of_part in self._release.parts(gradients, variables):
                places = [self._get_variable_index(variable) for variable in of_part]
                self._move(part, of_part, places, learning_rate)
            finite, frozen = True, self._frozen(positions)
        if settings.slow:
            slow = [settings.slow[position] for position in positions]
            call, period = self.iterations + 1, self.lookahead_period
            remainders = [settings.remainders[position] for position in positions]
            arguments = (period, self.slow_step_size, variables, slow, remainders, frozen)
            lookahead.follow(self.assign, call, *arguments)
        self._count(frozen, positions, finite)
        self._after_step(finite)

    def _frozen(self, positions):
        return ops.equal(self._of_positions(self._settings.multipliers, positions), 0)

    def _move(self, gradients, variables, positions, learning_rate):
        """Update variables and their slots; return whether that was done, and which are frozen."""
        settings = self._settings
        number = wide(self.iterations) + 1
        numbers = self._own_numbers(number, positions)
        if settings.slow:
            slow = [settings.slow[position] for position in positions]
            lookahead.begin(self.assign, numbers, variables, slow)
        for k, _ in enumerate(RULES[self._rule()].starts):
            starting = [self._slots(position)[k] for position in positions]
            lookahead.begin(self.assign, numbers, variables, starting)
        frozen = self._frozen(positions)
        chains = self._chains_of(positions)
        gradients, chains = self._directions(gradients, variables, positions, chains, frozen)
        finite = True
        for rule, factor, chosen in self._groups(positions):
            of_group = [
                [values[i] for i in chosen] for values in (gradients, variables, positions, chains)
            ]
            finite &= self._update(rule, *of_group, learning_rate, factor, number)
        return finite, frozen

    def _directions(self, gradients, variables, positions, chains, frozen):
        """Return what the rules take for gradients, and the chains that are still to be applied."""
        return gradients, chains

    def _groups(self, positions):
        """Return the parts of a step: rule, factor of its rate, and which of the variables."""
        return [(self._rule(), 1, range(len(positions)))]

    def _update(self, rule, gradients, variables, positions, chains, learning_rate, factor, number):
        settings = self._settings
        numbers = self._own_numbers(number, positions)
        values = [value_of(variable) for variable in variables]
        given = zip(gradients, variables, positions, strict=True)
        by_rows = any(rows.are_chosen(self, *of_one) for of_one in given)
        keeps = RULES[rule].slots
        slots = [self._slots_and_scales(position) if keeps else [] for position in positions]
        remainders = [settings.remainders[position] for position in positions]
        of_slots = [[value_of(slot) for slot in of_variable] for of_variable in slots]
        of_remainders = [None if r is None else value_of(r) for r in remainders]
        written = [*values, *chain(*of_slots), *(r for r in of_remainders if r is not None)]
        layouts = sharding.layouts_of(self, variables, positions)
        reason = sharding.why_whole(self, rule, positions, layouts)
        reason = reason or why_keras(rule, written, variables, by_rows, layouts)
        engine = _engines.engine_for("optimizers", values[0], "keras" if reason else None)
        taken, chosen = rows.taken(self, gradients, variables, positions, engine)
        decays = [self._decay_of(p, v) for p, v in zip(positions, variables, strict=True)]
        step = Step(
            parameters=values,
            gradients=taken,
            slots=of_slots,
            learning_rate=wide(learning_rate) * factor,
            numbers=numbers,
            multipliers=self._of_positions(settings.multipliers, positions),
            decays=wide(np.array(decays) / factor),  # they go by the rate without it
            chains=chains,
            rows=chosen,
            adapted=[self._is_adapted(position) for position in positions],
            remainders=of_remainders,
            hyperparameters=self._hyperparameters(number, numbers),
            dithered=[self.stochastic_rounding] * len(positions),
            seeds=self._seeds(positions),
        )
        does, fused = engine, of_transforms.FUSED
        if layouts is not None:
            step = step._replace(
                parameters=sharding.placed(values, layouts),
                gradients=sharding.placed(taken, layouts),
            )
            if _engines.name_of(engine) != "keras":
                does, fused = sharding.on_each_part(engine, layouts), sharding.ELEMENT_WISE
        new_values, new_slots, new_remainders, finite = do(
            ops,
            does,
            rule,
            step,
            self._noise,
            sparse.spread,
            sparse.gathered,
            variables,
            fused=fused,
        )
        if layouts is not None:
            new_values = sharding.placed(new_values, [variable._layout for variable in variables])
        if _engines.name_of(engine) == "keras":
            rows.keep(self, gradients, variables, positions, new_values, new_slots)
        new = (new_values, new_slots, new_remainders)
        for variable, value in changed(step, new, (variables, slots, remainders)):
            self.assign(variable, value)
        return finite

    def _engine_and_reason(self):
        """The name of the engine that does the steps, and why it is `keras`, or ""."""
        positions = range(len(self._trainable_variables))
        written = [*self._trainable_variables, *chain(*map(self._state_of, positions))]
        written = [value_of(variable) for variable in written]
        layouts = sharding.layouts_of(self, self._trainable_variables, positions)
        reason = sharding.why_whole(self, self._rule(), positions, layouts)
        reason = reason or why_keras(
            self._rule(), written, self._trainable_variables, layouts=layouts
        )
        engine = _engines.engine_for("optimizers", written[0], "keras" if reason else None)
        return _engines.name_of(engine), reason or ""

    def _of_positions(self, variable, positions):
        """Return the entries of a variable at these positions, of variables with a gradient."""
        values = ops.convert_to_tensor(variable)
        is_all = positions == list(range(len(self._settings.chains)))
        return values if is_all else ops.take(values, positions)

    def _is_adapted(self, position):
        return RULES[self._rule()].adapts or self._settings.adapted[position]

    def _noise(self, gradient):
        seed = self._settings.noise
        return keras.random.normal(gradient.shape, dtype=gradient.dtype, seed=seed)

    def _own_numbers(self, number, positions):
        """The number of this update for each variable, counting only updates that moved it.

        So the bias correction counts the updates that a variable's moments have seen.
        """
        behind = self._settings.behind
        return number if behind is None else number - self._of_positions(behind, positions)

    def _count(self, frozen, positions, finite):
        """Count one missed update for variables that are frozen or have no gradient."""
        settings = self._settings
        if settings.behind is None:
            return
        missed, count = ops.cast(frozen, WIDE), len(settings.chains)
        if positions != list(range(count)):
            place = {position: k for k, position in enumerate(positions)}
            missed = ops.concatenate([missed, ops.ones((1,), WIDE)])
            missed = ops.take(missed, [place.get(i, len(positions)) for i in range(count)])
        if settings.skipped is not None:
            missed = missed * ops.cast(finite, WIDE)
        self.assign_add(settings.behind, missed)

    def _seeds(self, positions):
        if not self.stochastic_rounding and not self._scales.of and self.moment_bits != 16:
            return None
        positions = ops.convert_to_tensor(np.array(positions, "int32"))
        return rounding.seeds(ops, ops.cast(self.iterations, "int32"), positions)

    def _decay_of(self, position, variable):
        override = self._settings.decays[position]
        if override is not None:
            return override
        return (self.weight_decay or 0.0) if self._use_weight_decay(variable) else 0.0

    def _chains_of(self, positions):
        clipping = ()
        if self.clipnorm and self.clipnorm > 0:
            clipping = (transforms.clip_by_norm(self.clipnorm),)
        elif self.clipvalue and self.clipvalue > 0:
            clipping = (transforms.clip_by_value(self.clipvalue),)
        elif self.global_clipnorm and self.global_clipnorm > 0:
            step = transforms.clip_by_global_norm(self.global_clipnorm)
            clipping = (step._replace(of=OF_KERAS),)
        return [clipping + self._settings.chains[position] for position in positions]

    def _hyperparameters(self, number, numbers):
        return {name: getattr(self, name) for name in self._HYPERPARAMETERS}
