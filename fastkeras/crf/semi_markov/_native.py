"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core


def log_partition(emissions, transitions, durations, lengths, start_transitions, end_transitions):
    chain = (transitions, durations, lengths, start_transitions, end_transitions)
    return _core.semi_markov_log_partition(emissions, *chain)


def marginals(emissions, transitions, durations, lengths, start_transitions, end_transitions):
    chain = (transitions, durations, lengths, start_transitions, end_transitions)
    return _core.semi_markov_marginals(emissions, *chain)


def viterbi(emissions, transitions, durations, lengths, start_transitions, end_transitions):
    chain = (transitions, durations, lengths, start_transitions, end_transitions)
    return _core.semi_markov_viterbi(emissions, *chain)
