#if defined(__x86_64__)
#define FASTKERAS_AVX512
#include "seq2seq/table.h"
#endif
