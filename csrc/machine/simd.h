// Vectors of one instruction set. A file that defines FASTKERAS_AVX512 or FASTKERAS_AVX2 before it
// includes this compiles everything below for that set, in a namespace of its own; the caller picks
// one at run time. No standard header may be included after this one: its inline functions would
// be compiled for the wider set, and the linker might keep those copies for all callers.

#ifndef FASTKERAS_MACHINE_SIMD_H_
#define FASTKERAS_MACHINE_SIMD_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#if defined(FASTKERAS_AVX512) || defined(FASTKERAS_AVX2)
#include <immintrin.h>
#endif

#if defined(FASTKERAS_AVX512)
#define FASTKERAS_ISA avx512
#define FASTKERAS_VECTOR_BYTES 64
#define FASTKERAS_TARGET "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"
#elif defined(FASTKERAS_AVX2)
#define FASTKERAS_ISA avx2
#define FASTKERAS_VECTOR_BYTES 32
#define FASTKERAS_TARGET "avx2,fma"
#else
#define FASTKERAS_ISA portable
#define FASTKERAS_VECTOR_BYTES 16
#endif

#define FASTKERAS_PRAGMA(text) FASTKERAS_STRING_PRAGMA(text)
#define FASTKERAS_STRING_PRAGMA(text) _Pragma(#text)
#if !defined(FASTKERAS_TARGET)
#define FASTKERAS_BEGIN_ISA
#define FASTKERAS_END_ISA
#elif defined(__clang__)
#define FASTKERAS_BEGIN_ISA \
  FASTKERAS_PRAGMA(         \
      clang attribute push(__attribute__((target(FASTKERAS_TARGET))), apply_to = function))
#define FASTKERAS_END_ISA FASTKERAS_PRAGMA(clang attribute pop)
#else
#define FASTKERAS_BEGIN_ISA          \
  FASTKERAS_PRAGMA(GCC push_options) \
  FASTKERAS_PRAGMA(GCC target(FASTKERAS_TARGET))
#define FASTKERAS_END_ISA FASTKERAS_PRAGMA(GCC pop_options)
#endif

// Makes `table`, a Kernels<T>, one of those that the domain's CurrentKernels<T> chooses from
// (instruction_set.h). Use it in the domain's namespace, at the end of the file. These functions
// are all that the library of the kernels shows to the others.
#define FASTKERAS_EXPORT(T, table)                                                                 \
  __attribute__((visibility("default"))) const Kernels<T>* FASTKERAS_NAME_OF(FASTKERAS_ISA, T)() { \
    return &FASTKERAS_ISA::table;                                                                  \
  }
#define FASTKERAS_NAME_OF(set, T) FASTKERAS_JOIN(set, T)
#define FASTKERAS_JOIN(set, T) set##_##T

#define FASTKERAS_INLINE inline __attribute__((always_inline))
// Of what is large and called once in many steps: the kernels share one, or libraries would grow.
#define FASTKERAS_SHARED __attribute__((noinline))
#define FASTKERAS_LAMBDA_INLINE __attribute__((always_inline))

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int kWidth = FASTKERAS_VECTOR_BYTES / 4;
  typedef float Vec __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
  typedef float Unaligned __attribute__((vector_size(FASTKERAS_VECTOR_BYTES), aligned(4)));
  typedef int32_t Int __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  static constexpr int kWidth = FASTKERAS_VECTOR_BYTES / 8;
  typedef double Vec __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
  typedef double Unaligned __attribute__((vector_size(FASTKERAS_VECTOR_BYTES), aligned(8)));
  typedef int64_t Int __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
  typedef uint64_t Bits __attribute__((vector_size(FASTKERAS_VECTOR_BYTES)));
};

template <typename T>
using Vec = typename Simd<T>::Vec;

template <typename T>
FASTKERAS_INLINE Vec<T> Broadcast(T value) {
  return value - Vec<T>{};
}

// A vector with the alignment and, to the compiler, the type of an element, so that it knows that a
// store of floats changes no pointer.
template <typename T>
using Unaligned = typename Simd<T>::Unaligned;

