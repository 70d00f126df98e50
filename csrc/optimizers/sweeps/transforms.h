// Transforms of a gradient, the norms they need, and the types that variables are stored in.
// Compiled once for each instruction set.

#include "machine/simd.h"
#include "optimizers/kernels.h"
#include "optimizers/sweeps/bits.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
void Transform(const optimizers::Elementwise* steps, int64_t count, const T* __restrict parameter,
               T* __restrict gradient, int64_t size) {
  using Kind = optimizers::Elementwise::Kind;
  for (int64_t s = 0; s < count; ++s) {
    const T operand = static_cast<T>(steps[s].operand);
    switch (steps[s].kind) {
      case Kind::kScale:
        for (int64_t i = 0; i < size; ++i) gradient[i] *= operand;
        break;
      case Kind::kZero:
        for (int64_t i = 0; i < size; ++i) gradient[i] = 0;
        break;
      case Kind::kClip:  // NaN stays NaN
        for (int64_t i = 0; i < size; ++i) {
          const T g = gradient[i] < -operand ? -operand : gradient[i];
          gradient[i] = g > operand ? operand : g;
        }
        break;
      case Kind::kAddParameter:
        for (int64_t i = 0; i < size; ++i) gradient[i] += parameter[i] * operand;
        break;
    }
  }
}

// Sums fn(element) in float64, whatever T is, in lanes whose number is the same on every machine.
template <typename T, typename Function>
FASTKERAS_INLINE double SumInLanes(const T* __restrict values, int64_t size, Function fn) {
  constexpr int kLanes = 32;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += fn(static_cast<double>(values[i + k]));
  }
  for (int k = 0; i + k < size; ++k) lanes[k] += fn(static_cast<double>(values[i + k]));
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <typename T>
double SumOfSquares(const T* values, int64_t size) {
  return SumInLanes(values, size, [](double x) FASTKERAS_LAMBDA_INLINE { return x * x; });
}

template <typename T>
double SumOfMagnitudes(const T* values, int64_t size) {
  return SumInLanes(values, size,
                    [](double x) FASTKERAS_LAMBDA_INLINE { return __builtin_fabs(x); });
}

template <typename T>
double SumOfDefects(const T* values, int64_t size) {
  return SumInLanes(values, size, [](double x) FASTKERAS_LAMBDA_INLINE { return x - x; });
}

// float16 and bfloat16 by their bits, since not every compiler knows the types.
FASTKERAS_INLINE float FromBfloat16(uint16_t half) {
  return FromBits(static_cast<uint32_t>(half) << 16);
}

