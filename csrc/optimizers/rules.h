// The update rules, one element at a time; the coefficients c are those of
// fastkeras/optimizers/rules.py. Compiled once for each instruction set.

#include "optimizers/kernels.h"
#include "simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
FASTKERAS_INLINE T Sqrt(T x) {
  if constexpr (sizeof(T) == 4) {
    return __builtin_sqrtf(x);
  } else {
    return __builtin_sqrt(x);
  }
}

// As keras.ops.sign: of NaN it is NaN, and of 0 it is 0.
template <typename T>
FASTKERAS_INLINE T Sign(T x) {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x;
}

#define FASTKERAS_RULE(Name, slots, ...)                                              \
  template <typename T>                                                               \
  struct Name {                                                                       \
    static constexpr int kSlots = slots;                                              \
    T __VA_ARGS__;                                                                    \
    FASTKERAS_INLINE void operator()(T& p, T g, T& first, T& second, T& third) const; \
  };                                                                                  \
  template <typename T>                                                               \
  FASTKERAS_INLINE void Name<T>::operator()(T& p, T g, T& first, T& second, T& third) const

#define FASTKERAS_UNUSED (void)first, (void)second, (void)third

FASTKERAS_RULE(Sgd, 0, rate) {
  FASTKERAS_UNUSED;
  p -= g * rate;
}

FASTKERAS_RULE(Momentum, 1, rate, mu) {
  FASTKERAS_UNUSED;
  first = first * mu - g * rate;
  p += first;
}

FASTKERAS_RULE(Nesterov, 1, rate, mu) {
  FASTKERAS_UNUSED;
  first = first * mu - g * rate;
  p += first * mu - g * rate;
}

FASTKERAS_RULE(Adam, 2, rate, rest_1, rest_2, epsilon) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  p -= first * rate / (Sqrt(second) + epsilon);
}

FASTKERAS_RULE(Amsgrad, 3, rate, rest_1, rest_2, epsilon) {
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  third = third > second ? third : second;
  p -= first * rate / (Sqrt(third) + epsilon);
}

FASTKERAS_RULE(Nadam, 2, of_momentum, of_gradient, rest_1, rest_2, unbias_2, epsilon) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  p -= (first * of_momentum + g * of_gradient) / (Sqrt(second * unbias_2) + epsilon);
}

FASTKERAS_RULE(Lion, 1, rate, beta_1, rest_1, beta_2, rest_2) {
  FASTKERAS_UNUSED;
  p -= rate * Sign(first * beta_1 + g * rest_1);
  first = first * beta_2 + g * rest_2;
}

FASTKERAS_RULE(Rmsprop, 1, rate, rho, rest, epsilon) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  p -= rate * g / Sqrt(first + epsilon);
}

FASTKERAS_RULE(RmspropMomentum, 2, rate, rho, rest, epsilon, mu) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  second = second * mu + rate * g / Sqrt(first + epsilon);
  p -= second;
}

FASTKERAS_RULE(CenteredRmsprop, 2, rate, rho, rest, epsilon) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  second = second * rho + g * rest;
  p -= rate * g / Sqrt(first - second * second + epsilon);
}

FASTKERAS_RULE(CenteredRmspropMomentum, 3, rate, rho, rest, epsilon, mu) {
  first = first * rho + g * g * rest;
  third = third * rho + g * rest;
  second = second * mu + rate * g / Sqrt(first - third * third + epsilon);
  p -= second;
}

FASTKERAS_RULE(Adagrad, 1, rate, epsilon) {
  FASTKERAS_UNUSED;
  first += g * g;
  p -= rate * g / Sqrt(first + epsilon);
}

// `rate` is times the trust ratio; the moments are up to date.
FASTKERAS_RULE(Lamb, 2, rate, rest_1, rest_2, unbias_1, unbias_2, epsilon) {
  FASTKERAS_UNUSED;
  (void)g;
  p -= rate * (first * unbias_1 / (Sqrt(second * unbias_2) + epsilon));
}

#undef FASTKERAS_UNUSED
#undef FASTKERAS_RULE

template <typename T, template <typename> class R>
R<T> Coefficients(const double* c) {
  constexpr int kCount = sizeof(R<T>) / sizeof(T);
  R<T> rule;
  T* const to = reinterpret_cast<T*>(&rule);
  for (int i = 0; i < kCount; ++i) to[i] = static_cast<T>(c[i]);
  return rule;
}

// Plain loops, which the compiler turns into vectors: one array for each argument, none aliased.
template <typename T, template <typename> class R>
__attribute__((noinline)) void Update(R<T> rule, T decay, T scale, T* __restrict parameter,
                                      const T* __restrict gradient, T* __restrict first,
                                      T* __restrict second, T* __restrict third, int64_t size) {
  constexpr int kSlots = R<T>::kSlots;
  for (int64_t i = 0; i < size; ++i) {
    T p = parameter[i], a = 0, b = 0, c = 0;
    if constexpr (kSlots > 0) a = first[i];
    if constexpr (kSlots > 1) b = second[i];
    if constexpr (kSlots > 2) c = third[i];
    p -= p * decay;
    rule(p, gradient[i] * scale, a, b, c);
    parameter[i] = p;
    if constexpr (kSlots > 0) first[i] = a;
    if constexpr (kSlots > 1) second[i] = b;
    if constexpr (kSlots > 2) third[i] = c;
  }
}

template <typename T, template <typename> class R>
void ApplyRule(const double* coefficients, double decay, double scale, T* parameter,
               const T* gradient, T* const* slots, int64_t size) {
  Update<T, R>(Coefficients<T, R>(coefficients), static_cast<T>(decay), static_cast<T>(scale),
               parameter, gradient, slots[0], slots[1], slots[2], size);
}

template <typename T>
void LambNorms(const double* coefficients, double decay, double scale,
               const T* __restrict parameter, const T* __restrict gradient, T* const* slots,
               int64_t size, double* sums) {
  const T factor = static_cast<T>(scale);
  const auto rule = Coefficients<T, Lamb>(coefficients);
  T* __restrict const momentum = slots[0];
  T* __restrict const velocity = slots[1];
  constexpr int kLanes = FASTKERAS_VECTOR_BYTES / 8;
  double of_parameter[kLanes] = {}, of_direction[kLanes] = {};
  for (int64_t i = 0; i < size;) {
    const int64_t count = size - i < kLanes ? size - i : kLanes;
    for (int64_t k = 0; k < count; ++k, ++i) {
      const T g = gradient[i] * factor;
      momentum[i] += (g - momentum[i]) * rule.rest_1;
      velocity[i] += (g * g - velocity[i]) * rule.rest_2;
      const double direction =
          momentum[i] * rule.unbias_1 / (Sqrt(velocity[i] * rule.unbias_2) + rule.epsilon);
      const double p = parameter[i] - parameter[i] * decay;
      of_parameter[k] += p * p;
      of_direction[k] += direction * direction;
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    sums[0] += of_parameter[k];
    sums[1] += of_direction[k];
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
