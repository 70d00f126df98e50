"""Derivatives of any order: the first by the fastest engine, higher ones by the `keras` engine."""

import tensorflow as tf

from fastkeras._engines import engine_for, name_of

ZERO = tf.UnconnectedGradients.ZERO


def differentiable(function, inputs, transitions, engine):
    """Compute `function(inputs, transitions, engine)`, of shape (batch,), under any nested tapes.

    TensorFlow Addons' functions can be differentiated twice, but the C++ kernels only once.
    """
    if name_of(engine_for("crf", inputs, engine)) != "tensorflow_native":
        return function(inputs, transitions, engine)

    @tf.custom_gradient
    def value(inputs, transitions):
        with tf.GradientTape(persistent=True) as tape:  # the caller's tape may ask more than once
            tape.watch((inputs, transitions))
            result = function(inputs, transitions, engine)

        @tf.custom_gradient
        def gradient(inputs, transitions, d_result):
            first = tape.gradient(result, (inputs, transitions), d_result, ZERO)

            def second(*d_first):
                arguments = (inputs, transitions, d_result)
                with tf.GradientTape() as outer:
                    outer.watch(arguments)
                    with tf.GradientTape() as inner:
                        inner.watch(arguments[:2])
                        again = function(inputs, transitions, "keras")
                    first = inner.gradient(again, arguments[:2], d_result, ZERO)
                return outer.gradient(first, arguments, d_first, ZERO)

            return first, second

        return result, lambda d_result: gradient(inputs, transitions, d_result)

    return value(inputs, transitions)
