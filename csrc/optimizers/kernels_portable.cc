#include "optimizers/table.h"
