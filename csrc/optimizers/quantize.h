// Moments in 8 bits, in blocks of kQuantizedBlock numbers: each is an 8-bit float relative to the
// largest magnitude of its block, which is the scale. Code 0 is 0. From 1 on a code is the upper
// bits of a float32, moved so that the last one is 1: two binary digits after the first, and seven
// bits of sign and exponent. So a code is read and written by shifts. A number other than 0 is
// never coded as 0, or the next step might divide by epsilon alone.
//
// Numbers are rounded up or down at random, with the right mean: the changes of an average are
// smaller than the distance of two codes, and rounding to the nearest would lose them all. The
// random bits are those of fastkeras/optimizers/rounding.py, and depend on the place of a number
// only. Compiled once for each instruction set.

#include "optimizers/bits.h"
#include "optimizers/kernels.h"
#include "optimizers/rules.h"
#include "simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

using Floats = Vec<float>;
using Ints = Simd<float>::Int;
constexpr int kFloats = Simd<float>::kWidth;
constexpr int64_t kBlock = optimizers::kQuantizedBlock;

constexpr int kDropped = 21;                 // binary digits of a float32 that a code lacks
constexpr float kSmallestScale = 0x1p-124f;  // a smaller one would make 4 / scale infinite
constexpr int32_t kBitsOfOne = 127 << 23, kBitsOfFour = 129 << 23, kBitsOfInfinity = 255 << 23;

template <bool kSigned>
constexpr int32_t kLast = kSigned ? 127 : 255;

// What is to be added to a shifted code to get the bits of its float, if those of the last are
// such.
template <bool kSigned>
constexpr int32_t OffsetOf(int32_t bits_of_last) {
  return bits_of_last - (kLast<kSigned> << kDropped);
}

// What a code stands for, relative to its scale.
template <bool kSigned>
FASTKERAS_INLINE float Decode(uint8_t code) {
  const uint32_t magnitude = kSigned ? code & 127u : code;
  const uint32_t bits = (magnitude << kDropped) + OffsetOf<kSigned>(kBitsOfOne);
  const uint32_t size = magnitude == 0 ? 0 : bits;
  return FromBits(kSigned ? size | (code & 128u) << 24 : size);
}

FASTKERAS_INLINE Ints Min(Ints a, Ints b) { return a < b ? a : b; }
FASTKERAS_INLINE Ints BitsOf(Floats x) { return reinterpret_cast<Ints>(x); }

// The code of a number, given 4 / scale; relative to 4, since 1 / scale could be subnormal. Random
// are 16 bits. They cannot move a number that is within 16 ulp of a code.
template <bool kSigned>
FASTKERAS_INLINE Ints Encode(Floats number, Floats inverse, Ints random) {
  const Ints magnitude = BitsOf(number) & 0x7fffffff;
  const Ints bits = BitsOf(reinterpret_cast<Floats>(magnitude) * inverse);
  constexpr int32_t kHalfABit = 1 << (kDropped - 17);
  const Ints dither = (random << (kDropped - 16)) + (kHalfABit - OffsetOf<kSigned>(kBitsOfFour));
  Ints code = (bits + dither) >> kDropped;
  const Ints least = Min(magnitude, Ints{} + 1);  // 0 for 0
  code = Min(Max(code, least), Ints{} + kLast<kSigned>);
  return kSigned ? code | (BitsOf(number) >> 24 & least << 7) : code;
}

// The lower byte of each lane; the compiler would convert the lanes one by one.
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(bytes)));
}
FASTKERAS_INLINE int32_t Largest(Ints v) {
  return _mm512_reduce_max_epi32(reinterpret_cast<__m512i>(v));
}
#else
#if defined(FASTKERAS_AVX2)
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  const __m256i lanes = reinterpret_cast<__m256i>(bytes);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#else
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  for (int k = 0; k < kFloats; ++k) to[k] = static_cast<uint8_t>(bytes[k]);
}
#endif
#endif

// The largest magnitude, or NaN if a number is not finite: then all of the block becomes NaN.
FASTKERAS_INLINE float ScaleOf(const float* numbers, int64_t size) {
  Ints largest = {};
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    largest = Max(largest, BitsOf(Load(numbers + i)) & 0x7fffffff);
  }
  if (i < size) {
    const Floats last = LoadFirst(numbers + i, static_cast<int>(size - i));
    largest = Max(largest, BitsOf(last) & 0x7fffffff);
  }
  const int32_t bits = Largest(largest);
  if (bits >= kBitsOfInfinity) return std::numeric_limits<float>::quiet_NaN();
  const float scale = FromBits(static_cast<uint32_t>(bits));
  return scale > 0 && scale < kSmallestScale ? kSmallestScale : scale;
}

