"""Loads the op that updates variables, which fits one minor version of TensorFlow, or says why."""

from pathlib import Path

import tensorflow as tf

VERSION = ".".join(tf.__version__.split(".")[:2])
PATH = Path(__file__).with_name(f"libfastkeras_tf_variable_ops_{VERSION.replace('.', '_')}.so")

if not PATH.exists():
    raise ImportError(
        f"{PATH.name} was not built: when fastkeras was installed there was no C++17 compiler, or "
        f"no TensorFlow {VERSION}; install TensorFlow first, then fastkeras"
    )
try:
    library = tf.load_op_library(str(PATH))
except tf.errors.NotFoundError as error:  # an undefined symbol, or a file that is no library
    raise ImportError(
        f"{PATH.name} does not load under TensorFlow {tf.__version__}: {error.message}"
    ) from error
