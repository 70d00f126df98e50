#if defined(__x86_64__)
#define FASTKERAS_AVX512
#include "word2vec/layers/kernels.h"
#endif
