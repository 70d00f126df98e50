// A step of a beam search for JAX: the handlers that fastkeras/_ops/jax.py registers by their
// names.

#include "doors/jax.h"

#include "seq2seq/doors/tensorflow_kernels.h"

FASTKERAS_CALLS(seq2seq_select, fastkeras::seq2seq::SelectKernel)
