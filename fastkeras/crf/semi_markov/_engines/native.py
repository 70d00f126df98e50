"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core


def log_partition(chain, durations):
    return _core.semi_markov_log_partition(*_arguments(chain, durations))


def marginals(chain, durations):
    return _core.semi_markov_marginals(*_arguments(chain, durations))


def viterbi(chain, durations):
    return _core.semi_markov_viterbi(*_arguments(chain, durations))


def _arguments(chain, durations):
    boundaries = chain.start_transitions, chain.end_transitions
    return chain.emissions, chain.transitions, durations, chain.lengths, *boundaries
