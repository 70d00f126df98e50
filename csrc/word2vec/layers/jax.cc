// The kernels of the Keras layers for JAX: the handlers that fastkeras/_ops/jax.py registers by
// their names.

#include "doors/xla_call.h"
#include "word2vec/layers/tensorflow_kernels.h"

#define FASTKERAS_CALL(name, ...)                                                             \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* fastkeras_word2vec_##name( \
      XLA_FFI_CallFrame* frame) {                                                             \
    return fastkeras::xla_call::Handle<fastkeras::word2vec::layers::__VA_ARGS__>(frame);      \
  }

#define FASTKERAS_CALLS(name, Kernel)           \
  FASTKERAS_CALL(name##_float32, Kernel<float>) \
  FASTKERAS_CALL(name##_float64, Kernel<double>)

FASTKERAS_CALLS(pool, PoolKernel)
FASTKERAS_CALLS(scatter, ScatterKernel)
FASTKERAS_CALLS(loss, LossKernel)
