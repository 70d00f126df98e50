"""The C++ kernel on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core


def select(step, num_candidates):
    return _core.seq2seq_select(*step, num_candidates)
