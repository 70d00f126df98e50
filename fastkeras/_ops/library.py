"""Loads a library of TensorFlow ops that lies in the folder of the package, or says why it cannot.

What a library needs to run inside of XLA's programs is a library of its own: it fits one minor
version of TensorFlow, and only the CPU.
"""

import tensorflow as tf

from fastkeras import _build

VERSION = ".".join(tf.__version__.split(".")[:2])


def state_under_xla(name):
    """Load kernels for XLA of ops that are there; return "ready" or why XLA has none."""
    try:
        load(name, fits_one_version=True)
    except ImportError as error:
        return str(error)
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return "there is a GPU, and XLA would ask for its kernels"
    return "ready"


def load(name, fits_one_version=False):
    """Return the ops of a library, whose file may be named after the TensorFlow that it fits."""
    if fits_one_version:
        name += f"_{VERSION.replace('.', '_')}"
    path = _build.FOLDER / f"{name}.so"
    if not path.exists():
        raise ImportError(_build.reason(name, VERSION if fits_one_version else None))
    try:
        return tf.load_op_library(str(path))
    except tf.errors.NotFoundError as error:  # an undefined symbol, or a file that is no library
        raise ImportError(
            f"{path.name} does not load under TensorFlow {tf.__version__}: {error.message}; "
            f"`{_build.rebuild(_build.NAMED)}` builds it again"
        ) from error
