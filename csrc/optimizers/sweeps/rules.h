// The update rules, one element at a time: each returns the change of the parameter, and updates
// the slots. The coefficients c are those of fastkeras/optimizers/rules. Compiled once for each
// instruction set. A rule has one struct here and one line in optimizers.h.

#ifndef FASTKERAS_OPTIMIZERS_SWEEPS_RULES_H_
#define FASTKERAS_OPTIMIZERS_SWEEPS_RULES_H_

#include "machine/simd.h"
#include "optimizers/kernels.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

FASTKERAS_INLINE float Sqrt(float x) { return __builtin_sqrtf(x); }
FASTKERAS_INLINE double Sqrt(double x) { return __builtin_sqrt(x); }
FASTKERAS_INLINE Vec<float> Sqrt(Vec<float> x) {
#if defined(FASTKERAS_AVX512)
  return _mm512_sqrt_ps(x);
#elif defined(FASTKERAS_AVX2)
  return _mm256_sqrt_ps(x);
#else
  for (int k = 0; k < Simd<float>::kWidth; ++k) x[k] = __builtin_sqrtf(x[k]);
  return x;
#endif
}

// As keras.ops.sign: of NaN it is NaN, and of 0 it is 0.
template <typename T>
FASTKERAS_INLINE T Sign(T x) {
  return x > 0 ? T{} + 1 : x < 0 ? T{} - 1 : x;
}

// 1 where both have the same sign, or else 0, also where one is 0 or NaN. A product might
// underflow.
template <typename T>
FASTKERAS_INLINE T Agrees(T x, T y) {
  constexpr float kNothing = 1.2e-38f;  // below it are denormals, which some threads flush
  return ((x > kNothing) & (y > kNothing)) | ((x < -kNothing) & (y < -kNothing)) ? T{} + 1 : T{};
}

// p is the parameter after its decay.
#define FASTKERAS_RULE(Name, ...)                                                                  \
  template <typename T>                                                                            \
  struct Name {                                                                                    \
    static constexpr int kSlots = NumSlots(optimizers::Rule::k##Name);                             \
    T __VA_ARGS__;                                                                                 \
    FASTKERAS_INLINE T operator()(T p, T g, T& first, T& second, T& third) const;                  \
  };                                                                                               \
  template <typename T>                                                                            \
  FASTKERAS_INLINE T Name<T>::operator()([[maybe_unused]] T p, T g, T& first, T& second, T& third) \
      const

#define FASTKERAS_UNUSED (void)first, (void)second, (void)third

FASTKERAS_RULE(Sgd, rate) {
  FASTKERAS_UNUSED;
  return -g * rate;
}

FASTKERAS_RULE(Momentum, rate, mu) {
  FASTKERAS_UNUSED;
  first = first * mu - g * rate;
  return first;
}

FASTKERAS_RULE(Nesterov, rate, mu) {
  FASTKERAS_UNUSED;
  first = first * mu - g * rate;
  return first * mu - g * rate;
}

FASTKERAS_RULE(Adam, rate, rest_1, rest_2, epsilon) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  return -first * rate / (Sqrt(second) + epsilon);
}

FASTKERAS_RULE(Amsgrad, rate, rest_1, rest_2, epsilon) {
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  third = third > second || third != third ? third : second;  // NaN stays
  return -first * rate / (Sqrt(third) + epsilon);
}

FASTKERAS_RULE(Nadam, of_momentum, of_gradient, rest_1, rest_2, unbias_2, epsilon) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  return -(first * of_momentum + g * of_gradient) / (Sqrt(second * unbias_2) + epsilon);
}

FASTKERAS_RULE(Lion, rate, beta_1, rest_1, beta_2, rest_2) {
  FASTKERAS_UNUSED;
  const T direction = Sign(first * beta_1 + g * rest_1);
  first = first * beta_2 + g * rest_2;
  return -rate * direction;
}

FASTKERAS_RULE(Rmsprop, rate, rho, rest, epsilon) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  return -rate * g / Sqrt(first + epsilon);
}

FASTKERAS_RULE(RmspropMomentum, rate, rho, rest, epsilon, mu) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  second = second * mu + rate * g / Sqrt(first + epsilon);
  return -second;
}

FASTKERAS_RULE(CenteredRmsprop, rate, rho, rest, epsilon) {
  FASTKERAS_UNUSED;
  first = first * rho + g * g * rest;
  second = second * rho + g * rest;
  return -rate * g / Sqrt(first - second * second + epsilon);
}

FASTKERAS_RULE(CenteredRmspropMomentum, rate, rho, rest, epsilon, mu) {
  first = first * rho + g * g * rest;
  third = third * rho + g * rest;
  second = second * mu + rate * g / Sqrt(first - third * third + epsilon);
  return -second;
}

FASTKERAS_RULE(Adagrad, rate, epsilon) {
  FASTKERAS_UNUSED;
  first += g * g;
  return -rate * g / Sqrt(first + epsilon);
}

