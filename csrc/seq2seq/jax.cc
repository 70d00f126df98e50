// A step of a beam search for JAX: the handlers that fastkeras/_ops/jax.py registers by their
// names.

#include "seq2seq/tensorflow_kernels.h"
#include "xla_call.h"

#define FASTKERAS_CALL(type, T)                                                     \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error*                  \
  fastkeras_seq2seq_select_##type(XLA_FFI_CallFrame* frame) {                       \
    return fastkeras::xla_call::Handle<fastkeras::seq2seq::SelectKernel<T>>(frame); \
  }

FASTKERAS_CALL(float32, float)
FASTKERAS_CALL(float64, double)
