// The kernels of second-order chains for JAX.

#include "doors/jax.h"

#include "crf/second_order/doors/tensorflow_kernels.h"

FASTKERAS_CALLS(second_order_value, fastkeras::crf::SecondOrderValueKernel)
FASTKERAS_CALLS(second_order_gradient, fastkeras::crf::SecondOrderGradientKernel)
FASTKERAS_CALLS(second_order_marginals, fastkeras::crf::SecondOrderMarginalsKernel)
FASTKERAS_CALLS(second_order_viterbi, fastkeras::crf::SecondOrderViterbiKernel)

// For fastkeras/crf/second_order/_engines/jax_native.py, which has to know the shapes.
FASTKERAS_VISIBLE int64_t fastkeras_second_order_workspace(int64_t batch, int64_t steps,
                                                           int64_t num_tags) {
  return fastkeras::crf::SecondOrderWorkspaceSize(batch, steps, num_tags);
}
