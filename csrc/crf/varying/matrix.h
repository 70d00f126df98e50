// The matrix of one step where transitions vary, exponentiated some rows at a time, and its product
// with a row.

#ifndef FASTKERAS_CRF_VARYING_MATRIX_H_
#define FASTKERAS_CRF_VARYING_MATRIX_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "machine/math.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// How the matrix of a step lies in memory, and in how many rows at a time it is exponentiated: as
// many as stay in the first cache, a multiple of a vector's lanes. Rows follow one another without
// padding, so that a vector that begins in one row may end in the next.
template <typename T>
struct Matrix {
  static constexpr int kWidth = Simd<T>::kWidth;
  const Row<T> row, flat;
  const int64_t num_tags, stride, rows_at_once;

  explicit Matrix(int64_t n)
      : row(n),
        flat(n * n),
        num_tags(n),
        stride(int64_t{row.vectors} * kWidth),
        rows_at_once(n <= 1024 / kWidth ? 1024 / n / kWidth * kWidth : kWidth) {}

  bool has_whole_vectors() const { return num_tags % kWidth == 0; }
  int64_t room() const { return rows_at_once * num_tags + 2 * kWidth; }  // for weights

  FASTKERAS_INLINE void Extremes(const T* scores, T* peak, T* lowest) const {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    Vec<T> highs[2] = {Broadcast(-kInfinity), Broadcast(-kInfinity)};
    Vec<T> lows[2] = {Broadcast(kInfinity), Broadcast(kInfinity)};
    int v = 0;
    for (; v + 2 < flat.vectors; v += 2) {
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        const Vec<T> x = Load(scores + (v + k) * kWidth);
        highs[k] = Max(x, highs[k]);
        lows[k] = x < lows[k] ? x : lows[k];
      }
    }
    for (; v < flat.vectors; ++v) {
      const Vec<T> x = flat.LoadVector(scores, v);
      highs[0] = Max(flat.Pad(v, x, -kInfinity), highs[0]);
      const Vec<T> y = flat.Pad(v, x, kInfinity);
      lows[0] = y < lows[0] ? y : lows[0];
    }
    *peak = Largest(Max(highs[0], highs[1]));
    *lowest = -Largest(-(lows[0] < lows[1] ? lows[0] : lows[1]));
    if (*peak == -kInfinity) *peak = 0;
  }

  // weights = exp(scores - peak) of the rows from..to-1, and something finite behind them, where
  // rows are not whole vectors.
  FASTKERAS_INLINE void Exponentiate(const T* scores, T peak, int64_t from, int64_t to,
                                     T* weights) const {
    const int64_t end = to * num_tags;
    for (int64_t k = from * num_tags; k < end; k += kWidth, weights += kWidth) {
      if (k + kWidth <= num_tags * num_tags) {
        Store(weights, ExpOfNonPositive<T>(Load(scores + k) - peak));
      } else {
        const int v = flat.vectors - 1;
        const Vec<T> x = flat.Pad(v, flat.LoadVector(scores, v) - peak, 0);
        Store(weights, ExpOfNonPositive<T>(x));
      }
    }
    if (!has_whole_vectors()) Store(weights, Vec<T>{});
  }
};

// sums += the rows from..to-1 of the matrix, of which `weights` holds these, each times its factor:
// kVectors vectors from v on. Several sums of each are independent, since additions wait.
template <int kVectors, typename T>
FASTKERAS_INLINE void AddRows(const Matrix<T>& matrix, const T* factors, const T* weights, int v,
                              int64_t from, int64_t to, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth, kSums = 4 / kVectors;
  Vec<T> sum[kSums][kVectors] = {};
  const T* entry = weights + v * kWidth;
  int64_t i = from;
  for (; i + kSums <= to; i += kSums) {
#pragma GCC unroll 4
    for (int k = 0; k < kSums; ++k, entry += matrix.num_tags) {
      const Vec<T> factor = Broadcast(factors[i + k]);
#pragma GCC unroll 4
      for (int w = 0; w < kVectors; ++w) sum[k][w] += factor * Load(entry + w * kWidth);
    }
  }
  for (; i < to; ++i, entry += matrix.num_tags) {
    const Vec<T> factor = Broadcast(factors[i]);
#pragma GCC unroll 4
    for (int w = 0; w < kVectors; ++w) sum[0][w] += factor * Load(entry + w * kWidth);
  }
#pragma GCC unroll 4
  for (int w = 0; w < kVectors; ++w) {
    Vec<T> total = sum[0][w];
#pragma GCC unroll 4
    for (int k = 1; k < kSums; ++k) total += sum[k][w];
    T* const to_sum = sums + (v + w) * kWidth;
    Store(to_sum, Load(to_sum) + total);
  }
}

// sums = factors times the matrix exp(scores - peak); `weights` has room for some rows, or, to keep
// it, for all.
template <typename T>
FASTKERAS_INLINE void ProductWith(const Matrix<T>& matrix, const T* factors, const T* scores,
                                  T peak, bool keep, T* weights, T* sums) {
  const int vectors = matrix.row.vectors;
  for (int v = 0; v < vectors; ++v) Store(sums + v * Simd<T>::kWidth, Vec<T>{});
  for (int64_t from = 0; from < matrix.num_tags; from += matrix.rows_at_once) {
    const int64_t most = from + matrix.rows_at_once;
    const int64_t to = most < matrix.num_tags ? most : matrix.num_tags;
    matrix.Exponentiate(scores, peak, from, to, weights);
    int v = 0;
    for (; v + 4 <= vectors; v += 4) AddRows<4>(matrix, factors, weights, v, from, to, sums);
    for (; v + 2 <= vectors; v += 2) AddRows<2>(matrix, factors, weights, v, from, to, sums);
    if (v < vectors) AddRows<1>(matrix, factors, weights, v, from, to, sums);
    if (keep) weights += (to - from) * matrix.num_tags;
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_MATRIX_H_