FASTKERAS_RULE(Lamb, rate, rest_1, rest_2, unbias_1, unbias_2, epsilon) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  return -rate * (first * unbias_1 / (Sqrt(second * unbias_2) + epsilon));
}

FASTKERAS_RULE(Ademamix, of_fast, of_slow, rest_1, rest_2, rest_3, epsilon) {
  first += (g - first) * rest_1;
  second += (g - second) * rest_3;
  third += (g * g - third) * rest_2;
  return -(first * of_fast + second * of_slow) / (Sqrt(third) + epsilon);
}

FASTKERAS_RULE(ScheduleFreeSgd, rate, of_step, weight) {
  FASTKERAS_UNUSED;
  const T step = -g * rate;
  const T change = step * of_step + (first - p) * weight;
  first += step;
  return change;
}

FASTKERAS_RULE(ScheduleFreeAdamw, rate, of_step, weight, rest_2, unbias_2, epsilon) {
  FASTKERAS_UNUSED;
  second += (g * g - second) * rest_2;
  const T step = -g * rate / (Sqrt(second * unbias_2) + epsilon);
  const T change = step * of_step + (first - p) * weight;
  first += step;
  return change;
}

// The factor, not a choice, so that NaN stays.
FASTKERAS_RULE(CautiousAdam, rate, rest_1, rest_2, epsilon) {
  const T change = Adam<T>{rate, rest_1, rest_2, epsilon}(p, g, first, second, third);
  return change * Agrees(first, g);
}

FASTKERAS_RULE(CautiousLion, rate, beta_1, rest_1, beta_2, rest_2) {
  const T agrees = Agrees(first * beta_1 + g * rest_1, g);
  return Lion<T>{rate, beta_1, rest_1, beta_2, rest_2}(p, g, first, second, third) * agrees;
}

// The decay is a part of the step, which is clipped as a whole.
FASTKERAS_RULE(StableAdamw, rate, rest_1, rest_2, unbias_2, epsilon, decay) {
  FASTKERAS_UNUSED;
  first += (g - first) * rest_1;
  second += (g * g - second) * rest_2;
  return -(first * rate / (Sqrt(second * unbias_2) + epsilon) + p * decay);
}

#undef FASTKERAS_UNUSED
#undef FASTKERAS_RULE

// What is summed over a variable before it changes, for the scaling of a rule. The slots are old.
template <typename T>
FASTKERAS_INLINE T Measure(const CautiousAdam<T>& rule, T g, T first, T) {
  return Agrees(first + (g - first) * rule.rest_1, g);
}

template <typename T>
FASTKERAS_INLINE T Measure(const CautiousLion<T>& rule, T g, T first, T) {
  return Agrees(first * rule.beta_1 + g * rule.rest_1, g);
}

template <typename T>
FASTKERAS_INLINE T Measure(const StableAdamw<T>& rule, T g, T, T second) {
  const T velocity = second + (g * g - second) * rule.rest_2;
  const T root = Sqrt(velocity * rule.unbias_2);
  const T size = g / (root < rule.epsilon ? rule.epsilon : root);
  return size * size;
}

template <typename T, template <typename> class R>
constexpr int CountCoefficients() {
  constexpr int kCount = sizeof(R<T>) / sizeof(T);
  static_assert(kCount <= optimizers::kMaxCoefficients && R<T>::kSlots <= optimizers::kMaxSlots);
  return kCount;
}

template <typename T, template <typename> class R>
R<T> Coefficients(const double* c) {
  R<T> rule;
  T* const to = reinterpret_cast<T*>(&rule);
  for (int i = 0; i < CountCoefficients<T, R>(); ++i) to[i] = static_cast<T>(c[i]);
  return rule;
}

// The rule for whole vectors.
template <template <typename> class R>
FASTKERAS_INLINE R<Vec<float>> BroadcastOf(const R<float>& rule) {
  R<Vec<float>> vectors;
  for (int i = 0; i < CountCoefficients<float, R>(); ++i) {
    reinterpret_cast<Vec<float>*>(&vectors)[i] =
        Broadcast(reinterpret_cast<const float*>(&rule)[i]);
  }
  return vectors;
}

// Calls fn(number of the slot, as a type) for all slots.
template <int kSlots, typename Function>
FASTKERAS_INLINE void ForEachSlot(Function fn) {
  fn(std::integral_constant<int, 0>());
  if constexpr (kSlots > 1) fn(std::integral_constant<int, 1>());
  if constexpr (kSlots > 2) fn(std::integral_constant<int, 2>());
}

// Fetches what comes some time later, from `place` on, once for each line of the cache: where much
// is computed between reads, what the processor fetches by itself is not far enough ahead.
template <typename T>
FASTKERAS_INLINE void FetchAhead(const T* array, int64_t place) {
  constexpr int kAhead = 1024, kLine = 64 / sizeof(T);
  if (place % kLine == 0) __builtin_prefetch(array + place + kAhead);
}

