#include "crf/table.h"
