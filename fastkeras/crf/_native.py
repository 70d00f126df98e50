"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core
from fastkeras.crf.gradients import Gradients

LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = range(3)  # Quantity in csrc/crf/crf.h


def log_partition(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    no_tags = lengths  # of the right type, and not read
    return _core.crf_value(emissions, no_tags, *chain, LOG_PARTITION)


def sequence_score(emissions, tags, transitions, lengths, mask, start_transitions, end_transitions):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    return _core.crf_value(emissions, tags, *chain, SEQUENCE_SCORE)


def log_likelihood(emissions, tags, transitions, lengths, mask, start_transitions, end_transitions):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    return _core.crf_value(emissions, tags, *chain, LOG_LIKELIHOOD)


def log_likelihood_and_gradients(
    emissions, tags, transitions, lengths, mask, start_transitions, end_transitions, weights
):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    likelihood, *gradients = _core.crf_value_and_gradient(
        emissions, tags, *chain, weights, LOG_LIKELIHOOD
    )
    return likelihood, Gradients(*gradients)


def marginals(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    return _core.crf_marginals(
        emissions, transitions, lengths, mask, start_transitions, end_transitions
    )


def viterbi(emissions, transitions, lengths, mask, start_transitions, end_transitions):
    return _core.crf_viterbi(
        emissions, transitions, lengths, mask, start_transitions, end_transitions
    )


def sample(emissions, transitions, lengths, mask, start_transitions, end_transitions, uniforms):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    return _core.crf_sample(emissions, *chain, uniforms)


def k_best(emissions, transitions, lengths, mask, start_transitions, end_transitions, k):
    chain = (transitions, lengths, mask, start_transitions, end_transitions)
    return _core.crf_k_best(emissions, *chain, k)
