#include "word2vec/losses.h"

#include <cmath>

namespace fastkeras::word2vec {

double Log(double value) { return std::log(value); }

double SumOfLogs(const float* values, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += std::log(static_cast<double>(values[i]));
  return sum;
}

}  // namespace fastkeras::word2vec
