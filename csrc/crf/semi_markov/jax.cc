// The kernels of semi-Markov chains for JAX.

#include "doors/jax.h"

#include "crf/semi_markov/tensorflow_kernels.h"

FASTKERAS_CALLS(semi_markov_log_partition, fastkeras::crf::SemiLogPartitionKernel)
FASTKERAS_CALLS(semi_markov_marginals, fastkeras::crf::SemiMarginalsKernel)
FASTKERAS_CALLS(semi_markov_viterbi, fastkeras::crf::SemiViterbiKernel)
