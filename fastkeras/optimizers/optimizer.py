"""What the fused optimizers add to those of Keras: one call for all variables, and its settings."""

from itertools import chain
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops

from fastkeras import _engines
from fastkeras.optimizers import matching, multipliers, per_variable, transforms
from fastkeras.optimizers.quantization import is_worth_it, scales_of
from fastkeras.optimizers.report import report
from fastkeras.optimizers.rules import QUANTIZABLE, RULES

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
if ON_TENSORFLOW:
    import tensorflow as tf

    _traced = tf.autograph.experimental.do_not_convert  # converting costs seconds, for nothing
else:

    def _traced(function):
        return function


WIDE = "float64" if ON_TENSORFLOW else "float32"  # of scalars: JAX has float64 only when asked


OF_KERAS = -1  # the group of the argument `global_clipnorm`


class Fused:
    """Goes before an optimizer of Keras among the bases of a class.

    A class says which rule it is (`_rule`), its slots for each variable (`_slots`) and which of its
    attributes are hyperparameters of the rule (`_HYPERPARAMETERS`). All else is that of Keras:
    arguments, defaults, variables and their order.
    """

    _HYPERPARAMETERS = ()

    def __init__(
        self,
        *args,
        learning_rate_multipliers=None,
        gradient_transforms=None,
        weight_decay_overrides=None,
        ema_bias_correction=False,
        moment_bits=32,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.ema_bias_correction = ema_bias_correction
        if moment_bits not in (8, 32):
            raise ValueError(f"moment_bits must be 8 or 32, got {moment_bits!r}")
        if moment_bits == 8 and self._rule() not in QUANTIZABLE:
            raise ValueError(
                f"moment_bits=8 is for Adam, AdamW, Lion and SGD with momentum, not {self._rule()}"
            )
        self.moment_bits = moment_bits
        self._scales = SimpleNamespace(of={})  # of 8-bit moments: by id of the variable of codes
        # Keras tracks what it finds in attributes; a namespace it leaves alone.
        self._given = SimpleNamespace(
            multipliers=multipliers.checked(learning_rate_multipliers),
            transforms=per_variable.transforms(gradient_transforms),
            decays=per_variable.numbers("weight_decay_overrides", weight_decay_overrides),
        )
        self._settings = None
        self._fusing = False

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        variables = list(variables)
        chains = per_variable.resolve_transforms(self._given.transforms, variables)
        self._settings = SimpleNamespace(
            multipliers=_untrained(multipliers.resolve(self._given.multipliers, variables)),
            chains=chains,
            decays=per_variable.resolve_numbers(
                "weight_decay_overrides", self._given.decays, variables
            ),
            skipped=_untrained(0, "int32") if _any_has(chains, "sanitize") else None,
            noise=keras.random.SeedGenerator() if _any_has(chains, "add_noise") else None,
        )
        if keras.backend.backend() == "jax":  # a compiled step has to get what may change
            for variable in self._beside_those_of_keras():
                self._track_variable(variable)
        if self._settings.noise is not None:
            self._track_variable(self._settings.noise.state)
        multipliers.follow(self)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        """Keep the moments of float16 and bfloat16 variables in float32, or moments in 8 bits.

        In bfloat16 a velocity never moves: 0.001 of a change is below its last digit.
        """
        dtype, shape = str(reference_variable.dtype), tuple(reference_variable.shape)
        path = matching.path_of(reference_variable)
        is_moment = name not in ("average", "gradient_accumulator")
        quantized = self.moment_bits == 8 and is_moment and dtype != "float64"
        quantized = quantized and is_worth_it(path.partition(":")[0], shape)
        if not quantized and not (is_moment and dtype in ("float16", "bfloat16")):
            return super().add_variable_from_reference(reference_variable, name, initializer)
        moment = self.add_variable(
            shape=shape,
            initializer=initializer,
            dtype="uint8" if quantized else "float32",
            name=f"{path.replace('/', '_').replace(':', '_')}_{name}",
            layout=getattr(reference_variable, "_layout", None),
        )
        if quantized:
            size = int(np.prod(shape))
            scales = self.add_variable((scales_of(size),), dtype="float32", name=f"{name}_scales")
            self._scales.of[id(moment)] = scales
        return moment

    def _slots_and_scales(self, position):
        slots = []
        for slot in self._slots(position):
            scales = self._scales.of.get(id(slot))
            slots += [slot] if scales is None else [slot, scales]
        return slots

    def _beside_those_of_keras(self):
        if self._settings is None:
            return []
        beside = (self._settings.multipliers, self._settings.skipped)
        return [variable for variable in beside if variable is not None]

    def _saved_variables(self):
        beside = {id(variable) for variable in self._beside_those_of_keras()}
        return [variable for variable in self.variables if id(variable) not in beside]

    def save_own_variables(self, store):
        for i, variable in enumerate(self._saved_variables()):
            store[str(i)] = variable.numpy()

    def load_own_variables(self, store):
        variables = self._saved_variables()
        if len(store.keys()) != len(variables):
            super().load_own_variables(store)  # warns
            return
        for i, variable in enumerate(variables):
            variable.assign(store[str(i)])

    @property
    def learning_rate_multipliers(self):
        """The multiplier of each variable, in their order; before `build`, what was given."""
        if self._settings is None:
            return self._given.multipliers
        # By way of its digits a float32 becomes 0.1 again, not 0.10000000149
        return [float(str(value)) for value in _numpy(self._settings.multipliers)]

    @property
    def skipped_steps(self):
        """How many steps `sanitize` has skipped."""
        skipped = self._settings and self._settings.skipped
        return 0 if skipped is None else int(_numpy(skipped))

    def report(self, model=None, print_fn=print):
        """Print for each variable its multiplier, transforms, decay and the size of its moments.

        Args:
            model: whose variables are shown; None for all that the optimizer knows.
            print_fn: called once with the text.

        Returns:
            The bytes of all moments.

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

    def get_config(self):
        config = super().get_config()
        given = self._given
        built = self._settings is not None
        own = {
            "learning_rate_multipliers": self.learning_rate_multipliers,
            "gradient_transforms": self._settings.chains if built else given.transforms,
            "weight_decay_overrides": self._settings.decays if built else given.decays,
        }
        config |= {"ema_bias_correction": True} if self.ema_bias_correction else {}
        config |= {"moment_bits": 8} if self.moment_bits == 8 else {}
        return config | per_variable.serialized(own)

    # What Keras calls at each step. It may still call the first two for itself.

    def _clip_gradients(self, gradients):
        return gradients if self._fusing else super()._clip_gradients(gradients)

    def _apply_weight_decay(self, variables):
        if not self._fusing:
            super()._apply_weight_decay(variables)

    @_traced
    def _backend_apply_gradients(self, gradients, variables):
        self._fusing = True
        try:
            super()._backend_apply_gradients(gradients, variables)
        finally:
            self._fusing = False

    def _backend_update_step(self, gradients, variables, learning_rate):
        self._before_step()
        if not ON_TENSORFLOW:
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

    def _update_model_variables_moving_average(self, variables):
        number = wide(self.iterations) + 1  # of this update; Keras counts calls from 0
        momentum = ops.where(number > 1, wide(self.ema_momentum), wide(0.0))
        if self.ema_bias_correction:
            power = ops.power(wide(self.ema_momentum), number)
            momentum = (self.ema_momentum - power) / (1 - power)
        if self.gradient_accumulation_steps:  # Keras moves at each call, update or not
            is_update = (self._iterations + 1) % self.gradient_accumulation_steps == 0
            momentum = ops.where(is_update, momentum, wide(1.0))
        for variable, average in zip(variables, self._model_variables_moving_average, strict=True):
            if average is not None:
                m = ops.cast(momentum, variable.dtype)
                average.assign(ops.add(ops.multiply(m, average), ops.multiply(1 - m, variable)))

    def _before_step(self):
        """Update what belongs to the optimizer as a whole."""

    def _step_of_each_replica(self, distribution, gradients, variables, learning_rate):
        # Within this context, variables stand for the component of the replica.
        distribution.extended.update(
            _value(variables[0]),
            lambda _, gradients, rate: self._step(gradients, variables, rate),
            args=(gradients, learning_rate),
            group=False,
        )

    def _step(self, gradients, variables, learning_rate):
        settings = self._settings
        positions = [self._get_variable_index(variable) for variable in variables]
        rule, count = self._rule(), len(positions)
        rate, number = wide(learning_rate), wide(self.iterations) + 1
        multiplier = ops.convert_to_tensor(settings.multipliers)
        if positions != list(range(len(settings.chains))):
            multiplier = ops.take(multiplier, positions)
        frozen = ops.equal(multiplier, 0)
        gradients, chains = self._transform_before(
            [_dense(g) for g in gradients], variables, self._chains_of(positions), frozen
        )
        multiplier = wide(multiplier)
        c = RULES[rule].coefficients(ops, self._hyperparameters(), rate, multiplier, number)
        c = ops.stack([ops.broadcast_to(wide(value), (count,)) for value in c], axis=1)
        decays = [self._decay_of(p, v) for p, v in zip(positions, variables, strict=True)]
        decays = wide(np.array(decays)) * multiplier * rate

        slots = [self._slots_and_scales(position) for position in positions]
        values = [_value(variable) for variable in variables]
        slot_values = [[_value(slot) for slot in of_variable] for of_variable in slots]
        engine = _engines.engine_for(
            "optimizers", values[0], "keras" if rule == "adafactor" else None
        )
        new_values, new_slots, finite = engine.step(
            rule, values, gradients, slot_values, frozen, c, decays, chains
        )
        for triple in zip(
            [*variables, *chain(*slots)],
            [*values, *chain(*slot_values)],
            [*new_values, *chain(*new_slots)],
            strict=True,
        ):
            variable, old, new = triple
            if new is not old:
                self.assign(variable, new)
        if settings.skipped is not None:
            settings.skipped.assign_add(1 - ops.cast(finite, "int32"))

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

    def _transform_before(self, gradients, variables, chains, frozen):
        """Do what no kernel does, and all that comes before it in its chain."""
        before, after = transforms.split(chains)
        if not any(before):
            return gradients, chains
        wide = [_computed_in(variable) for variable in variables]
        transformed = transforms.apply(
            ops,
            [ops.cast(g, value.dtype) for g, value in zip(gradients, wide, strict=True)],
            wide,
            before,
            variables,
            lambda g: keras.random.normal(g.shape, dtype=g.dtype, seed=self._settings.noise),
            frozen,
        )
        return transforms.sanitized(ops, *transformed, before, after)

    def _hyperparameters(self):
        return {name: getattr(self, name) for name in self._HYPERPARAMETERS}


def _untrained(value, dtype="float32"):
    return keras.Variable(np.asarray(value, dtype), trainable=False, dtype=dtype)


def _numpy(variable):
    # A tensor, not the variable: on TensorFlow, NumPy 2 warns of how Keras reads that.
    return ops.convert_to_numpy(ops.stop_gradient(variable))


def _any_has(chains, name):
    return any(getattr(step, "name", None) == name for steps in chains for step in steps)


def _value(variable):
    return variable.value if isinstance(variable, keras.Variable) else variable


def _computed_in(variable):
    value = ops.convert_to_tensor(variable)
    half = str(variable.dtype) in ("float16", "bfloat16")
    return ops.cast(value, "float32") if half else value


def _dense(gradient):
    """Sum what a sparse gradient says of the same row more than once."""
    if ON_TENSORFLOW and isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient)
    return gradient.todense() if hasattr(gradient, "todense") else gradient  # of JAX


def wide(value):
    """A scalar that no rule loses digits of."""
    if isinstance(value, (int, float, np.ndarray)):
        return ops.convert_to_tensor(value, dtype=WIDE)
    return ops.cast(value, WIDE)
