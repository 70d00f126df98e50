"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core
from fastkeras.crf._engines.native import LOG_LIKELIHOOD, LOG_PARTITION, SEQUENCE_SCORE


def log_partition(chain, triples, allowed):
    no_tags = chain.lengths  # never read, but of the right type
    return _value(chain, no_tags, triples, LOG_PARTITION)


def sequence_score(chain, tags, triples, allowed):
    return _value(chain, tags, triples, SEQUENCE_SCORE)


def log_likelihood(chain, tags, triples, allowed):
    return _value(chain, tags, triples, LOG_LIKELIHOOD)


def marginals(chain, triples, allowed):
    return _core.second_order_marginals(*chain, triples)


def viterbi(chain, triples, allowed):
    return _core.second_order_viterbi(*chain, triples)


def _value(chain, tags, triples, quantity):
    return _core.second_order_value(*chain, triples, tags, quantity, keep_workspace=False)[0]
