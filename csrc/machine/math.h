// Elementary functions on vectors, each with its range and error bound. Include after simd.h.

#ifndef FASTKERAS_MACHINE_MATH_H_
#define FASTKERAS_MACHINE_MATH_H_

#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float kLowest = -87.33654f;        // exp(kLowest) is the smallest normal number
  static constexpr float kRound = 12582912.0f + 127;  // adding 1.5 * 2^23 rounds to an integer
  static constexpr float kLn2High = 0.693359375f;
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr int kMantissa = 23;
  static constexpr int kDegree = 7;
};

template <>
struct ExpConstants<double> {
  static constexpr double kLowest = -708.3964185322641;
  static constexpr double kRound = 6755399441055744.0 + 1023;
  static constexpr double kLn2High = 0.693145751953125;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr int kMantissa = 52;
  static constexpr int kDegree = 13;
};

// exp(x) for x <= 64, -inf included: 1.5 ulp, and exactly 0 where the result would not be normal.
// NaN of NaN and of +inf. With n = round(x / ln 2) and |r| <= ln(2) / 2, exp(x) = 2^n exp(r),
// exp(r) by its Taylor series. kRound adds the exponent's bias too, so that the bits of the sum,
// shifted, are those of 2^n; a NaN, of which they would be any number's, comes from the series.
template <typename T>
FASTKERAS_INLINE Vec<T> Exp(Vec<T> x) {
  using C = ExpConstants<T>;
  using Bits = typename Simd<T>::Bits;
  const Vec<T> shifted = x * T(1.44269504088896340736) + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (x - n * C::kLn2High) - n * C::kLn2Low;
  T factorial[C::kDegree + 1] = {1};
  for (int k = 1; k <= C::kDegree; ++k) factorial[k] = factorial[k - 1] * T(k);
  Vec<T> series = Broadcast<T>(T(1) / factorial[C::kDegree]);
#pragma GCC unroll 16
  for (int k = C::kDegree - 1; k >= 0; --k) series = series * r + T(1) / factorial[k];
  Bits bits;
  Vec<T> power;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits <<= C::kMantissa;
  std::memcpy(&power, &bits, sizeof(power));
  return x < C::kLowest ? Vec<T>{} : series * power;
}

#if defined(FASTKERAS_AVX512)
// The same of floats in two thirds of the time, where one instruction looks up 16 numbers: within
// 1.1 ulp. With n = round(16 x / ln 2) and |r| <= ln(2) / 32, exp(x) = 2^(n / 16) exp(r), and of
// exp(r) four terms are enough. The bits of n, shifted by 19, add its whole part to an exponent;
// the table has the bits of 2^(k / 16) less what the rest k of n adds beside that.
template <>
FASTKERAS_INLINE Vec<float> Exp<float>(Vec<float> x) {
  using C = ExpConstants<float>;
  using Bits = typename Simd<float>::Bits;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const Vec<float> roots = {1.0f,         1.044273782f, 1.090507733f, 1.138788635f,
                            1.189207115f, 1.241857812f, 1.296839555f, 1.354255547f,
                            1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
                            1.681792831f, 1.756252160f, 1.834008086f, 1.915206561f};
  const Bits rests = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Vec<float> shifted = x * 23.0831206542f + kRound;
  const Vec<float> n = shifted - kRound;
  const Vec<float> r = (x - n * (C::kLn2High / 16)) - n * (C::kLn2Low / 16);
  Bits table, bits;
  std::memcpy(&table, &roots, sizeof(table));
  std::memcpy(&bits, &shifted, sizeof(bits));
  table -= rests << 19;
  bits = reinterpret_cast<Bits>(_mm512_permutexvar_epi32(reinterpret_cast<__m512i>(bits),
                                                         reinterpret_cast<__m512i>(table))) +
         (bits << 19);
  Vec<float> power;
  std::memcpy(&power, &bits, sizeof(power));
  const Vec<float> more = (r * r) * (r * (1.0f / 6) + 0.5f) + r;  // exp(r) - 1
  return x < C::kLowest ? Vec<float>{} : power * more + power;
}
#endif

// log(x) for normal positive x: 2 ulp, or 2^-52 near 1. With x = 2^n m and m in [sqrt(1/2),
// sqrt(2)), log(m) = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.172, by its series.
FASTKERAS_INLINE Vec<double> LogOfPositive(Vec<double> x) {
  using Int = typename Simd<double>::Int;
  Int bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const Int half_root = Int{} + 0x3fe6a09e667f3bcd;  // the bits of sqrt(1/2)
  const Int exponent = (bits - half_root) >> 52;
  bits -= exponent << 52;
  Vec<double> m;
  std::memcpy(&m, &bits, sizeof(m));
  const Vec<double> n = __builtin_convertvector(exponent, Vec<double>);
  const Vec<double> s = (m - 1.0) / (m + 1.0), z = s * s;
  Vec<double> series = Broadcast(1.0 / 21);
#pragma GCC unroll 16
  for (int k = 19; k > 1; k -= 2) series = series * z + 1.0 / k;
  const Vec<double> tail = z * series * (2.0 * s) + n * ExpConstants<double>::kLn2Low;
  return n * ExpConstants<double>::kLn2High + (2.0 * s + tail);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_MACHINE_MATH_H_
