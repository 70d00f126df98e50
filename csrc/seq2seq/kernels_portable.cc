#include "seq2seq/table.h"
