// From logits to the factors of the gradient, and the loss. Compiled once for each instruction set.

#include "math.h"
#include "simd.h"

namespace fastkeras::word2vec {
// Outside of every instruction set's code, since they call the standard library.
double SumOfLogs(const float* values, int count);
double Log(double value);
}  // namespace fastkeras::word2vec

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int RoundUp(int size, int multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// sum of log(1 + exp(y)): logarithms of products, a flush for many of them, and the sums are
// double.
struct SoftplusSum {
  Vec<float> product;  // of 1 + exp(-|y|), each at most 2
  Vec<float> linear;   // of max(y, 0)
  int count = 0;
  double sum = 0;

  FASTKERAS_INLINE SoftplusSum() : product(Broadcast(1.0f)), linear{} {}

  FASTKERAS_INLINE void Add(Vec<float> factor, Vec<float> positive_part) {
    product *= factor;
    linear += positive_part;
    if (++count == 100) Flush();
  }
  void Flush() {
    float factors[Simd<float>::kWidth], parts[Simd<float>::kWidth];
    Store(factors, product);
    Store(parts, linear);
    for (float part : parts) sum += static_cast<double>(part);
    sum += word2vec::SumOfLogs(factors, Simd<float>::kWidth);
    product = Broadcast(1.0f);
    linear = Vec<float>{};
    count = 0;
  }
};

// y[k] becomes scale / (1 + exp(-y[k])), and log(1 + exp(y[k])) goes to the sum. There is room to
// fill the last vector.
FASTKERAS_INLINE void Sigmoids(float* y, int count, float scale, SoftplusSum& loss) {
  constexpr int kWidth = Simd<float>::kWidth;
  const int rounded = RoundUp(count, kWidth);
  for (int k = count; k < rounded; ++k) y[k] = -1e30f;  // adds log(1 + 0)
  for (int k = 0; k < rounded; k += kWidth) {
    const Vec<float> value = Load(y + k);
    const Vec<float> e = ExpOfNonPositive<float>(value > 0 ? -value : value);
    const Vec<float> one = Broadcast(1.0f);
    Store(y + k, (value > 0 ? one : e) * scale / (one + e));
    loss.Add(one + e, value > 0 ? value : Vec<float>{});
  }
}

// The softmax's error for the first of the logits: z[k] becomes scale * ([k = 0] - p[k]). Returns
// the loss, -log(p[0]). There is room to fill the last vector.
FASTKERAS_INLINE double SoftmaxErrors(float* z, int count, float scale) {
  constexpr int kWidth = Simd<float>::kWidth;
  const int rounded = RoundUp(count, kWidth);
  float largest = z[0];
  for (int k = 1; k < count; ++k) largest = z[k] > largest ? z[k] : largest;
  const float first = z[0] - largest;
  for (int k = count; k < rounded; ++k) z[k] = -1e30f;
  for (int k = 0; k < rounded; k += kWidth) {
    Store(z + k, ExpOfNonPositive<float>(Load(z + k) - largest));
  }
  double others = 0;
  for (int k = 1; k < count; ++k) others += static_cast<double>(z[k]);
  const double sum = static_cast<double>(z[0]) + others;
  const float factor = static_cast<float>(-static_cast<double>(scale) / sum);
  z[0] = static_cast<float>(-others);
  for (int k = 0; k < count; ++k) z[k] *= factor;
  return word2vec::Log(sum) - static_cast<double>(first);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
