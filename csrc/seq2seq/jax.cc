// A step of a beam search for JAX: the handlers that fastkeras/_ops/jax.py registers by their
// names.

#include "jax.h"

#include "seq2seq/tensorflow_kernels.h"

FASTKERAS_CALLS(seq2seq_select, fastkeras::seq2seq::SelectKernel)
