// The loss, and the factors of the gradient, from logits. Compiled once for each instruction set.

#ifndef FASTKERAS_WORD2VEC_LOSSES_H_
#define FASTKERAS_WORD2VEC_LOSSES_H_

#include "machine/math.h"
#include "machine/simd.h"

namespace fastkeras::word2vec {
// Compiled apart from every instruction set, since they call the standard library.
double SumOfLogs(const float* values, int count);
double Log(double value);
}  // namespace fastkeras::word2vec

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int RoundUp(int size, int multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// sum of log(1 + exp(y)). Factors are multiplied first, so that one logarithm serves a hundred of
// them; the logarithms are summed in double.
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

// Returns the derivative of log(1 + exp(y)), and adds the function itself to the sum; -1e30 adds
// nothing.
FASTKERAS_INLINE Vec<float> Sigmoid(Vec<float> y, SoftplusSum& loss) {
  const Vec<float> e = Exp<float>(y > 0 ? -y : y);
  const Vec<float> one = Broadcast(1.0f);
  loss.Add(one + e, y > 0 ? y : Vec<float>{});
  return (y > 0 ? one : e) / (one + e);
}

alignas(64) constexpr float kLanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Keeps the first lanes, and makes the others add no loss.
FASTKERAS_INLINE Vec<float> FirstLogits(Vec<float> y, int count) {
  return Load(kLanes) < static_cast<float>(count) ? y : Broadcast(-1e30f);
}

// What was just stored four by four is there sooner if it is loaded four by four.
FASTKERAS_INLINE Vec<float> LoadQuads(const float* from) {
#if defined(FASTKERAS_AVX512)
  __m512 v = _mm512_maskz_broadcast_f32x4(0xf, _mm_loadu_ps(from));
  v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(from + 4), 1);
  v = _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(from + 8), 2);
  return _mm512_maskz_insertf32x4(0xffff, v, _mm_loadu_ps(from + 12), 3);
#elif defined(FASTKERAS_AVX2)
  return _mm256_set_m128(_mm_loadu_ps(from + 4), _mm_loadu_ps(from));
#else
  return Load(from);
#endif
}

// Turns logits into errors: x[k] becomes -sign rate sigmoid(sign x), for the loss
// log(1 + exp(sign x)). There is room to fill the last vector.
FASTKERAS_INLINE void SigmoidErrors(float* x, const float* signs, int count, float rate,
                                    SoftplusSum& loss) {
  for (int k = 0; k < count; k += Simd<float>::kWidth) {
    const Vec<float> sign = Load(signs + k);
    const Vec<float> y = FirstLogits(sign * LoadQuads(x + k), count - k);
    Store(x + k, sign * -rate * Sigmoid(y, loss));
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
    Store(z + k, Exp<float>(Load(z + k) - largest));
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

#endif  // FASTKERAS_WORD2VEC_LOSSES_H_
