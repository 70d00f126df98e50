"""The op that updates variables, built from csrc/optimizers/doors/tensorflow.cc."""

from fastkeras._ops.library import load, state_under_xla

library = load("libfastkeras_tf_variable_ops", fits_one_version=True)
XLA = state_under_xla("libfastkeras_tf_variable_xla")
