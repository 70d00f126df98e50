// Moments in bfloat16, the upper 16 bits of a float32, in the pass that updates the parameter.
// Random bits are added to those that are cut off, so that a moment is rounded up or down with the
// right mean: to the nearest, an average that moves by a thousandth would stay where it is. The
// bits are those of fastkeras/optimizers/rounding.py. Compiled once for each instruction set.

#include "machine/simd.h"
#include "optimizers/kernels.h"
#include "optimizers/sweeps/bits.h"
#include "optimizers/sweeps/rules.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE Bits LoadWords(const uint16_t* from) {
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return reinterpret_cast<Bits>(_mm512_cvtepu16_epi32(words));
}
FASTKERAS_INLINE void StoreWords(uint16_t* to, Bits v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(v)));
}
#elif defined(FASTKERAS_AVX2)
FASTKERAS_INLINE Bits LoadWords(const uint16_t* from) {
  const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Bits>(_mm256_cvtepu16_epi32(words));
}
FASTKERAS_INLINE void StoreWords(uint16_t* to, Bits v) {
  const __m256i words = reinterpret_cast<__m256i>(v);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(to),
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
#else
FASTKERAS_INLINE Bits LoadWords(const uint16_t* from) {
  Bits words;
  for (int k = 0; k < kFloats; ++k) words[k] = from[k];
  return words;
}
FASTKERAS_INLINE void StoreWords(uint16_t* to, Bits v) {
  for (int k = 0; k < kFloats; ++k) to[k] = static_cast<uint16_t>(v[k]);
}
#endif

// The upper halves of numbers, rounded by 16 random bits each, but for those that are only cut off:
// above the largest bfloat16, so that none becomes infinite; and what is not finite, of which a NaN
// that was computed has its first digit among the upper ones.
FASTKERAS_INLINE Bits UpperHalves(Floats numbers, Bits random) {
  const Bits bits = reinterpret_cast<Bits>(numbers);
  const auto is_rounded = reinterpret_cast<Ints>(bits & 0x7fff0000u) < kLargestBfloat16;
  return (bits + (is_rounded ? random : Bits{})) >> 16;
}

// As `Update` in rules.h, for numbers that fill a vector.
template <template <typename> class R, optimizers::Rule kRule>
FASTKERAS_INLINE void UpdateHalves(const R<Floats>& rule, float decay, float scale, float ratio,
                                   float* parameter, const float* gradient, uint16_t* const* slots,
                                   RandomBits* of_two, RandomBits* of_third) {
  constexpr int kSlots = NumSlots(kRule);
  Floats values[optimizers::kMaxSlots] = {};
  for (int s = 0; s < kSlots; ++s) {
    values[s] = reinterpret_cast<Floats>(LoadWords(slots[s]) << 16);
  }
  const Floats before = Load(parameter);
  const Floats lost = before * decay;
  const Floats change =
      rule(before - lost, Load(gradient) * scale, values[0], values[1], values[2]);
  Store(parameter, before + (change * ratio - lost));  // rounded once
  const Bits random = of_two->Next();
  ForEachSlot<kSlots>([&](auto slot) FASTKERAS_LAMBDA_INLINE {
    constexpr int s = slot;
    const Bits own = s == 0 ? random >> 16 : s == 1 ? random & 0xffffu : of_third->Next() >> 16;
    StoreWords(slots[s], UpperHalves(values[s], own));
  });
}

template <template <typename> class R, optimizers::Rule kRule>
void ApplyHalved(const double* coefficients, double decay, double scale, double ratio,
                 uint32_t seed, int64_t first, float* parameter, const float* gradient,
                 uint16_t* const* slots, int64_t size) {
  constexpr int kSlots = NumSlots(kRule);
  const R<Floats> rule = BroadcastOf<R>(Coefficients<float, R>(coefficients));
  RandomBits of_two(SeedOfSlots(0, seed), first), of_third(SeedOfSlots(2, seed), first);
  const auto update = [&](float* parameters, const float* gradients,
                          uint16_t* const* halves) FASTKERAS_LAMBDA_INLINE {
    UpdateHalves<R, kRule>(rule, static_cast<float>(decay), static_cast<float>(scale),
                           static_cast<float>(ratio), parameters, gradients, halves, &of_two,
                           &of_third);
  };
  uint16_t* own[kSlots];
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    for (int s = 0; s < kSlots; ++s) {
      FetchAhead(slots[s], i);
      own[s] = slots[s] + i;
    }
    FetchAhead(parameter, i), FetchAhead(gradient, i);
    update(parameter + i, gradient + i, own);
  }
  if (i == size) return;
  // The last numbers are filled up with zeros.
  const auto rest = static_cast<size_t>(size - i);
  alignas(64) float of_parameter[kFloats] = {}, of_gradient[kFloats] = {};
  alignas(64) uint16_t last[kSlots][kFloats] = {};
  std::memcpy(of_parameter, parameter + i, rest * sizeof(float));
  std::memcpy(of_gradient, gradient + i, rest * sizeof(float));
  for (int s = 0; s < kSlots; ++s) {
    std::memcpy(last[s], slots[s] + i, rest * sizeof(uint16_t));
    own[s] = last[s];
  }
  update(of_parameter, of_gradient, own);
  std::memcpy(parameter + i, of_parameter, rest * sizeof(float));
  for (int s = 0; s < kSlots; ++s) std::memcpy(slots[s] + i, last[s], rest * sizeof(uint16_t));
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