// Plain loops, which the compiler turns into vectors: one array for each argument, none aliased.
template <typename T, template <typename> class R>
__attribute__((noinline)) void Update(R<T> rule, T decay, T scale, T ratio, T* __restrict parameter,
                                      const T* __restrict gradient, T* __restrict first,
                                      T* __restrict second, T* __restrict third, int64_t size) {
  constexpr int kSlots = R<T>::kSlots;
  for (int64_t i = 0; i < size; ++i) {
    T a = 0, b = 0, c = 0;
    if constexpr (kSlots > 0) a = first[i];
    if constexpr (kSlots > 1) b = second[i];
    if constexpr (kSlots > 2) c = third[i];
    const T lost = parameter[i] * decay;
    const T change = rule(parameter[i] - lost, gradient[i] * scale, a, b, c);
    parameter[i] += change * ratio - lost;  // rounded once
    if constexpr (kSlots > 0) first[i] = a;
    if constexpr (kSlots > 1) second[i] = b;
    if constexpr (kSlots > 2) third[i] = c;
  }
}

template <typename T, template <typename> class R>
void ApplyRule(const double* coefficients, double decay, double scale, double ratio, T* parameter,
               const T* gradient, T* const* slots, int64_t size) {
  const auto rule = Coefficients<T, R>(coefficients);
  const auto update = [&](int64_t begin, int64_t end) FASTKERAS_LAMBDA_INLINE {
    const auto from = [&](auto* array) { return array == nullptr ? array : array + begin; };
    Update<T, R>(rule, static_cast<T>(decay), static_cast<T>(scale), static_cast<T>(ratio),
                 from(parameter), from(gradient), from(slots[0]), from(slots[1]), from(slots[2]),
                 end - begin);
  };
  // Large arrays of NumPy begin 16 bytes after a page does: then each vector would lie on two lines
  // of the cache.
  constexpr int64_t kWorthIt = 1024;
  const auto address = reinterpret_cast<uintptr_t>(parameter);
  const int64_t head =
      size < kWorthIt ? 0 : static_cast<int64_t>(-address % FASTKERAS_VECTOR_BYTES / sizeof(T));
  if (head > 0) update(0, head);
  update(head, size);
}

template <typename T, template <typename> class R>
void LengthsOf(const double* coefficients, double scale, const T* __restrict parameter,
               const T* __restrict gradient, const T* const* slots, int64_t size, double* sums) {
  constexpr int kSlots = R<T>::kSlots;
  constexpr int kLanes = FASTKERAS_VECTOR_BYTES / sizeof(T);
  const auto rule = Coefficients<T, R>(coefficients);
  const T factor = static_cast<T>(scale);
  const T* __restrict const first = slots[0];
  const T* __restrict const second = slots[1];
  const T* __restrict const third = slots[2];
  double of_parameter[kLanes] = {}, of_change[kLanes] = {};
  for (int64_t i = 0; i < size; i += kLanes) {
    const int64_t count = size - i < kLanes ? size - i : kLanes;
    for (int64_t k = 0; k < count; ++k) {
      T a = 0, b = 0, c = 0;
      if constexpr (kSlots > 0) a = first[i + k];
      if constexpr (kSlots > 1) b = second[i + k];
      if constexpr (kSlots > 2) c = third[i + k];
      const double change = rule(parameter[i + k], gradient[i + k] * factor, a, b, c);
      const double p = parameter[i + k];
      of_parameter[k] += p * p;
      of_change[k] += change * change;
    }
  }
  for (int k = 0; k < kLanes; ++k) {
    sums[0] += of_parameter[k];
    sums[1] += of_change[k];
  }
}

template <typename T, template <typename> class R>
void MeasuresOf(const double* coefficients, double scale, const T*, const T* __restrict gradient,
                const T* const* slots, int64_t size, double* sums) {
  constexpr int kSlots = R<T>::kSlots;
  constexpr int kLanes = FASTKERAS_VECTOR_BYTES / sizeof(T);
  const auto rule = Coefficients<T, R>(coefficients);
  const T factor = static_cast<T>(scale);
  const T* __restrict const first = slots[0];
  const T* __restrict const second = slots[1];
  double of_lanes[kLanes] = {};
  const auto add = [&](int64_t i, int k) FASTKERAS_LAMBDA_INLINE {
    T b = 0;
    if constexpr (kSlots > 1) b = second[i + k];
    of_lanes[k] += static_cast<double>(Measure(rule, gradient[i + k] * factor, first[i + k], b));
  };
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) add(i, k);
  }
  for (int k = 0; i + k < size; ++k) add(i, k);
  for (const double sum : of_lanes) sums[0] += sum;
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_OPTIMIZERS_SWEEPS_RULES_H_
