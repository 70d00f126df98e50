#if defined(__x86_64__)
#define FASTKERAS_AVX512
#include "crf/table.h"
#endif
