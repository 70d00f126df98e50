#if defined(__x86_64__)
#define FASTKERAS_AVX2
#include "crf/table.h"
#endif
