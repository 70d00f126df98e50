"""What checkpoints of TensorFlow say about the bits of moments, besides their values.

A checkpoint has the variables of an optimizer by number, and those of moments in 8 bits are two
each, so that in moments of other bits it would shift all that follow. One of 32 bits has no mark,
as those of the optimizers of Keras, which it can be exchanged with.
"""

import json
from typing import Any

from fastkeras.optimizers.fused.sparse import ON_TENSORFLOW
from fastkeras.optimizers.quantization import LAYOUT, check_layout

PythonState: Any = object
if ON_TENSORFLOW:
    import tensorflow as tf

    PythonState = tf.train.experimental.PythonState

MARK = "_moment_codes"  # the name in the checkpoint


class MomentCodes(PythonState):
    """The mark of what moments are; one that means something else is refused."""

    def __init__(self, bits):
        self.bits = bits

    def serialize(self):
        return json.dumps({"moment_bits": self.bits, "layout": LAYOUT.tolist()})

    def deserialize(self, string_value):
        saved = json.loads(string_value)
        check_bits(saved["moment_bits"], self.bits)
        if self.bits == 8:
            check_layout(saved["layout"])


# TensorFlow holds it by a weak reference alone.
_OF_32 = MomentCodes(32)


def check_bits(saved, own):
    """Raise a ValueError if moments in a checkpoint have other bits than those of the optimizer."""
    if saved != own:
        raise ValueError(
            f"the checkpoint has moments of {saved} bits, and the optimizer is made with "
            f"moment_bits={own}: make it with moment_bits={saved}, or load a file of Keras, "
            "by model.save and load_model or load_weights, whose moments are converted"
        )


class Marked:
    """The part of an optimizer that TensorFlow asks for what to save or restore."""

    def _trackable_children(self, *save_type, **options):
        children = super()._trackable_children(*save_type, **options)
        self._mark_is_read = MARK not in children
        if MARK in children:  # goes first, so that TensorFlow asks for it before all others
            children = {MARK: children.pop(MARK), **children}
        return children

    def _lookup_dependency(self, name, *children):
        found = super()._lookup_dependency(name, *children)
        if not children:  # not a checkpoint, but an attribute that is set
            return found
        if name == MARK:
            self._mark_is_read = True
            return _OF_32 if found is None else found
        if not self._mark_is_read:
            check_bits(32, self.moment_bits)
        return found