// Writes the codes of a block whose first number has this place in its variable.
template <bool kSigned>
FASTKERAS_INLINE void EncodeBlock(uint32_t seed, int64_t first, const float* numbers, int64_t size,
                                  uint8_t* codes, float* scale) {
  *scale = ScaleOf(numbers, size);
  const Floats inverse = Broadcast(4 / (*scale == 0 ? kSmallestScale : *scale));
  RandomBits random(seed, first);
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    StoreBytes(codes + i, Encode<kSigned>(Load(numbers + i), inverse, random.Next()));
  }
  if (i == size) return;
  const int count = static_cast<int>(size - i);
  uint8_t last[kFloats];
  StoreBytes(last, Encode<kSigned>(LoadFirst(numbers + i, count), inverse, random.Next()));
  std::memcpy(codes + i, last, static_cast<size_t>(count));
}

template <bool kSigned>
void DequantizeAs(const uint8_t* __restrict codes, const float* __restrict scales, int64_t size,
                  float* __restrict to) {
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = begin + kBlock < size ? begin + kBlock : size;
    const float scale = scales[begin / kBlock];
    for (int64_t i = begin; i < end; ++i) to[i] = Decode<kSigned>(codes[i]) * scale;
  }
}

inline void Dequantize(bool has_sign, const uint8_t* codes, const float* scales, int64_t size,
                       float* to) {
  has_sign ? DequantizeAs<true>(codes, scales, size, to)
           : DequantizeAs<false>(codes, scales, size, to);
}

// The codes of one slot, from some block on.
struct Codes {
  const uint8_t* __restrict of;
  float scale;
};

// As `Update` in rules.h, for one block: reads slots from codes, and writes them as numbers.
template <template <typename> class R, optimizers::Rule kRule>
__attribute__((noinline)) void UpdateBlock(R<float> rule, float decay, float scale, float ratio,
                                           float* __restrict parameter,
                                           const float* __restrict gradient, Codes first,
                                           Codes second, Codes third, float* __restrict numbers,
                                           int64_t size) {
  constexpr int kSlots = R<float>::kSlots;
  for (int64_t i = 0; i < size; ++i) {
    float a = 0, b = 0, c = 0;
    if constexpr (kSlots > 0) a = Decode<HasSign(kRule, 0)>(first.of[i]) * first.scale;
    if constexpr (kSlots > 1) b = Decode<HasSign(kRule, 1)>(second.of[i]) * second.scale;
    if constexpr (kSlots > 2) c = Decode<HasSign(kRule, 2)>(third.of[i]) * third.scale;
    const float lost = parameter[i] * decay;
    const float change = rule(parameter[i] - lost, gradient[i] * scale, a, b, c);
    parameter[i] += change * ratio - lost;  // rounded once
    if constexpr (kSlots > 0) numbers[i] = a;
    if constexpr (kSlots > 1) numbers[kBlock + i] = b;
    if constexpr (kSlots > 2) numbers[2 * kBlock + i] = c;
  }
}

// Each slot is rounded by random bits of its own; those of the parameter are of the seed itself.
FASTKERAS_INLINE uint32_t SeedOf(int slot, uint32_t seed) {
  return seed ^ (static_cast<uint32_t>(slot) + 1) * 0xc2b2ae3du;
}

template <template <typename> class R, optimizers::Rule kRule>
void ApplyQuantized(const double* coefficients, double decay, double scale, double ratio,
                    uint32_t seed, int64_t first, float* parameter, const float* gradient,
                    uint8_t* const* codes, float* const* scales, int64_t size) {
  constexpr int kSlots = R<float>::kSlots;
  const auto rule = Coefficients<float, R>(coefficients);
  alignas(64) float numbers[kSlots * kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t count = begin + kBlock < size ? kBlock : size - begin;
    const auto read = [&](int s) -> Codes {
      return s < kSlots ? Codes{codes[s] + begin, scales[s][begin / kBlock]} : Codes{nullptr, 0};
    };
    UpdateBlock<R, kRule>(rule, static_cast<float>(decay), static_cast<float>(scale),
                          static_cast<float>(ratio), parameter + begin, gradient + begin, read(0),
                          read(1), read(2), numbers, count);
    const auto write = [&](auto slot) FASTKERAS_LAMBDA_INLINE {
      constexpr int s = decltype(slot)::value;
      if constexpr (s < kSlots) {
        EncodeBlock<HasSign(kRule, s)>(SeedOf(s, seed), first + begin, numbers + s * kBlock, count,
                                       codes[s] + begin, scales[s] + begin / kBlock);
      }
    };
    write(std::integral_constant<int, 0>());
    write(std::integral_constant<int, 1>());
    write(std::integral_constant<int, 2>());
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
