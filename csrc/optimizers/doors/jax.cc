// The optimizer step for JAX: the handler that fastkeras/_ops/jax.py registers by its name.

#include "optimizers/doors/step_call.h"

extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* fastkeras_optimizer_step(
    XLA_FFI_CallFrame* frame) {
  return fastkeras::optimizers::HandleStep(frame);
}