template <typename T>
FASTKERAS_INLINE Vec<T> Load(const T* from) {
  return *reinterpret_cast<const Unaligned<T>*>(from);
}

template <typename T>
FASTKERAS_INLINE void Store(T* to, Vec<T> v) {
  *reinterpret_cast<Unaligned<T>*>(to) = v;
}

// Has a vector that is used many times loaded once: gcc may make each use load it.
template <typename V>
FASTKERAS_INLINE void KeepInRegister([[maybe_unused]] V& v) {
#if defined(FASTKERAS_AVX512) || defined(FASTKERAS_AVX2)
  asm("" : "+v"(v));
#endif
}

// a > b ? a : b, so `b` where either is NaN. Compilers make a comparison and a blend of that, which
// take twice as long as the one instruction that does it.
template <typename V>
FASTKERAS_INLINE V Max(V a, V b) {
  return a > b ? a : b;
}
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE Vec<float> Max(Vec<float> a, Vec<float> b) { return _mm512_max_ps(a, b); }
FASTKERAS_INLINE Vec<double> Max(Vec<double> a, Vec<double> b) { return _mm512_max_pd(a, b); }
#elif defined(FASTKERAS_AVX2)
FASTKERAS_INLINE Vec<float> Max(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
FASTKERAS_INLINE Vec<double> Max(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
#endif

// The first `count` elements, 1 <= count <= kWidth, and zeros; nothing past them is touched.
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE Vec<float> LoadFirst(const float* from, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(0xffffu >> (16 - count)), from);
}
FASTKERAS_INLINE Vec<double> LoadFirst(const double* from, int count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>(0xffu >> (8 - count)), from);
}
FASTKERAS_INLINE void StoreFirst(float* to, Vec<float> v, int count) {
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>(0xffffu >> (16 - count)), v);
}
FASTKERAS_INLINE void StoreFirst(double* to, Vec<double> v, int count) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(0xffu >> (8 - count)), v);
}
#elif defined(FASTKERAS_AVX2)
alignas(32) constexpr int32_t kOnesThenZeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
FASTKERAS_INLINE __m256i FirstLanes(int count32) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnesThenZeros + 8 - count32));
}
FASTKERAS_INLINE Vec<float> LoadFirst(const float* from, int count) {
  return _mm256_maskload_ps(from, FirstLanes(count));
}
FASTKERAS_INLINE Vec<double> LoadFirst(const double* from, int count) {
  return _mm256_maskload_pd(from, FirstLanes(2 * count));
}
FASTKERAS_INLINE void StoreFirst(float* to, Vec<float> v, int count) {
  _mm256_maskstore_ps(to, FirstLanes(count), v);
}
FASTKERAS_INLINE void StoreFirst(double* to, Vec<double> v, int count) {
  _mm256_maskstore_pd(to, FirstLanes(2 * count), v);
}
#else
template <typename T>
FASTKERAS_INLINE Vec<T> LoadFirst(const T* from, int count) {
  Vec<T> v = {};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
}
template <typename T>
FASTKERAS_INLINE void StoreFirst(T* to, Vec<T> v, int count) {
  std::memcpy(to, &v, count * sizeof(T));
}
#endif

// The first kCount elements, a power of two of them, over and over.
template <int kCount, typename T>
FASTKERAS_INLINE Vec<T> LoadRepeated(const T* from) {
  constexpr int kWidth = Simd<T>::kWidth;
  if constexpr (kCount == kWidth) {
    return Load(from);
  } else if constexpr (kCount == 1) {
    return Broadcast(*from);
  } else {
#if defined(FASTKERAS_AVX512) || defined(FASTKERAS_AVX2)
    constexpr size_t kBytes = kCount * sizeof(T);
    if constexpr (kBytes == 8) {
      double both;
      std::memcpy(&both, from, kBytes);
      return reinterpret_cast<Vec<T>>(Broadcast(both));
    } else if constexpr (kBytes == 16) {
#if defined(FASTKERAS_AVX512)
      return reinterpret_cast<Vec<T>>(
          _mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(from))));
#else
      return reinterpret_cast<Vec<T>>(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)));
