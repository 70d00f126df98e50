// The matrix of one step where transitions vary, exponentiated, and its product with a row.

#ifndef FASTKERAS_CRF_VARYING_MATRIX_H_
#define FASTKERAS_CRF_VARYING_MATRIX_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "machine/math.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// How the matrix of a step lies in memory. Rows follow one another without padding, so that a
// vector that begins in one row may end in the next; nothing past the matrix is touched.
template <typename T>
struct Matrix {
  static constexpr int kWidth = Simd<T>::kWidth;
  const Row<T> row, flat;
  const int64_t num_tags, area, stride;
  const int64_t whole_rows;  // the vectors of the first so many rows end within the matrix
  // The matrices of so many steps stay in the first cache. They are exponentiated before the first
  // of them is used: a load waits long for two stores that it takes a part of each. 0: not even one
  // does, and each is exponentiated some rows at a time, a multiple of a vector's lanes.
  const int64_t steps_at_once, rows_at_once;

  explicit Matrix(int64_t n)
      : row(n),
        flat(n * n),
        num_tags(n),
        area(n * n),
        stride(int64_t{row.vectors} * kWidth),
        whole_rows(area < stride ? 0 : (area - stride) / n + 1),
        steps_at_once(kInCache / area < kChunk ? kInCache / area : kChunk),
        rows_at_once(steps_at_once > 0    ? n
                     : n <= 1024 / kWidth ? 1024 / n / kWidth * kWidth
                                          : kWidth) {}

  // Elements of exponentials that are in use at once.
  int64_t room() const {
    return (steps_at_once > 0 ? steps_at_once * num_tags : rows_at_once) * num_tags;
  }

  // Vector v of row i, which begins at `from`; past the matrix, zeros.
  FASTKERAS_INLINE Vec<T> LoadOfRow(const T* from, int64_t i, int v) const {
    return i < whole_rows ? Load(from + v * kWidth) : row.LoadVector(from, v);
  }

  // The opposite, which may write into the rows that follow.
  FASTKERAS_INLINE void StoreOfRow(T* to, int64_t i, int v, Vec<T> value) const {
    if (i < whole_rows) {
      Store(to + v * kWidth, value);
    } else {
      row.StoreVector(to, v, value);
    }
  }
  // The largest of `sign` times a score.
  FASTKERAS_INLINE T Highest(const T* scores, T sign) const {
    Vec<T> highs[2] = {Broadcast(-kInfinity), Broadcast(-kInfinity)};
    int v = 0;
    for (; v + 2 < flat.vectors; v += 2) {
      highs[0] = Max(Load(scores + v * kWidth) * sign, highs[0]);
      highs[1] = Max(Load(scores + (v + 1) * kWidth) * sign, highs[1]);
    }
    for (; v < flat.vectors; ++v) {
      highs[0] = Max(flat.Pad(v, flat.LoadVector(scores, v) * sign, -kInfinity), highs[0]);
    }
    return Largest(Max(highs[0], highs[1]));
  }
  // The largest score; 0 where all are forbidden.
  FASTKERAS_INLINE T Peak(const T* scores) const {
    const T peak = Highest(scores, 1);
    return peak == -kInfinity ? 0 : peak;
  }
  FASTKERAS_SHARED T Range(const T* scores) const { return Peak(scores) + Highest(scores, -1); }

  // weights = exp(scores - peak), of so many.
  FASTKERAS_INLINE void Exponentiate(const T* scores, T peak, int64_t size, T* weights) const {
    int64_t k = 0;
    for (; k + kWidth <= size; k += kWidth) Store(weights + k, Exp<T>(Load(scores + k) - peak));
    if (k == size) return;
    const int left = static_cast<int>(size - k);
    StoreFirst(weights + k, Exp<T>(LoadFirst(scores + k, left) - peak), left);
  }
  // weights = exp(scores), or false where some of them are too large, or too low, to have no peak
  // taken out of them; NaN is as good as any number.
  FASTKERAS_INLINE bool ExponentiateSmall(const T* scores, int64_t size, T* weights) const {
    if (size < kWidth) return false;
    Vec<T> high = {};
    for (int64_t k = 0; k < size; k += kWidth) {  // the last ones may be taken twice
      const int64_t at = k + kWidth <= size ? k : size - kWidth;
      const Vec<T> x = Load(scores + at);
      high = Max(Max(x, -x), high);
      Store(weights + at, Exp<T>(x));
    }
    return Largest(high) <= crf::kSmallScore;
  }

