#include "word2vec/table.h"
