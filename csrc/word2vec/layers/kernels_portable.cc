#include "word2vec/layers/kernels.h"
