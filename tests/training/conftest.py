"""Make TensorFlow's graphs run in the order in which they were written."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="package")
def ordered_reads():
    """Keep reads of a variable before its update.

    On CPUs, the dependency optimizer of TensorFlow 2.21 drops control edges between them: in most
    steps of two stock Dense layers, the gradient of one uses the other's weights after the step.
    """
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
    yield
    tf.config.optimizer.set_experimental_options({"dependency_optimization": True})
