// Moments in 8 bits, in blocks of kQuantizedBlock numbers: each is a code times the number of the
// largest magnitude in its block. The codes are Dettmers' dynamic ones
// (https://arxiv.org/abs/2110.02861): 0, 1, and seven decades, of which the i-th from below,
// 10^(i-7) to 10^(i-6), has 2^i equal steps (2^(i+1) without a sign), represented by their middles.
// Compiled once for each instruction set.
//
// Read as an integer, the code of step j of a decade with n steps is n + j (less 1 without a sign),
// so that its decade is the place of its highest bit. Code 0 is 0; 255 is 1 without a sign, and
// with one 128 is, which would be -0. Without a sign only 0 is coded as 0.

#include "optimizers/kernels.h"
#include "simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kDecades = 7;
constexpr int64_t kBlock = optimizers::kQuantizedBlock;

// By decade, with room for a vector that is looked up in.
struct CodeTables {
  alignas(64) float begin[16];       // the first number that is nearer to it than to the one below
  alignas(64) float per_number[16];  // steps for each 1
  alignas(64) float offset[16];      // number = offset + slope * code
  alignas(64) float slope[16];
  float largest_below_one;  // from here on 1 is nearest
};

constexpr double PowerOfTen(int n) { return n == 0 ? 1 : PowerOfTen(n + 1) / 10; }  // n <= 0

constexpr CodeTables MakeTables(bool has_sign) {
  CodeTables tables = {};
  for (int i = 0; i < kDecades; ++i) {
    const double steps = static_cast<double>(1 << (has_sign ? i : i + 1));
    const double end = PowerOfTen(i - kDecades + 1), step = 0.9 * end / steps;
    const double first = has_sign ? steps : steps - 1;  // code of the first step
    tables.offset[i] = static_cast<float>(0.1 * end + step * (0.5 - first));
    tables.slope[i] = static_cast<float>(step);
    tables.per_number[i] = static_cast<float>(1 / step);
    const double middle = 0.1 * end + 0.5 * step;
    const double below = i == 0 ? 0
                                : PowerOfTen(i - kDecades) *
                                      (1 - 0.45 / static_cast<double>(1 << (has_sign ? i - 1 : i)));
    tables.begin[i] = static_cast<float>(0.5 * (middle + below));
    if (i == kDecades - 1) {
      tables.largest_below_one = static_cast<float>(1 - 0.25 * step);
    }
  }
  return tables;
}

inline constexpr CodeTables kSignedCodes = MakeTables(true);
inline constexpr CodeTables kUnsignedCodes = MakeTables(false);

using Floats = Vec<float>;
using Ints = Simd<float>::Int;
constexpr int kFloats = Simd<float>::kWidth;

// A byte for each lane. The compiler would convert the lanes one by one.
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  return reinterpret_cast<Ints>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(bytes)));
}
#elif defined(FASTKERAS_AVX2)
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  return reinterpret_cast<Ints>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  const __m256i lanes = reinterpret_cast<__m256i>(bytes);
  const __m128i words =
      _mm_packus_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
}
#else
FASTKERAS_INLINE Ints LoadBytes(const uint8_t* from) {
  Ints bytes;
  for (int k = 0; k < kFloats; ++k) bytes[k] = from[k];
  return bytes;
}
FASTKERAS_INLINE void StoreBytes(uint8_t* to, Ints bytes) {
  for (int k = 0; k < kFloats; ++k) to[k] = static_cast<uint8_t>(bytes[k]);
}
#endif

FASTKERAS_INLINE Floats LookUp(const float* table, Ints index) {
#if (defined(FASTKERAS_AVX512) || defined(FASTKERAS_AVX2)) && !defined(__clang__)
  return __builtin_shuffle(Load(table), index);
#else
  Floats found = {};
  for (int k = 0; k < kFloats; ++k) found[k] = table[index[k]];
  return found;
#endif
}

FASTKERAS_INLINE Ints Truncate(Floats x) { return __builtin_convertvector(x, Ints); }
FASTKERAS_INLINE Floats ToFloats(Ints x) { return __builtin_convertvector(x, Floats); }
FASTKERAS_INLINE Ints BitsOf(Floats x) { return reinterpret_cast<Ints>(x); }
FASTKERAS_INLINE Floats FromBitsOf(Ints x) { return reinterpret_cast<Floats>(x); }

template <bool kSigned>
FASTKERAS_INLINE Floats Decode(Ints code) {
  const CodeTables& tables = kSigned ? kSignedCodes : kUnsignedCodes;
  const Ints magnitude = kSigned ? code & 127 : code;
  // The exponent of the code as a number: 0 to 6, and -127 (or -1) for code 0.
  const Ints exponent = (BitsOf(ToFloats(kSigned ? magnitude : magnitude + 1)) >> 23) - 127;
  const Ints decade = (kSigned ? exponent : exponent - 1) & 7;
  Floats number =
      LookUp(tables.offset, decade) + LookUp(tables.slope, decade) * ToFloats(magnitude);
  number = magnitude == 0 ? Floats{} : number;
  if constexpr (kSigned) {
    number = FromBitsOf(BitsOf(number) | (code & 128) << 24);
    return code == 128 ? Broadcast(1.0f) : number;
  }
  return code == 255 ? Broadcast(1.0f) : number;
}

