// What the step asks of an instruction set: loops over a stretch of one variable.

#ifndef FASTKERAS_OPTIMIZERS_KERNELS_H_
#define FASTKERAS_OPTIMIZERS_KERNELS_H_

#include <cstdint>

#include "optimizers/optimizers.h"

namespace fastkeras::optimizers {

// A transform whose norms are known: what is left to do to each element.
struct Elementwise {
  enum Kind { kScale, kZero, kClip, kAddParameter } kind;
  double operand;
};

// T is the type that is computed in. Slots of fewer than three are null past the last.
template <typename T>
struct Kernels {
  // One for each rule. It multiplies the gradient by `scale`, which saves the last scaling of a
  // chain a pass of its own, and the change by `ratio`.
  void (*rules[kNumRules])(const double* coefficients, double decay, double scale, double ratio,
                           T* parameter, const T* gradient, T* const* slots, int64_t size);
  // Adds to `sums` the squares of the parameter and of its change, or, if the rule has a scaling of
  // its own, to the first one what this is made of; changes nothing.
  void (*lengths[kNumRules])(const double* coefficients, double scale, const T* parameter,
                             const T* gradient, const T* const* slots, int64_t size, double* sums);
  int num_coefficients[kNumRules];
  void (*transform)(const Elementwise* steps, int64_t count, const T* parameter, T* gradient,
                    int64_t size);
  double (*sum_of_squares)(const T* values, int64_t size);
  double (*sum_of_magnitudes)(const T* values, int64_t size);
  double (*sum_of_defects)(const T* values, int64_t size);  // 0, or NaN if one is not finite
  // Between T and what a variable is stored as; the remainder may be null. `dither` rounds to
  // bfloat16 up or down at random, without a remainder.
  void (*load)(Dtype dtype, const void* from, const float* remainder, int64_t first, int64_t size,
               T* to);
  void (*store)(Dtype dtype, const T* from, int64_t first, int64_t size, void* to,
                float* remainder);
  void (*dither)(uint32_t seed, const T* from, int64_t first, int64_t size, void* to);
  // The rules on slots of 8 bits, from the first number of a block on, which has the place `first`
  // in its variable; null if T is double, or if the rule has none.
  void (*quantized[kNumRules])(const double* coefficients, double decay, double scale, double ratio,
                               uint32_t seed, int64_t first, T* parameter, const T* gradient,
                               uint8_t* const* codes, float* const* scales, int64_t size);
  // The rules on slots of bfloat16, from a number on which has the place `first` in its variable;
  // null as above.
  void (*halved[kNumRules])(const double* coefficients, double decay, double scale, double ratio,
                            uint32_t seed, int64_t first, T* parameter, const T* gradient,
                            uint16_t* const* slots, int64_t size);
  // What codes stand for.
  void (*dequantize)(bool has_sign, const uint8_t* codes, const float* scales, int64_t size, T* to);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::optimizers

#endif  // FASTKERAS_OPTIMIZERS_KERNELS_H_
