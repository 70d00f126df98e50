// The CRF's kernels for JAX: the handlers that fastkeras/_ops/jax.py registers by their names.

#include <cstdint>

#include "crf/tensorflow_kernels.h"
#include "xla_call.h"

#define FASTKERAS_EXPORT extern "C" __attribute__((visibility("default")))

#define FASTKERAS_CALL(name, ...)                                                  \
  FASTKERAS_EXPORT XLA_FFI_Error* fastkeras_crf_##name(XLA_FFI_CallFrame* frame) { \
    return fastkeras::xla_call::Handle<fastkeras::crf::__VA_ARGS__>(frame);        \
  }

#define FASTKERAS_CALLS(name, Kernel)           \
  FASTKERAS_CALL(name##_float32, Kernel<float>) \
  FASTKERAS_CALL(name##_float64, Kernel<double>)

FASTKERAS_CALLS(value, ValueKernel)
FASTKERAS_CALLS(gradient, GradientKernel)
FASTKERAS_CALLS(marginals, MarginalsKernel)
FASTKERAS_CALLS(viterbi, ViterbiKernel)
FASTKERAS_CALLS(k_best, KBestKernel)
FASTKERAS_CALLS(sample, SampleKernel)

// For _jax_native.py, which has to know the shapes of what comes back.
FASTKERAS_EXPORT int64_t fastkeras_crf_workspace_float32(int64_t batch, int64_t steps,
                                                         int64_t num_tags) {
  return fastkeras::crf::WorkspaceSize<float>(batch, steps, num_tags);
}

FASTKERAS_EXPORT int64_t fastkeras_crf_workspace_float64(int64_t batch, int64_t steps,
                                                         int64_t num_tags) {
  return fastkeras::crf::WorkspaceSize<double>(batch, steps, num_tags);
}

// The name of a quantity, or null.
FASTKERAS_EXPORT const char* fastkeras_crf_quantity(int number) {
  using namespace fastkeras::crf;
  return number >= 0 && number < kNumQuantities ? kQuantities[number] : nullptr;
}
