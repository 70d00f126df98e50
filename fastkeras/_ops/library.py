"""Loads a library of TensorFlow ops from the folder of the package, or says why it cannot.

The kernels of these ops for XLA are a separate library, since they fit one minor version of
TensorFlow only, and run on the CPU only.
"""

import tensorflow as tf

from fastkeras import _build

VERSION = ".".join(tf.__version__.split(".")[:2])


def state_under_xla(name):
    """Load the kernels for XLA of ops already loaded; return "ready" or why there are none."""
    try:
        load(name, fits_one_version=True)
    except ImportError as error:
        return str(error)
    if any(device.device_type != "CPU" for device in tf.config.list_physical_devices()):
        return "there is a GPU, and XLA would ask for its kernels"
    return "ready"


def load(name, fits_one_version=False):
    """Return the ops of a library; its file name may end with the TensorFlow version it fits."""
    if fits_one_version:
        name += f"_{VERSION.replace('.', '_')}"
    path = _build.FOLDER / f"{name}.so"
    if not path.exists():
        raise ImportError(_build.reason(name, VERSION if fits_one_version else None))
    try:
        return tf.load_op_library(str(path))
    except tf.errors.NotFoundError as error:  # an undefined symbol, or the file is not a library
        raise ImportError(
            f"{path.name} does not load under TensorFlow {tf.__version__}: {error.message}; "
            f"`{_build.rebuild(_build.NAMED)}` builds it again"
        ) from error
