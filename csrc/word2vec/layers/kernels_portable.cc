#include "word2vec/layer_kernels.h"