// To the nearest, ties to even; NaN stays NaN.
FASTKERAS_INLINE uint16_t ToBfloat16(float value) {
  const uint32_t bits = ToBits(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// Without subnormal float32 numbers on the way, which threads of TensorFlow treat as 0.
FASTKERAS_INLINE float FromFloat16(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
  const uint32_t finite =
      (magnitude << 13) + (112u << 23);  // the exponent of 1 is 15 here, 127 there
  const uint32_t bits = magnitude >= 0x7c00u ? (magnitude << 13 | 0x7f800000u)
                        : magnitude < 0x400u ? ToBits(subnormal)
                                             : finite;
  return FromBits(bits | sign);
}

// To the nearest, ties to even.
FASTKERAS_INLINE uint16_t ToFloat16(float value) {
  const uint32_t bits = ToBits(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Adding this rounds to the multiples of a half's ulp: 2^-24 below 2^-14, where it is constant.
  const uint32_t exponent = magnitude & 0x7f800000u;
  const float grid = FromBits((exponent < 113u << 23 ? 113u << 23 : exponent) + (13u << 23));
  const float rounded = (FromBits(magnitude) + grid) - grid;
  const uint32_t subnormal = static_cast<uint32_t>(static_cast<int32_t>(rounded * 0x1p24f));
  const uint32_t normal = (ToBits(rounded) - (112u << 23)) >> 13;
  const uint32_t half = magnitude > 0x7f800000u    ? 0x7e00u
                        : magnitude >= 0x477ff000u ? 0x7c00u
                        : rounded < 0x1p-14f       ? subnormal
                                                   : normal;
  return static_cast<uint16_t>(half | sign);
}

template <typename T, typename Decode>
FASTKERAS_INLINE void LoadHalves(const void* from, const float* remainder, int64_t first,
                                 int64_t size, T* __restrict to, Decode decode) {
  const uint16_t* __restrict const halves = static_cast<const uint16_t*>(from) + first;
  for (int64_t i = 0; i < size; ++i) to[i] = decode(halves[i]);
  if (remainder == nullptr) return;
  for (int64_t i = 0; i < size; ++i) to[i] += remainder[first + i];
}

template <typename T, typename Encode, typename Decode>
FASTKERAS_INLINE void StoreHalves(const T* __restrict from, int64_t first, int64_t size, void* to,
                                  float* remainder, Encode encode, Decode decode) {
  uint16_t* __restrict const halves = static_cast<uint16_t*>(to) + first;
  for (int64_t i = 0; i < size; ++i) halves[i] = encode(static_cast<float>(from[i]));
  if (remainder == nullptr) return;
  for (int64_t i = 0; i < size; ++i) {  // where it is infinite nothing remains
    const float rest = static_cast<float>(from[i]) - decode(halves[i]);
    remainder[first + i] = rest - rest == 0 ? rest : 0;
  }
}

#define FASTKERAS_HALF(function) [](auto x) FASTKERAS_LAMBDA_INLINE { return function(x); }

template <typename T>
void LoadAs(optimizers::Dtype dtype, const void* from, const float* remainder, int64_t first,
            int64_t size, T* to) {
  if (dtype == optimizers::Dtype::kFloat16) {
    LoadHalves(from, remainder, first, size, to, FASTKERAS_HALF(FromFloat16));
  } else if (dtype == optimizers::Dtype::kBfloat16) {
    LoadHalves(from, remainder, first, size, to, FASTKERAS_HALF(FromBfloat16));
  } else {
    std::memcpy(to, static_cast<const T*>(from) + first, static_cast<size_t>(size) * sizeof(T));
  }
}

template <typename T>
void StoreAs(optimizers::Dtype dtype, const T* from, int64_t first, int64_t size, void* to,
             float* remainder) {
  if (dtype == optimizers::Dtype::kFloat16) {
    StoreHalves(from, first, size, to, remainder, FASTKERAS_HALF(ToFloat16),
                FASTKERAS_HALF(FromFloat16));
  } else if (dtype == optimizers::Dtype::kBfloat16) {
    StoreHalves(from, first, size, to, remainder, FASTKERAS_HALF(ToBfloat16),
                FASTKERAS_HALF(FromBfloat16));
  } else {
    std::memcpy(static_cast<T*>(to) + first, from, static_cast<size_t>(size) * sizeof(T));
  }
}

#undef FASTKERAS_HALF

template <typename T>
void Dither(uint32_t seed, const T* __restrict from, int64_t first, int64_t size, void* to) {
  uint16_t* __restrict const halves = static_cast<uint16_t*>(to) + first;
  for (int64_t i = 0; i < size; ++i) {
    const float value = static_cast<float>(from[i]);
    const uint32_t bits = ToBits(value);
    const uint32_t random = DitherBits(seed, static_cast<uint32_t>(first + i));
    const bool is_rounded = static_cast<int32_t>(bits & 0x7fff0000u) < kLargestBfloat16;
    // Those above are cut off, so that none becomes infinite; a NaN keeps a digit.
    const uint32_t rounded = (bits + (is_rounded ? random : 0)) >> 16;
    halves[i] = value != value ? 0x7fc0u : static_cast<uint16_t>(rounded);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