 private:
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();
  static constexpr int64_t kInCache = 4096 / sizeof(T);
};

// out(w, the sum of the rows from..to-1 of the matrix, of which `weights` holds these, each times
// its factor) for kVectors vectors w from v on. Several sums of each are independent, since
// additions wait.
template <int kVectors, typename T, typename Out>
FASTKERAS_INLINE void SumVectors(const Matrix<T>& matrix, const T* factors, const T* weights, int v,
                                 int64_t from, int64_t to, const Out& out) {
  constexpr int kWidth = Simd<T>::kWidth, kSums = 4 / kVectors;
  Vec<T> sum[kSums][kVectors] = {};
  const T* entry = weights;
  const int64_t whole = to < matrix.whole_rows ? to : matrix.whole_rows;
  int64_t i = from;
  for (; i + kSums <= whole; i += kSums) {
#pragma GCC unroll 4
    for (int k = 0; k < kSums; ++k, entry += matrix.num_tags) {
      const Vec<T> factor = Broadcast(factors[i + k]);
#pragma GCC unroll 4
      for (int w = 0; w < kVectors; ++w) sum[k][w] += factor * Load(entry + (v + w) * kWidth);
    }
  }
  for (; i < to; ++i, entry += matrix.num_tags) {
    const Vec<T> factor = Broadcast(factors[i]);
#pragma GCC unroll 4
    for (int w = 0; w < kVectors; ++w) sum[0][w] += factor * matrix.LoadOfRow(entry, i, v + w);
  }
#pragma GCC unroll 4
  for (int w = 0; w < kVectors; ++w) {
    Vec<T> total = sum[0][w];
#pragma GCC unroll 4
    for (int k = 1; k < kSums; ++k) total += sum[k][w];
    out(v + w, total);
  }
}

// The same for all vectors.
template <typename T, typename Out>
FASTKERAS_INLINE void SumRows(const Matrix<T>& matrix, const T* factors, const T* weights,
                              int64_t from, int64_t to, const Out& out) {
  const int vectors = matrix.row.vectors;
  int v = 0;
  for (; v + 4 <= vectors; v += 4) SumVectors<4>(matrix, factors, weights, v, from, to, out);
  for (; v + 2 <= vectors; v += 2) SumVectors<2>(matrix, factors, weights, v, from, to, out);
  if (v < vectors) SumVectors<1>(matrix, factors, weights, v, from, to, out);
}

// sums = factors times the exponentials of the scores less the peak. `weights` has room for some
// rows of them, or, to `keep` them, for all.
template <typename T>
FASTKERAS_INLINE void ProductWithScores(const Matrix<T>& matrix, const T* factors, const T* scores,
                                        T peak, bool keep, T* weights, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = matrix.num_tags;
  for (int v = 0; v < matrix.row.vectors; ++v) Store(sums + v * kWidth, Vec<T>{});
  for (int64_t from = 0; from < num_tags; from += matrix.rows_at_once) {
    const int64_t most = from + matrix.rows_at_once, to = most < num_tags ? most : num_tags;
    matrix.Exponentiate(scores + from * num_tags, peak, (to - from) * num_tags, weights);
    SumRows(matrix, factors, weights, from, to, [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
      Store(sums + v * kWidth, Load(sums + v * kWidth) + sum);
    });
    if (keep) weights += (to - from) * num_tags;
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_MATRIX_H_