// The nearest code of |x| <= 1. Without a sign, a number other than 0 never gets code 0: with a
// second moment of 0 the next step would divide by epsilon alone.
template <bool kSigned>
FASTKERAS_INLINE Ints Encode(Floats number, Floats inverse) {
  const Floats x = number * inverse;
  const CodeTables& tables = kSigned ? kSignedCodes : kUnsignedCodes;
  const Ints sign = BitsOf(x) & static_cast<int32_t>(0x80000000u);
  const Floats size = kSigned ? FromBitsOf(BitsOf(x) ^ sign) : x;
  Ints decade = {};  // counted down, since true is -1
  for (int i = 1; i < kDecades; ++i) decade += size >= Broadcast(tables.begin[i]);
  decade = -decade;
  const Ints one = Ints{} + 1;
  const Ints first = kSigned ? one << decade : (one << (decade + 1)) - 1;
  const Ints last = kSigned ? first * 2 - 1 : first * 2;
  const Floats code = (size - LookUp(tables.offset, decade)) * LookUp(tables.per_number, decade);
  Ints found = Truncate(code + Broadcast(0.5f));
  found = found < first ? first : found;
  found = found > last ? last : found;
  if constexpr (kSigned) {
    found = size < Broadcast(tables.begin[0]) ? Ints{} : found;
    found = found != 0 ? found | (sign >> 24 & 128) : found;
    return x >= Broadcast(tables.largest_below_one) ? Ints{} + 128 : found;
  }
  found = number == Floats{} ? Ints{} : found;
  return size >= Broadcast(tables.largest_below_one) ? Ints{} + 255 : found;
}

template <bool kSigned>
void DequantizeAs(const uint8_t* __restrict codes, const float* __restrict scales, int64_t size,
                  float* __restrict to) {
  for (int64_t block = 0; block * kBlock < size; ++block) {
    const Floats scale = Broadcast(scales[block]);
    const int64_t begin = block * kBlock, end = begin + kBlock < size ? begin + kBlock : size;
    int64_t i = begin;
    for (; i + kFloats <= end; i += kFloats) {
      Store(to + i, Decode<kSigned>(LoadBytes(codes + i)) * scale);
    }
    if (i < end) {
      uint8_t last[kFloats] = {};
      std::memcpy(last, codes + i, static_cast<size_t>(end - i));
      StoreFirst(to + i, Decode<kSigned>(LoadBytes(last)) * scale, static_cast<int>(end - i));
    }
  }
}

// The inverse of the smallest scales would be infinite, and its product with 0 NaN.
FASTKERAS_INLINE float InverseOf(float scale) {
  constexpr float kSmallest = 3e-39f;
  const bool is_small = scale > -kSmallest && scale < kSmallest;
  return !is_small ? 1 / scale : (scale > 0 ? 1 : scale < 0 ? -1 : 0) / kSmallest;
}

template <bool kSigned>
void QuantizeAs(const float* __restrict from, int64_t size, uint8_t* __restrict codes,
                float* __restrict scales) {
  for (int64_t block = 0; block * kBlock < size; ++block) {
    const int64_t begin = block * kBlock, end = begin + kBlock < size ? begin + kBlock : size;
    Floats largest = {}, smallest = {}, not_finite = {};
    int64_t i = begin;
    const auto take = [&](Floats x) FASTKERAS_LAMBDA_INLINE {
      largest = Max(largest, x);
      smallest = Max(smallest, -x);
      not_finite += x - x;
    };
    for (; i + kFloats <= end; i += kFloats) take(Load(from + i));
    if (i < end) take(LoadFirst(from + i, static_cast<int>(end - i)));
    // The number of the largest magnitude, with its sign, so that its code is exactly 1. NaN has to
    // stay NaN.
    const float above = Largest(largest), below = Largest(smallest);
    const float scale = (above >= below ? above : -below) + Sum(not_finite);
    scales[block] = scale;
    const Floats inverse = Broadcast(InverseOf(scale));
    for (i = begin; i + kFloats <= end; i += kFloats) {
      StoreBytes(codes + i, Encode<kSigned>(Load(from + i), inverse));
    }
    if (i < end) {
      const int count = static_cast<int>(end - i);
      uint8_t last[kFloats];
      StoreBytes(last, Encode<kSigned>(LoadFirst(from + i, count), inverse));
      std::memcpy(codes + i, last, static_cast<size_t>(count));
    }
  }
}

inline void Dequantize(bool has_sign, const uint8_t* codes, const float* scales, int64_t size,
                       float* to) {
  has_sign ? DequantizeAs<true>(codes, scales, size, to)
           : DequantizeAs<false>(codes, scales, size, to);
}

inline void Quantize(bool has_sign, const float* from, int64_t size, uint8_t* codes,
                     float* scales) {
  has_sign ? QuantizeAs<true>(from, size, codes, scales)
           : QuantizeAs<false>(from, size, codes, scales);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
