// What a jax.cc exports: the functions that fastkeras/_ops/jax.py registers by their names.

#ifndef FASTKERAS_DOORS_JAX_H_
#define FASTKERAS_DOORS_JAX_H_

#include "doors/xla_call.h"

#define FASTKERAS_VISIBLE extern "C" __attribute__((visibility("default")))

#define FASTKERAS_CALL(name, ...)                                               \
  FASTKERAS_VISIBLE XLA_FFI_Error* fastkeras_##name(XLA_FFI_CallFrame* frame) { \
    return fastkeras::xla_call::Handle<__VA_ARGS__>(frame);                     \
  }

#define FASTKERAS_CALLS(name, Kernel)           \
  FASTKERAS_CALL(name##_float32, Kernel<float>) \
  FASTKERAS_CALL(name##_float64, Kernel<double>)

#endif  // FASTKERAS_DOORS_JAX_H_
