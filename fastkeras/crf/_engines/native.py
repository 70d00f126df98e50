"""The C++ kernels on NumPy arrays, GIL released. Results do not depend on the number of threads."""

from fastkeras import _core
from fastkeras._core import CRF_QUANTITIES
from fastkeras.crf.chain import Gradients

VARYING_TRANSITIONS = True  # this engine takes transitions that vary with the step
LOG_PARTITION, SEQUENCE_SCORE, LOG_LIKELIHOOD = map(
    CRF_QUANTITIES.index, ("log_partition", "sequence_score", "log_likelihood")
)


def log_partition(chain):
    no_tags = chain.lengths  # never read, but of the right type
    return _value(chain, no_tags, LOG_PARTITION)


def sequence_score(chain, tags):
    return _value(chain, tags, SEQUENCE_SCORE)


def log_likelihood(chain, tags):
    return _value(chain, tags, LOG_LIKELIHOOD)


def log_likelihood_and_gradients(chain, tags, weights):
    emissions, *others = chain
    likelihood, *gradients = _core.crf_value_and_gradient(
        emissions, tags, *others, weights, LOG_LIKELIHOOD
    )
    return likelihood, Gradients(*gradients)


def weighted_log_likelihood(chain, tags, weights):
    return _core.crf_weighted_value(*chain, tags, weights, False)[0]


def entropy(chain):
    return _core.crf_entropy(*chain, False)[0]


def entropy_and_gradients(chain, weights):
    value, workspace = _core.crf_entropy(*chain, True)
    return value, Gradients(*_core.crf_entropy_gradient(*chain, value, workspace, weights))


def marginals(chain):
    return _core.crf_marginals(*chain)


def viterbi(chain):
    return _core.crf_viterbi(*chain)


def sample(chain, uniforms):
    return _core.crf_sample(*chain, uniforms)


def k_best(chain, k):
    return _core.crf_k_best(*chain, k)


def _value(chain, tags, quantity):
    emissions, *others = chain
    return _core.crf_value(emissions, tags, *others, quantity)
