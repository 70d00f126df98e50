"""TensorFlow's graphs made to compute what they say."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="package")
def ordered_reads():
    """Let no read of a variable come after its update.

    The dependency optimizer of TensorFlow 2.21 drops control edges between them, on CPUs: in most
    steps of two stock Dense layers the gradient of one uses the other as it is after the step.
    """
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"dependency_optimization": True})
