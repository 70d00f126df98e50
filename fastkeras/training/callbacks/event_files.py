"""Event files of TensorBoard, written by whichever package is installed."""

import numpy as np
from keras import backend

BUCKETS = 30


def summary_writer():
    """Return the class that writes event files: call it with the folder.

    Like the `SummaryWriter` of torch and of tensorboardX, it has `add_scalar` and `add_histogram`,
    each of (tag, values, step), and `close`. On the TensorFlow backend it writes with `tf.summary`;
    on the others it is that of torch (on torch only; it needs tensorboard) or of tensorboardX, or
    else TensorFlow's.

    Raises:
        ImportError: none of them is installed.
    """
    for of_package in _IN_ORDER[backend.backend()]:
        try:
            return of_package()
        except ImportError:
            continue
    raise ImportError("log_dir: event files need tensorboardX: pip install tensorboardX")


def _of_tensorflow():
    import tensorflow  # noqa: F401

    return TensorFlowWriter


def _of_torch():
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter


def _of_tensorboardx():
    from tensorboardX import SummaryWriter

    return SummaryWriter


_IN_ORDER = {
    "tensorflow": (_of_tensorflow,),
    "torch": (_of_torch, _of_tensorboardx, _of_tensorflow),
    "jax": (_of_tensorboardx, _of_tensorflow),
}


class TensorFlowWriter:
    """Writes event files by `tf.summary.write`; `tf.summary.histogram` would need TensorBoard."""

    def __init__(self, log_dir):
        import tensorflow as tf

        self._tf, self._writer = tf, tf.summary.create_file_writer(str(log_dir))

    def add_scalar(self, tag, value, step):
        """Write a number."""
        self._write("scalars", tag, np.float32(value), step)

    def add_histogram(self, tag, values, step):
        """Write how many values lie in each interval between the least and the largest."""
        counts, edges = np.histogram(np.asarray(values, "float64"), BUCKETS)
        self._write("histograms", tag, np.stack([edges[:-1], edges[1:], counts], 1), step)

    def _write(self, plugin, tag, tensor, step):
        of_plugin = self._tf.compat.v1.SummaryMetadata.PluginData(plugin_name=plugin)
        metadata = self._tf.compat.v1.SummaryMetadata(plugin_data=of_plugin)
        with self._writer.as_default():
            self._tf.summary.write(tag, tensor, step, metadata)

    def close(self):
        """Write what is left, and close the file."""
        self._writer.close()
