"""The ops built from csrc/*/*tensorflow.cc, and what lets them run inside of XLA's programs."""

import tensorflow as tf

from fastkeras._tf_library import load

library = load("libfastkeras_tf_ops")
try:
    load("libfastkeras_tf_xla", fits_one_version=True)  # kernels of these ops, which are there now
    XLA = "ready"
except ImportError as error:
    XLA = str(error)


def run_inside_xla():
    """Whether XLA finds our kernels: it has them for the CPU, and would ask for a GPU's."""
    return XLA == "ready" and all(
        device.device_type == "CPU" for device in tf.config.list_physical_devices()
    )
