// Vector-matrix products of a few rows at a time, in the (+, *) and the (max, +) semiring.

#ifndef FASTKERAS_CRF_SWEEPS_PRODUCTS_H_
#define FASTKERAS_CRF_SWEEPS_PRODUCTS_H_

#include "crf/kernels.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// As many accumulators as fit in the registers beside a panel's row.
#if defined(FASTKERAS_AVX512)
constexpr int kMaxRows = 8;
constexpr int kMaxAccumulators = 16;
#else
constexpr int kMaxRows = 4;
constexpr int kMaxAccumulators = 8;
#endif

struct SumProduct {
  template <typename V>
  static FASTKERAS_INLINE V Zero() {
    return V{};
  }
  template <typename V>
  static FASTKERAS_INLINE V Add(V sum, V a, V b) {
    return sum + a * b;
  }
};

struct MaxPlus {
  template <typename V>
  static FASTKERAS_INLINE V Zero() {
    return V{} - std::numeric_limits<decltype(+V{}[0])>::infinity();
  }
  template <typename V>
  static FASTKERAS_INLINE V Add(V best, V a, V b) {
    return Max(best, a + b);
  }
};

// out(m, v, vector v of rows[m] x matrix), for kPanels panels of kVectors vectors from `first` on.
template <typename Semiring, int kRows, int kVectors, int kPanels, typename T, typename Out>
FASTKERAS_INLINE void PanelProduct(const T* const* rows, const crf::Panels<T>& matrix, int first,
                                   const Out& out) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr int kAccumulators = kVectors * kPanels;
  const int64_t num_tags = matrix.num_tags;
  const T* panel = matrix.data + first * num_tags * kWidth;
  Vec<T> sums[kRows][kAccumulators];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kAccumulators; ++v) sums[m][v] = Semiring::template Zero<Vec<T>>();
  }
  for (int64_t i = 0; i < num_tags; ++i) {
    Vec<T> entries[kAccumulators];
#pragma GCC unroll 4
    for (int v = 0; v < kAccumulators; ++v) {
      entries[v] = Load(panel + ((v / kVectors) * num_tags + i) * kVectors * kWidth +
                        (v % kVectors) * kWidth);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Vec<T> scalar = Broadcast(rows[m][i]);
#pragma GCC unroll 4
      for (int v = 0; v < kAccumulators; ++v) {
        sums[m][v] = Semiring::Add(sums[m][v], scalar, entries[v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kAccumulators; ++v) out(m, first + v, sums[m][v]);
  }
}

// out(m, v, vector v of rows[m] x matrix) for all vectors and kRows rows.
template <typename Semiring, int kRows, typename T, typename Out>
FASTKERAS_INLINE void RowsProduct(const T* const* rows, const crf::Panels<T>& matrix,
                                  const Out& out) {
  int v = 0;
  if constexpr (kRows * 4 <= kMaxAccumulators) {
    for (; v + 4 <= matrix.vectors; v += 4)
      PanelProduct<Semiring, kRows, 2, 2>(rows, matrix, v, out);
  }
  for (; v + 2 <= matrix.vectors; v += 2) PanelProduct<Semiring, kRows, 2, 1>(rows, matrix, v, out);
  if (v < matrix.vectors) PanelProduct<Semiring, kRows, 1, 1>(rows, matrix, v, out);
}

// Calls body(first row, constant number of rows) until `count` rows are covered; the number is
// rounded up to a power of two, so `rows` has to be readable up to the next multiple of kMaxRows.
template <typename Body>
FASTKERAS_INLINE void InRowGroups(int count, const Body& body) {
  for (int m = 0; m < count; m += kMaxRows) {
    const int left = count - m;
    if constexpr (kMaxRows == 8) {
      if (left > 4) {
        body(m, std::integral_constant<int, 8>());
        continue;
      }
    }
    if (left > 2) {
      body(m, std::integral_constant<int, 4>());
    } else if (left == 2) {
      body(m, std::integral_constant<int, 2>());
    } else {
      body(m, std::integral_constant<int, 1>());
    }
  }
}

// sums[i][:] += sum over `steps` of left[s][i] * right[s][:], for kRows tags i and one panel. The
// steps are summed on their own first: added to the sum of a long chain, each would be rounded
// away.
template <int kRows, int kVectors, typename T>
FASTKERAS_INLINE void OuterTile(const T* left, int64_t left_stride, const T* right, int64_t steps,
                                T* sums, int64_t sums_stride) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> tile[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) tile[i][v] = Vec<T>{};
  }
  for (int64_t s = 0; s < steps; ++s) {
    Vec<T> row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = Load(right + (s * kVectors + v) * kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
      const Vec<T> scalar = Broadcast(left[s * left_stride + i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) tile[i][v] += scalar * row[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      T* sum = sums + i * sums_stride + v * kWidth;
      Store(sum, Load(sum) + tile[i][v]);
    }
  }
}

template <int kVectors, typename T>
FASTKERAS_INLINE void OuterPanel(const T* left, const T* right, int64_t steps, int64_t num_tags,
                                 T* sums, int64_t stride) {
  int64_t i = 0;
  const auto cover = [&](auto rows) FASTKERAS_LAMBDA_INLINE {
    constexpr int kRows = decltype(rows)::value;
    for (; i + kRows <= num_tags; i += kRows) {
      OuterTile<kRows, kVectors>(left + i, num_tags, right, steps, sums + i * stride, stride);
    }
  };
  cover(std::integral_constant<int, kMaxRows>());
  cover(std::integral_constant<int, 2>());
  cover(std::integral_constant<int, 1>());
}

// sums (num_tags, stride) += left^T right, over `steps` rows: left (steps, num_tags), right
// (steps, stride), where stride is num_tags rounded up to whole vectors. `panel` has room for a
// copy of two vectors of each step: rows far apart would evict each other from the cache.
template <typename T>
FASTKERAS_INLINE void AddOuterProducts(const T* left, const T* right, int64_t steps,
                                       int64_t num_tags, int64_t stride, T* panel, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth;
  int64_t j = 0;
  for (; j + 2 * kWidth <= stride; j += 2 * kWidth) {
    for (int64_t s = 0; s < steps; ++s) {
      Store(panel + 2 * s * kWidth, Load(right + s * stride + j));
      Store(panel + (2 * s + 1) * kWidth, Load(right + s * stride + j + kWidth));
    }
    OuterPanel<2>(left, panel, steps, num_tags, sums + j, stride);
  }
  if (j == stride) return;
  for (int64_t s = 0; s < steps; ++s) Store(panel + s * kWidth, Load(right + s * stride + j));
  OuterPanel<1>(left, panel, steps, num_tags, sums + j, stride);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_PRODUCTS_H_
