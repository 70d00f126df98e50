"""The step of the fused optimizers, in place of Keras' loop over variables."""

from itertools import chain
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from fastkeras import _engines
from fastkeras.optimizers import chains as of_transforms
from fastkeras.optimizers import rounding, transforms
from fastkeras.optimizers.fused import lookahead, sharding, sparse
from fastkeras.optimizers.fused.engine import why_keras
from fastkeras.optimizers.fused.lookahead import assign_if
from fastkeras.optimizers.fused.sparse import ON_TENSORFLOW, on_mps
from fastkeras.optimizers.rules import RULES
from fastkeras.optimizers.step import Step, changed, do

if ON_TENSORFLOW:
    import tensorflow as tf

    _traced = tf.autograph.experimental.do_not_convert  # it takes seconds, for nothing
else:

    def _traced(function):
        return function


# The dtype of scalars: JAX has float64 only if enabled, and Apple's GPUs have none.
WIDE = "float32" if keras.backend.backend() == "jax" or on_mps() else "float64"
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
        if ON_TENSORFLOW and _is_on_replica():
            self._apply_on_replicas(gradients, variables)
            return
        frequency, self.ema_overwrite_frequency = self.ema_overwrite_frequency, None
        self._fusing = True
        self._calls_before = self._iterations + 0 if self.use_ema else None  # a copy
        try:
            super()._backend_apply_gradients(gradients, variables)
            if self.use_ema and frequency:
                self._overwrite_every(frequency)
        finally:
            self._fusing, self.ema_overwrite_frequency = False, frequency
            self._calls_before = None

    def _backend_update_step(self, gradients, variables, learning_rate):
        if not ON_TENSORFLOW or self._has_one_replica():
            self._step(gradients, variables, learning_rate)
            return
        pairs = self._all_reduce_sum_gradients(list(zip(gradients, variables, strict=True)))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._step_of_each_replica,
            self._distribution_strategy,
            [gradient for gradient, _ in pairs],
            list(variables),
            learning_rate,
        )

    def _has_one_replica(self):
        """Whether there is no strategy, whose sum is one more operation for each gradient."""
        own = self._distribution_strategy
        return not tf.distribute.has_strategy() and own is tf.distribute.get_strategy()

    def _apply_on_replicas(self, gradients, variables):
        """Apply the sum of the gradients of all replicas to the variables of each.

        Keras meets the other replicas inside of a condition, where TensorFlow does not allow it, if
        gradients are accumulated or averages overwrite the variables.
        """
        pairs = self._all_reduce_sum_gradients(list(zip(gradients, variables, strict=True)))
        tf.distribute.get_replica_context().merge_call(
            self._on_each_replica, ([gradient for gradient, _ in pairs], list(variables))
        )

    def _on_each_replica(self, distribution, gradients, variables):
        # Within this context, a variable stands for its copy on this replica.
        distribution.extended.update(
            _value(variables[0]),
            lambda _, gradients: self._apply_on_this_replica(gradients, variables),
            args=(gradients,),
            group=False,
        )

    def _apply_on_this_replica(self, gradients, variables):
        self._calls_before = self._iterations + 0 if self.use_ema else None  # a copy
        if self.gradient_accumulation_steps:
            self._accumulate_or_step(gradients, variables)
        else:
            self._step(gradients, variables, self.learning_rate)
        if self.use_ema:
            self._update_model_variables_moving_average(self._trainable_variables)
            if self.ema_overwrite_frequency:
                self._overwrite_every(self.ema_overwrite_frequency)
        self._calls_before = None

    def _accumulate_or_step(self, gradients, variables):
        steps = self.gradient_accumulation_steps
        sums = [self._accumulated_gradients[self._get_variable_index(v)] for v in variables]
        gradients = [
            sparse.dense(gradient) + ops.convert_to_tensor(of_before)
            for gradient, of_before in zip(gradients, sums, strict=True)
        ]

        def step():
            means = [gradient / steps for gradient in gradients]
            self._step(means, variables, self.learning_rate)
            for of_before in sums:
                self.assign(of_before, ops.zeros_like(of_before))

        def accumulate():
            for of_before, gradient in zip(sums, gradients, strict=True):
                self.assign(of_before, gradient)

        ops.cond(ops.equal((self._iterations + 1) % steps, 0), step, accumulate)

    def _is_update(self):
        """Tell whether this call has updated the variables, or None if every call does.

        With accumulation only the last of several does, and `sanitize` may have skipped it.
        """
        is_update = None
        if self.gradient_accumulation_steps:
            is_update = ops.equal((self._calls_before + 1) % self.gradient_accumulation_steps, 0)
        if self._settings.skipped is not None:
            is_done = ops.equal(self._iterations, self._calls_before)
            is_update = is_done if is_update is None else ops.logical_and(is_update, is_done)
        return is_update

    def _update_model_variables_moving_average(self, variables):
        number = wide(self.iterations) + 1  # of this update, from 1; Keras counts calls from 0
        momentum = ops.where(number > 1, wide(self.ema_momentum), wide(0.0))
        if self.ema_bias_correction and self.ema_momentum == 1:
            momentum = (number - 1) / number
        elif self.ema_bias_correction:
            power = ops.power(wide(self.ema_momentum), number)
            momentum = (self.ema_momentum - power) / (1 - power)
        is_update = self._is_update()
        if is_update is not None:  # Keras updates the averages at each call
            momentum = ops.where(is_update, momentum, wide(1.0))
        for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
            if average is not None:
                m = ops.cast(momentum, variable.dtype)
                average.assign(ops.add(ops.multiply(m, average), ops.multiply(1 - m, variable)))

    def _averaged_variables(self):
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        return [(variable, average) for variable, average in pairs if average is not None]

    def _overwrite_every(self, frequency):
        """Put the averages into the model after every so many updates, not calls."""
        is_due = ops.equal((self.iterations + 1) % frequency, 0)
        is_update = self._is_update()
        if is_update is not None:
            is_due = ops.logical_and(is_due, is_update)
        assign_if(self.assign, is_due, self._averaged_variables)

    def _overwrite_model_variables_with_average_value(self, variables):
        """Put the averages into the model, as `fit` asks at its end, if there are any yet."""
        may_be_none = self.gradient_accumulation_steps or (
            self._settings is not None and self._settings.skipped is not None
        )
        if not may_be_none:
            super()._overwrite_model_variables_with_average_value(variables)
            return
        assign_if(self.assign, self.iterations > 0, self._averaged_variables)

    def _after_step(self, finite):
        """Update the variables of the optimizer as a whole, unless the step was skipped."""
        settings = self._settings
        if settings.skipped is not None:
            skipped = 1 - ops.cast(finite, "int32")
            settings.skipped.assign_add(skipped)
            calls = self.gradient_accumulation_steps or 1  # the last is yet to be added by Keras
            self._iterations.assign_sub(ops.cast(skipped * calls, self._iterations.dtype))

    def _step_of_each_replica(self, distribution, gradients, variables, learning_rate):
        # Within this context, a variable stands for its copy on this replica.
        distribution.extended.update(
            _value(variables[0]),
            lambda _, gradients, rate: self._step(gradients, variables, rate),
            args=(gradients, learning_rate),
            group=False,
        )

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
        values = [_value(variable) for variable in variables]
        by_rows = any(map(self._goes_by_rows, gradients, variables, positions))
        keeps = RULES[rule].slots
        slots = [self._slots_and_scales(position) if keeps else [] for position in positions]
        remainders = [settings.remainders[position] for position in positions]
        of_slots = [[_value(slot) for slot in of_variable] for of_variable in slots]
        of_remainders = [None if r is None else _value(r) for r in remainders]
        written = [*values, *chain(*of_slots), *(r for r in of_remainders if r is not None)]
        layouts = self._layouts(variables, positions)
        reason = self._why_whole(rule, positions, layouts)
        reason = reason or why_keras(rule, written, variables, by_rows, layouts)
        engine = _engines.engine_for("optimizers", values[0], "keras" if reason else None)
        taken, rows = self._rows(gradients, variables, positions, engine)
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
            rows=rows,
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
            self._keep_to_rows(gradients, variables, positions, new_values, new_slots)
        new = (new_values, new_slots, new_remainders)
        for variable, value in changed(step, new, (variables, slots, remainders)):
            self.assign(variable, value)
        return finite

    def _engine_and_reason(self):
        """The name of the engine that does the steps, and why it is `keras`, or ""."""
        positions = range(len(self._trainable_variables))
        written = [*self._trainable_variables, *chain(*map(self._state_of, positions))]
        written = [_value(variable) for variable in written]
        layouts = self._layouts(self._trainable_variables, positions)
        reason = self._why_whole(self._rule(), positions, layouts)
        reason = reason or why_keras(
            self._rule(), written, self._trainable_variables, layouts=layouts
        )
        engine = _engines.engine_for("optimizers", written[0], "keras" if reason else None)
        return _engines.name_of(engine), reason or ""

    def _layouts(self, variables, positions):
        """The layout of each variable's state, if some have parts on several devices of one mesh.

        None where they have not: then nothing has to be divided, and kernels take whole arrays.
        """
        if not sparse.ON_JAX:
            return None
        layouts = []
        for variable, position in zip(variables, positions, strict=True):
            shape = tuple(variable.shape)
            held = [*self._slots(position), self._settings.remainders[position], variable]
            held = next(v for v in held if v is not None and tuple(v.shape) == shape)
            layouts.append(getattr(held, "_layout", None))
        return layouts if sharding.are_on_one_mesh(layouts) else None

    def _why_whole(self, rule, positions, layouts):
        """Why kernels cannot run on the parts of variables, in words, or None."""
        for position, layout in zip(positions, layouts or (), strict=bool(layouts)):
            if sharding.is_divided(layout):
                if RULES[rule].adapts or self._settings.adapted[position]:
                    return "layer adaptation needs whole variables, and one is spread over devices"
                if RULES[rule].scaling:
                    return f"{rule} needs whole variables, and one is spread over devices"
                scales = [self._scales.of.get(id(slot)) for slot in self._slots(position)]
                if any(s is not None and not sharding.is_divided(s._layout) for s in scales):
                    return "8-bit moments are in blocks, which parts on several devices would cut"
        return None

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

    def _rows(self, gradients, variables, positions, engine):
        """Return gradients, and for variables of which only some rows are to move, those rows."""
        taken, rows = [], []
        for gradient, variable, position in zip(gradients, variables, positions, strict=True):
            lazy, of_gradient = self._goes_by_rows(gradient, variable, position), None
            if not lazy or sparse.ON_JAX or _engines.name_of(engine) == "keras":
                gradient = sparse.dense(gradient)
                of_gradient = sparse.mask_of(gradient) if lazy else None
            else:
                gradient, of_gradient = sparse.rows_of(gradient)
            taken.append(gradient)
            rows.append(of_gradient)
        return taken, rows

    def _goes_by_rows(self, gradient, variable, position):
        everything = RULES[self._rule()].stays == "everything"
        by_the_rule = everything and self._keeps_to_rows(gradient, variable, position)
        return self._settings.lazy[position] or by_the_rule

    def _keeps_to_rows(self, gradient, variable, position):
        """Tell whether by the rule itself rows stay that a sparse gradient lacks."""
        return (
            sparse.is_sparse(gradient)
            and RULES[self._rule()].stays != ""
            and not self._decay_of(position, variable)
            and not self._settings.adapted[position]
            and not self._settings.chains[position]
        )

    def _keep_to_rows(self, gradients, variables, positions, values, slots):
        """Reduce the values to be written to the rows that may have moved."""
        for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            if self._keeps_to_rows(gradient, variable, positions[i]):
                values[i] = sparse.at_rows_of(gradient, values[i])
                if RULES[self._rule()].stays == "everything":
                    slots[i] = [sparse.at_rows_of(gradient, slot) for slot in slots[i]]

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


def _is_on_replica():
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None


def _value(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def wide(value):
    """A scalar, wide enough for all rules."""
    if isinstance(value, (int, float, np.ndarray)):
        return ops.convert_to_tensor(value, dtype=WIDE)
    return ops.cast(value, WIDE)
