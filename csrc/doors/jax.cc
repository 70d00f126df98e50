// What fastkeras/_ops/jax.py asks of the library as a whole, and the number of threads of its
// kernels, which `_core` can set only for its own.

#include "doors/jax.h"

#include "machine/parallel.h"

FASTKERAS_VISIBLE void fastkeras_set_num_threads(int num_threads) {
  fastkeras::SetNumThreads(num_threads);
}

FASTKERAS_VISIBLE void fastkeras_set_worth_a_thread(double nanoseconds) {
  fastkeras::SetWorthAThread(nanoseconds);
}

// The version of XLA's interface that this was compiled with: 3 stands for 0.3.
FASTKERAS_VISIBLE int fastkeras_xla_interface() {
  return 1000 * XLA_FFI_API_MAJOR + XLA_FFI_API_MINOR;
}
