#include "crf/kernels.h"
