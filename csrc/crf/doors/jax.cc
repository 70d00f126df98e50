// The CRF's kernels for JAX: the handlers that fastkeras/_ops/jax.py registers by their names.

#include "doors/jax.h"

#include <cstdint>

#include "crf/doors/tensorflow_kernels.h"

FASTKERAS_CALLS(crf_value, fastkeras::crf::ValueKernel)
FASTKERAS_CALLS(crf_gradient, fastkeras::crf::GradientKernel)
FASTKERAS_CALLS(crf_weighted_value, fastkeras::crf::WeightedValueKernel)
FASTKERAS_CALLS(crf_weighted_gradient, fastkeras::crf::WeightedGradientKernel)
FASTKERAS_CALLS(crf_entropy, fastkeras::crf::EntropyKernel)
FASTKERAS_CALLS(crf_entropy_gradient, fastkeras::crf::EntropyGradientKernel)
FASTKERAS_CALLS(crf_marginals, fastkeras::crf::MarginalsKernel)
FASTKERAS_CALLS(crf_viterbi, fastkeras::crf::ViterbiKernel)
FASTKERAS_CALLS(crf_k_best, fastkeras::crf::KBestKernel)
FASTKERAS_CALLS(crf_sample, fastkeras::crf::SampleKernel)

// For fastkeras/crf/_engines/jax_native.py, which has to know the shapes of the results.
FASTKERAS_VISIBLE int64_t fastkeras_crf_workspace_float32(int64_t batch, int64_t steps,
                                                          int64_t num_tags) {
  return fastkeras::crf::WorkspaceSize<float>(batch, steps, num_tags);
}

FASTKERAS_VISIBLE int64_t fastkeras_crf_workspace_float64(int64_t batch, int64_t steps,
                                                          int64_t num_tags) {
  return fastkeras::crf::WorkspaceSize<double>(batch, steps, num_tags);
}

// The name of a quantity, or null.
FASTKERAS_VISIBLE const char* fastkeras_crf_quantity(int number) {
  using namespace fastkeras::crf;
  return number >= 0 && number < kNumQuantities ? kQuantities[number] : nullptr;
}
