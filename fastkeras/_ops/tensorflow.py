"""The ops built from csrc/**/tensorflow.cc, except that of the optimizers."""

from fastkeras._ops.library import load, state_under_xla

library = load("libfastkeras_tf_ops")
XLA = state_under_xla("libfastkeras_tf_xla")
