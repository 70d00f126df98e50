"""What checkpoints of TensorFlow say about 8-bit moments besides their codes."""

import json

import tensorflow as tf

from fastkeras.optimizers.quantization import LAYOUT, check_layout


class MomentCodes(tf.train.experimental.PythonState):
    """The mark of what codes mean; one that means something else is refused."""

    def serialize(self):
        return json.dumps(LAYOUT.tolist())

    def deserialize(self, string_value):
        check_layout(json.loads(string_value))
