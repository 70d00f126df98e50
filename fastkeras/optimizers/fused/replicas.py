"""A step under the strategies of `tf.distribute`: each replica applies the sum of all gradients."""

import keras
from keras import ops

from fastkeras.optimizers.fused import averages, sparse

if sparse.ON_TENSORFLOW:
    import tensorflow as tf


def is_on_one():
    """Whether this is a replica of a strategy, which may have to meet the others."""
    return tf.distribute.has_strategy() and tf.distribute.get_replica_context() is not None


def are_none(optimizer):
    """Whether there is no strategy, whose sum is one more operation for each gradient.

    Which eager steps would do; in a graph they are pruned.
    """
    own = optimizer._distribution_strategy
    return not tf.distribute.has_strategy() and own is tf.distribute.get_strategy()


def step(optimizer, gradients, variables, learning_rate):
    """Sum the gradients, and do a step with them on each replica."""

    def of_each(distribution, gradients, variables, learning_rate):
        # Within this context, a variable stands for its copy on this replica.
        distribution.extended.update(
            value_of(variables[0]),
            lambda _, gradients, rate: optimizer._step(gradients, variables, rate),
            args=(gradients, learning_rate),
            group=False,
        )

    pairs = optimizer._all_reduce_sum_gradients(list(zip(gradients, variables, strict=True)))
    tf.__internal__.distribute.interim.maybe_merge_call(
        of_each,
        optimizer._distribution_strategy,
        [gradient for gradient, _ in pairs],
        list(variables),
        learning_rate,
    )


def apply(optimizer, gradients, variables):
    """Apply the sum of the gradients of all replicas, in place of Keras.

    Which meets the other replicas inside of a condition, where TensorFlow does not allow it, if
    gradients are accumulated or averages overwrite the variables.
    """

    def on_each(distribution, gradients, variables):
        # Within this context, a variable stands for its copy on this replica.
        distribution.extended.update(
            value_of(variables[0]),
            lambda _, gradients: _apply_on_this(optimizer, gradients, variables),
            args=(gradients,),
            group=False,
        )

    pairs = optimizer._all_reduce_sum_gradients(list(zip(gradients, variables, strict=True)))
    tf.distribute.get_replica_context().merge_call(
        on_each, ([gradient for gradient, _ in pairs], list(variables))
    )


def _apply_on_this(optimizer, gradients, variables):
    optimizer._calls_before = optimizer._iterations + 0 if optimizer.use_ema else None  # a copy
    if optimizer.gradient_accumulation_steps:
        _accumulate_or_step(optimizer, gradients, variables)
    else:
        optimizer._step(gradients, variables, optimizer.learning_rate)
    if optimizer.use_ema:
        averages.update(optimizer, optimizer._trainable_variables)
        if optimizer.ema_overwrite_frequency:
            averages.overwrite_every(optimizer, optimizer.ema_overwrite_frequency)
    optimizer._calls_before = None


def _accumulate_or_step(optimizer, gradients, variables):
    steps = optimizer.gradient_accumulation_steps
    places = [optimizer._get_variable_index(variable) for variable in variables]
    sums = [optimizer._accumulated_gradients[place] for place in places]
    gradients = [
        sparse.dense(gradient) + ops.convert_to_tensor(of_before)
        for gradient, of_before in zip(gradients, sums, strict=True)
    ]

    def step():
        means = [gradient / steps for gradient in gradients]
        optimizer._step(means, variables, optimizer.learning_rate)
        for of_before in sums:
            optimizer.assign(of_before, ops.zeros_like(of_before))

    def accumulate():
        for of_before, gradient in zip(sums, gradients, strict=True):
            optimizer.assign(of_before, gradient)

    ops.cond(ops.equal((optimizer._iterations + 1) % steps, 0), step, accumulate)


def value_of(variable):
    """What a variable of Keras holds; anything else itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable
