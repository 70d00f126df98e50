// Moments in 8 bits, in blocks of kQuantizedBlock numbers: each is an 8-bit float relative to the
// largest magnitude of its block, which is the scale. A code is the upper bits of a float32, moved
// so that the last one is 1: two binary digits after the first, and seven bits of sign and
// exponent. So a code is read and written by shifts. With a sign, code 0 is 0. Without, there is no
// 0, since the next step might divide by epsilon alone: it becomes the smallest number.
//
// Numbers are rounded up or down at random, with the right mean: the changes of an average are
// smaller than the distance of two codes, and rounding to the nearest would lose them all. The
// random bits are those of fastkeras/optimizers/rounding.py, and depend on the place of a number
// only. Compiled once for each instruction set.

#include "machine/simd.h"
#include "optimizers/kernels.h"
#include "optimizers/sweeps/bits.h"
#include "optimizers/sweeps/rules.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int64_t kBlock = optimizers::kQuantizedBlock;

constexpr int kDropped = 21;                 // binary digits of a float32 that a code lacks
constexpr float kSmallestScale = 0x1p-124f;  // a smaller one would make 4 / scale infinite
constexpr int32_t kSignBit = std::numeric_limits<int32_t>::min();
constexpr int32_t kBitsOfOne = 127 << 23, kBitsOfFour = 129 << 23, kBitsOfInfinity = 255 << 23;

// What is to be added to a shifted code to get the bits of its float, if those of the last are
// such.
template <bool kSigned>
constexpr int32_t OffsetOf(int32_t bits_of_last) {
  return bits_of_last - ((kSigned ? 127 : 255) << kDropped);
}

// Codes are read by one vector, and written by four together, which takes fewer shuffles. Those
// below 0 become 0, and those above 255, of NaN, become some code.
constexpr int kTogether = 4;
static_assert(kBlock % (kTogether * kFloats) == 0);

#if defined(FASTKERAS_AVX512)
template <bool kSigned>
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Ints>(kSigned ? _mm512_cvtepi8_epi32(bytes)
                                        : _mm512_cvtepu8_epi32(bytes));
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, const Ints (&v)[kTogether]) {
  const auto words = [&](int k) FASTKERAS_LAMBDA_INLINE {
    return _mm512_packus_epi32(reinterpret_cast<__m512i>(v[k]),
                               reinterpret_cast<__m512i>(v[k + 1]));
  };
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_packus_epi16(words(0), words(2));
  _mm512_storeu_si512(to, _mm512_permutexvar_epi32(order, bytes));
}
FASTKERAS_INLINE uint32_t LargestOf(Bits v) {
  return _mm512_reduce_max_epu32(reinterpret_cast<__m512i>(v));
}
#elif defined(FASTKERAS_AVX2)
template <bool kSigned>
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  return reinterpret_cast<Ints>(kSigned ? _mm256_cvtepi8_epi32(bytes)
                                        : _mm256_cvtepu8_epi32(bytes));
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, const Ints (&v)[kTogether]) {
  const auto words = [&](int k) FASTKERAS_LAMBDA_INLINE {
    return _mm256_packus_epi32(reinterpret_cast<__m256i>(v[k]),
                               reinterpret_cast<__m256i>(v[k + 1]));
  };
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_packus_epi16(words(0), words(2));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(bytes, order));
}
FASTKERAS_INLINE uint32_t LargestOf(Bits v) { return Largest(v); }
#else
template <bool kSigned>
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  Ints bytes;
  for (int k = 0; k < kFloats; ++k) bytes[k] = kSigned ? static_cast<int8_t>(from[k]) : from[k];
  return bytes;
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, const Ints (&v)[kTogether]) {
  for (int i = 0; i < kTogether * kFloats; ++i) {
    const int32_t code = v[i / kFloats][i % kFloats];
    to[i] = static_cast<uint8_t>(code > 0 ? code : 0);
  }
}
FASTKERAS_INLINE uint32_t LargestOf(Bits v) { return Largest(v); }
#endif

template <bool kSigned>
FASTKERAS_INLINE Floats Decode(Ints code, Floats scale) {
  const Ints shifted = code << kDropped;
  Ints bits =
      (kSigned ? shifted & (kSignBit | 127 << kDropped) : shifted) + OffsetOf<kSigned>(kBitsOfOne);
  if (kSigned) bits = code != 0 ? bits : Ints{};
  return reinterpret_cast<Floats>(bits) * scale;
}

// The code of a number, or less than 0, which stands for code 0; given 4 / scale. Relative to 4,
// since 1 / scale could be subnormal. Of `random` the bits from 5 to 20 count. They cannot move a
// number that is within 16 ulp of a code.
template <bool kSigned>
FASTKERAS_INLINE Ints Encode(Floats number, Floats inverse, Bits random) {
  constexpr int32_t kRandom = (1 << kDropped) - 32, kHalfABit = 16;
  const Ints dither =
      (reinterpret_cast<Ints>(random) & kRandom) | (kHalfABit - OffsetOf<kSigned>(kBitsOfFour));
  const Ints magnitude = kSigned ? BitsOf(number) & ~kSignBit : BitsOf(number);
  const Ints code = (BitsOf(reinterpret_cast<Floats>(magnitude) * inverse) + dither) >> kDropped;
  return kSigned ? code | (BitsOf(number) >> 24 & 128) : code;
}

// The scale of a block, given the bits of its largest magnitude; NaN if a number is not finite:
// then all of the block becomes NaN.
FASTKERAS_INLINE float ScaleOf(uint32_t largest) {
  if (largest >= kBitsOfInfinity) return std::numeric_limits<float>::quiet_NaN();
  const float scale = FromBits(largest);
  return scale > 0 && scale < kSmallestScale ? kSmallestScale : scale;
}

// The codes of a block, and its scales.
template <int kSlots>
struct Block {
  uint8_t* codes[kSlots];
  float* scales[kSlots];
};

// As `Update` in rules.h, for a whole block: reads slots from codes, writes them as numbers, and
// returns the new scales in the block.
template <template <typename> class R, optimizers::Rule kRule>
FASTKERAS_INLINE void UpdateBlock(const R<Floats>& rule, float decay, float scale, float ratio,
                                  float* parameter, const float* gradient,
                                  const Block<NumSlots(kRule)>& block, float* numbers) {
  constexpr int kSlots = NumSlots(kRule);
  Floats scales[kSlots];
  Bits largest[kSlots] = {};
  for (int s = 0; s < kSlots; ++s) scales[s] = Broadcast(*block.scales[s]);
  for (int i = 0; i < kBlock; i += kFloats) {
    Floats slots[optimizers::kMaxSlots] = {};
    ForEachSlot<kSlots>([&](auto slot) FASTKERAS_LAMBDA_INLINE {
      constexpr int s = slot;
      constexpr bool kSigned = HasSign(kRule, s);
      FetchAhead(block.codes[s], i);
      slots[s] = Decode<kSigned>(LoadBytes<kSigned>(block.codes[s] + i), scales[s]);
    });
    FetchAhead(parameter, i), FetchAhead(gradient, i);
    const Floats before = Load(parameter + i);
    const Floats lost = before * decay;
    const Floats change =
        rule(before - lost, Load(gradient + i) * scale, slots[0], slots[1], slots[2]);
    Store(parameter + i, before + (change * ratio - lost));  // rounded once
    ForEachSlot<kSlots>([&](auto slot) FASTKERAS_LAMBDA_INLINE {
      constexpr int s = slot;
      Store(numbers + s * kBlock + i, slots[s]);
      // What has no sign is not negative; a NaN may be.
      const Ints bits = HasSign(kRule, s) ? BitsOf(slots[s]) & ~kSignBit : BitsOf(slots[s]);
      largest[s] = Max(largest[s], reinterpret_cast<Bits>(bits));
    });
  }
  for (int s = 0; s < kSlots; ++s) *block.scales[s] = ScaleOf(LargestOf(largest[s]));
}

// Writes the codes of all slots of a block whose first number has this place in its variable. Two
// slots share the random bits of a hash.
template <optimizers::Rule kRule>
FASTKERAS_INLINE void EncodeBlock(uint32_t seed, int64_t first, const float* numbers,
                                  const Block<NumSlots(kRule)>& block) {
  constexpr int kSlots = NumSlots(kRule);
  RandomBits of_two(SeedOfSlots(0, seed), first), of_third(SeedOfSlots(2, seed), first);
  Floats inverses[kSlots];
  for (int s = 0; s < kSlots; ++s) {
    const float scale = *block.scales[s];
    inverses[s] = Broadcast(4 / (scale == 0 ? kSmallestScale : scale));
  }
  for (int i = 0; i < kBlock; i += kTogether * kFloats) {
    Ints codes[kSlots][kTogether];
#pragma GCC unroll 4
    for (int k = 0; k < kTogether; ++k) {
      const Bits random = of_two.Next();
      ForEachSlot<kSlots>([&](auto slot) FASTKERAS_LAMBDA_INLINE {
        constexpr int s = slot;
        const Bits own = s == 0 ? random >> 11 : s == 1 ? random << 5 : of_third.Next() >> 11;
        const Floats number = Load(numbers + s * kBlock + i + k * kFloats);
        codes[s][k] = Encode<HasSign(kRule, s)>(number, inverses[s], own);
      });
    }
    for (int s = 0; s < kSlots; ++s) StoreBytes(block.codes[s] + i, codes[s]);
  }
}

template <template <typename> class R, optimizers::Rule kRule>
void ApplyQuantized(const double* coefficients, double decay, double scale, double ratio,
                    uint32_t seed, int64_t first, float* parameter, const float* gradient,
                    uint8_t* const* codes, float* const* scales, int64_t size) {
  constexpr int kSlots = NumSlots(kRule);
  const R<Floats> rule = BroadcastOf<R>(Coefficients<float, R>(coefficients));
  alignas(64) float numbers[kSlots * kBlock];
  const auto update = [&](int64_t begin, float* parameters, const float* gradients,
                          const Block<kSlots>& block) FASTKERAS_LAMBDA_INLINE {
    UpdateBlock<R, kRule>(rule, static_cast<float>(decay), static_cast<float>(scale),
                          static_cast<float>(ratio), parameters, gradients, block, numbers);
    EncodeBlock<kRule>(seed, first + begin, numbers, block);
  };
  Block<kSlots> block;
  int64_t begin = 0;
  for (; begin + kBlock <= size; begin += kBlock) {
    for (int s = 0; s < kSlots; ++s) {
      block.codes[s] = codes[s] + begin;
      block.scales[s] = scales[s] + begin / kBlock;
    }
    update(begin, parameter + begin, gradient + begin, block);
  }
  if (begin == size) return;
  // The last block is filled up with zeros.
  const auto rest = static_cast<size_t>(size - begin);
  alignas(64) float of_parameter[kBlock] = {}, of_gradient[kBlock] = {};
  alignas(64) uint8_t last[kSlots][kBlock] = {};
  std::memcpy(of_parameter, parameter + begin, rest * sizeof(float));
  std::memcpy(of_gradient, gradient + begin, rest * sizeof(float));
  for (int s = 0; s < kSlots; ++s) {
    std::memcpy(last[s], codes[s] + begin, rest);
    block.codes[s] = last[s];
    block.scales[s] = scales[s] + begin / kBlock;
  }
  update(begin, of_parameter, of_gradient, block);
  std::memcpy(parameter + begin, of_parameter, rest * sizeof(float));
  for (int s = 0; s < kSlots; ++s) std::memcpy(codes[s] + begin, last[s], rest);
}

template <bool kSigned>
void DequantizeAs(const uint8_t* codes, const float* scales, int64_t size, float* to) {
  for (int64_t begin = 0; begin < size; begin += kFloats) {
    const Floats scale = Broadcast(scales[begin / kBlock]);
    if (begin + kFloats <= size) {
      Store(to + begin, Decode<kSigned>(LoadBytes<kSigned>(codes + begin), scale));
      continue;
    }
    uint8_t last[kFloats] = {};
    std::memcpy(last, codes + begin, static_cast<size_t>(size - begin));
    StoreFirst(to + begin, Decode<kSigned>(LoadBytes<kSigned>(last), scale),
               static_cast<int>(size - begin));
  }
}

inline void Dequantize(bool has_sign, const uint8_t* codes, const float* scales, int64_t size,
                       float* to) {
  has_sign ? DequantizeAs<true>(codes, scales, size, to)
           : DequantizeAs<false>(codes, scales, size, to);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