#endif
    } else {
      static_assert(kBytes == 32, "no instruction for it");
#if defined(FASTKERAS_AVX512)
      return reinterpret_cast<Vec<T>>(
          _mm512_broadcast_f64x4(_mm256_loadu_pd(reinterpret_cast<const double*>(from))));
#endif
    }
#else
    Vec<T> v;
    for (int lane = 0; lane < kWidth; ++lane) v[lane] = from[lane % kCount];
    return v;
#endif
  }
}

#if defined(FASTKERAS_AVX512)
// Lane l is element index[l].
FASTKERAS_INLINE Vec<float> Permuted(Vec<float> v, Simd<float>::Int index) {
  return _mm512_permutexvar_ps(reinterpret_cast<__m512i>(index), v);
}

// The first `count` elements, 1 <= count <= kWidth / 2, from two places, in the halves of a vector;
// nothing past them is touched. Only where masks make that cheap.
FASTKERAS_INLINE Vec<double> LoadPair(const double* low, const double* high, int count) {
  const __mmask8 first = static_cast<__mmask8>(0xfu >> (4 - count));
  return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_maskz_loadu_pd(first, low)),
                            _mm256_maskz_loadu_pd(first, high), 1);
}
FASTKERAS_INLINE void StorePair(double* low, double* high, Vec<double> v, int count) {
  const __mmask8 first = static_cast<__mmask8>(0xfu >> (4 - count));
  _mm256_mask_storeu_pd(low, first, _mm512_castpd512_pd256(v));
  _mm256_mask_storeu_pd(high, first, _mm512_extractf64x4_pd(v, 1));
}
#endif

// The elements of two vectors in another order: lane l is that of index Order::At(l), those of `b`
// counted after those of `a`.
template <typename Order, typename V, int... kLanes>
FASTKERAS_INLINE V Shuffled(V a, V b, std::integer_sequence<int, kLanes...>) {
#if defined(__has_builtin) && __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, Order::At(kLanes)...);
#else  // gcc before 12
  using Index = decltype(a < b);
  return __builtin_shuffle(a, b, Index{Order::At(kLanes)...});
#endif
}
template <typename Order, typename V>
FASTKERAS_INLINE V Shuffled(V a, V b) {
  return Shuffled<Order>(a, b, std::make_integer_sequence<int, sizeof(V) / sizeof(a[0])>());
}

// Orders of the two vectors' elements, for lanes of kWidth. Interleaved: of each 16 bytes, the low
// or the high half of both, runs of kRun elements in turn. EverySecond: the even or odd pieces of
// 16 bytes, kPiece elements each.
template <int kWidth, int kPiece, int kRun, int kHigh>
struct Interleaved {
  static constexpr int At(int lane) {
    const int place = lane % kPiece, run = place / kRun;
    return lane - place + kHigh * kPiece / 2 + run / 2 * kRun + place % kRun + run % 2 * kWidth;
  }
};
template <int kWidth, int kPiece, int kOdd>
struct EverySecond {
  static constexpr int At(int lane) { return (lane / kPiece * 2 + kOdd) * kPiece + lane % kPiece; }
};
template <int kWidth, int kBy>
struct Rotated {  // towards the lower lanes
  static constexpr int At(int lane) { return (lane + kBy) % kWidth; }
};
template <int kWidth>
struct OtherQuarter {  // of the same half
  static constexpr int At(int lane) { return lane ^ (kWidth / 4); }
};

template <typename V>
FASTKERAS_INLINE V SwappedHalves(V v) {
  constexpr int kWidth = sizeof(V) / sizeof(v[0]);
  return Shuffled<Rotated<kWidth, kWidth / 2>>(v, v);
}
template <typename V>
FASTKERAS_INLINE V SwappedQuarters(V v) {
  return Shuffled<OtherQuarter<sizeof(V) / sizeof(v[0])>>(v, v);
}

