#if defined(__x86_64__)
#define FASTKERAS_AVX2
#include "word2vec/layers/kernels.h"
#endif
