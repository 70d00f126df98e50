// What fastkeras/_ops/jax.py has to know of the library as a whole, and how many threads its
// kernels use, which `_core` can only set for its own.

#include "jax.h"

#include "parallel.h"

FASTKERAS_VISIBLE void fastkeras_set_num_threads(int num_threads) {
  fastkeras::SetNumThreads(num_threads);
}

FASTKERAS_VISIBLE void fastkeras_set_worth_a_thread(double nanoseconds) {
  fastkeras::SetWorthAThread(nanoseconds);
}

// The version of XLA's interface by whose headers this was compiled: 3 stands for 0.3.
FASTKERAS_VISIBLE int fastkeras_xla_interface() {
  return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR;
}