// Of four vectors of floats, transposes the squares of 16 bytes.
template <typename T>
FASTKERAS_INLINE void TransposeSquares(const Vec<T>* from, Vec<T>* to) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Vec<T> a = Shuffled<Interleaved<kWidth, 4, 1, 0>>(from[0], from[1]);
  const Vec<T> b = Shuffled<Interleaved<kWidth, 4, 1, 1>>(from[0], from[1]);
  const Vec<T> c = Shuffled<Interleaved<kWidth, 4, 1, 0>>(from[2], from[3]);
  const Vec<T> d = Shuffled<Interleaved<kWidth, 4, 1, 1>>(from[2], from[3]);
  to[0] = Shuffled<Interleaved<kWidth, 4, 2, 0>>(a, c);
  to[1] = Shuffled<Interleaved<kWidth, 4, 2, 1>>(a, c);
  to[2] = Shuffled<Interleaved<kWidth, 4, 2, 0>>(b, d);
  to[3] = Shuffled<Interleaved<kWidth, 4, 2, 1>>(b, d);
}

// One step of a transposition: of a square of pieces, the even pieces of neighbours, and the odd.
template <typename T>
FASTKERAS_INLINE void GatherPieces(const Vec<T>* from, Vec<T>* to) {
  constexpr int kWidth = Simd<T>::kWidth, kPiece = 16 / sizeof(T);
#pragma GCC unroll 16
  for (int i = 0; i < kWidth / 2; ++i) {
    const int column = i % kPiece, row = i / kPiece;  // of pairs of rows of pieces
    const Vec<T> a = from[2 * row * kPiece + column], b = from[(2 * row + 1) * kPiece + column];
    const int target = row * kPiece + column;
    to[target] = Shuffled<EverySecond<kWidth, kPiece, 0>>(a, b);
    to[target + kWidth / 2] = Shuffled<EverySecond<kWidth, kPiece, 1>>(a, b);
  }
}

// Transposes a square of kWidth vectors: first the squares of 16 bytes, then their arrangement. No
// vector is copied: of 16 copies, gcc makes one of the memory.
template <typename T>
FASTKERAS_INLINE void Transpose(Vec<T>* rows) {
  constexpr int kWidth = Simd<T>::kWidth, kPiece = 16 / sizeof(T), kPieces = kWidth / kPiece;
  static_assert(kPieces <= 4, "at most two steps");
  Vec<T> moved[kWidth];
  Vec<T>* const to = kPieces == 2 ? moved : rows;
#pragma GCC unroll 8
  for (int i = 0; i < kWidth; i += kPiece) {
    if constexpr (kPiece == 2) {
      const Vec<T> a = rows[i], b = rows[i + 1];
      to[i] = Shuffled<Interleaved<kWidth, 2, 1, 0>>(a, b);
      to[i + 1] = Shuffled<Interleaved<kWidth, 2, 1, 1>>(a, b);
    } else {
      TransposeSquares<T>(rows + i, to + i);
    }
  }
  if constexpr (kPieces == 2) GatherPieces<T>(moved, rows);
  if constexpr (kPieces == 4) {
    GatherPieces<T>(rows, moved);
    GatherPieces<T>(moved, rows);
  }
}

