// How many threads the kernels of this library use: that of `_core` knows its own alone.

#include "jax.h"

#include "parallel.h"

FASTKERAS_VISIBLE void fastkeras_set_num_threads(int num_threads) {
  fastkeras::SetNumThreads(num_threads);
}

FASTKERAS_VISIBLE void fastkeras_set_worth_a_thread(double nanoseconds) {
  fastkeras::SetWorthAThread(nanoseconds);
}
