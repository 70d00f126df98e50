#if defined(__x86_64__)
#define FASTKERAS_AVX2
#include "seq2seq/table.h"
#endif