// Sum and Largest reduce a vector. FirstEqual is the first lane where a equals b, or kWidth;
// AnyLess tells whether a < b in any lane; lane i of PrefixSums is the sum of the lanes 0..i.
#if defined(FASTKERAS_AVX512)
FASTKERAS_INLINE bool AnyLess(Vec<float> a, Vec<float> b) {
  return _mm512_cmplt_ps_mask(a, b) != 0;
}
FASTKERAS_INLINE bool AnyLess(Vec<double> a, Vec<double> b) {
  return _mm512_cmplt_pd_mask(a, b) != 0;
}
FASTKERAS_INLINE Vec<float> PrefixSums(Vec<float> v) {
  const auto shifted = [](Vec<float> x, auto lanes) FASTKERAS_LAMBDA_INLINE {
    constexpr int kLanes = decltype(lanes)::value;
    return _mm512_castsi512_ps(
        _mm512_alignr_epi32(_mm512_castps_si512(x), _mm512_setzero_si512(), 16 - kLanes));
  };
  v += shifted(v, std::integral_constant<int, 1>());
  v += shifted(v, std::integral_constant<int, 2>());
  v += shifted(v, std::integral_constant<int, 4>());
  return v + shifted(v, std::integral_constant<int, 8>());
}
FASTKERAS_INLINE Vec<double> PrefixSums(Vec<double> v) {
  const auto shifted = [](Vec<double> x, auto lanes) FASTKERAS_LAMBDA_INLINE {
    constexpr int kLanes = decltype(lanes)::value;
    return _mm512_castsi512_pd(
        _mm512_alignr_epi64(_mm512_castpd_si512(x), _mm512_setzero_si512(), 8 - kLanes));
  };
  v += shifted(v, std::integral_constant<int, 1>());
  v += shifted(v, std::integral_constant<int, 2>());
  return v + shifted(v, std::integral_constant<int, 4>());
}
FASTKERAS_INLINE float Sum(Vec<float> v) { return _mm512_reduce_add_ps(v); }
FASTKERAS_INLINE double Sum(Vec<double> v) { return _mm512_reduce_add_pd(v); }
FASTKERAS_INLINE float Largest(Vec<float> v) { return _mm512_reduce_max_ps(v); }
FASTKERAS_INLINE double Largest(Vec<double> v) { return _mm512_reduce_max_pd(v); }
FASTKERAS_INLINE int FirstEqual(Vec<float> a, Vec<float> b) {
  return __builtin_ctz(_mm512_cmpeq_ps_mask(a, b) | 1u << 16);
}
FASTKERAS_INLINE int FirstEqual(Vec<double> a, Vec<double> b) {
  return __builtin_ctz(_mm512_cmpeq_pd_mask(a, b) | 1u << 8);
}
#else
template <typename V>
FASTKERAS_INLINE int FirstEqual(V a, V b) {
  const auto equal = a == b;
  int lane = 0;
  for (const int width = sizeof(V) / sizeof(a[0]); lane < width && !equal[lane];) ++lane;
  return lane;
}
template <typename V>
FASTKERAS_INLINE bool AnyLess(V a, V b) {
  const auto less = a < b;
  auto any = less[0];
  for (size_t i = 1; i < sizeof(V) / sizeof(a[0]); ++i) any |= less[i];
  return any != 0;
}
template <typename V>
FASTKERAS_INLINE V PrefixSums(V v) {
  for (size_t i = 1; i < sizeof(V) / sizeof(v[0]); ++i) v[i] += v[i - 1];
  return v;
}
template <typename V>
FASTKERAS_INLINE auto Sum(V v) {
  auto sum = v[0];
  for (size_t i = 1; i < sizeof(V) / sizeof(v[0]); ++i) sum += v[i];
  return sum;
}
template <typename V>
FASTKERAS_INLINE auto Largest(V v) {
  auto largest = v[0];
  for (size_t i = 1; i < sizeof(V) / sizeof(v[0]); ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}
#endif

// Lane i of LookUp is element index[i] of `low` and `high` together. Only where one instruction
// does it.
#if defined(FASTKERAS_AVX512)
constexpr bool kLooksUp = true;
FASTKERAS_INLINE Vec<float> LookUp(Vec<float> low, Vec<float> high, Simd<float>::Int index) {
  return _mm512_permutex2var_ps(low, reinterpret_cast<__m512i>(index), high);
}
FASTKERAS_INLINE Vec<double> LookUp(Vec<double> low, Vec<double> high, Simd<double>::Int index) {
  return _mm512_permutex2var_pd(low, reinterpret_cast<__m512i>(index), high);
}
#else
constexpr bool kLooksUp = false;
#endif

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_MACHINE_SIMD_H_
