"""Loads the ops built from csrc/*/*tensorflow.cc; an ImportError says why it cannot."""

from pathlib import Path

import tensorflow as tf

PATH = Path(__file__).with_name("libfastkeras_tf_ops.so")

if not PATH.exists():
    raise ImportError(
        f"{PATH.name} was not built when fastkeras was installed, for want of a C++17 compiler; "
        "`pip install --verbose` shows what the compiler said"
    )
try:
    library = tf.load_op_library(str(PATH))
except tf.errors.NotFoundError as error:  # an undefined symbol, or a file that is no library
    raise ImportError(
        f"{PATH.name} does not load under TensorFlow {tf.__version__}: {error.message}"
    ) from error
