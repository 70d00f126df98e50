// The kernels of layers.h as compiled for one instruction set. Included once by each
// kernels_<set>.cc.

#include "word2vec/layers/layers.h"
#include "word2vec/losses.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

using word2vec::layers::Examples;
using word2vec::layers::Loss;

// S vectors, of which the last has `last` elements.
template <typename T, int S>
FASTKERAS_INLINE void LoadSlices(const T* from, int last, Vec<T>* slices) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int k = 0; k < S - 1; ++k) slices[k] = Load(from + k * kWidth);
  from += (S - 1) * kWidth;
  slices[S - 1] = last == kWidth ? Load(from) : LoadFirst(from, last);
}

// out = sum_i factor(i) row(i), slice by slice in registers; row(i) may be null.
template <typename T, int S, typename Row, typename Factor>
FASTKERAS_INLINE void SumSlices(const Row& row, const Factor& factor, int64_t count, int64_t at,
                                int last, T* out) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> sums[S] = {}, slices[S];
  for (int64_t i = 0; i < count; ++i) {
    const T* const from = row(i);
    if (from == nullptr) continue;
    LoadSlices<T, S>(from + at, last, slices);
    const Vec<T> f = Broadcast<T>(factor(i));
    for (int k = 0; k < S; ++k) sums[k] += f * slices[k];
  }
  for (int k = 0; k < S - 1; ++k) Store(out + at + k * kWidth, sums[k]);
  out += at + (S - 1) * kWidth;
  if (last == kWidth) {
    Store(out, sums[S - 1]);
  } else {
    StoreFirst(out, sums[S - 1], last);
  }
}

template <typename T, typename Row, typename Factor>
FASTKERAS_INLINE void SumOfRows(const Row& row, const Factor& factor, int64_t count, int64_t size,
                                T* out) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int64_t at = 0; at < size; at += 8 * kWidth) {
    const int64_t left = size - at;
    const int slices = left >= 8 * kWidth ? 8 : static_cast<int>((left + kWidth - 1) / kWidth);
    const int last =
        left >= 8 * kWidth ? kWidth : static_cast<int>(left - (slices - 1) * int64_t{kWidth});
    switch (slices) {
      case 1:
        return SumSlices<T, 1>(row, factor, count, at, last, out);
      case 2:
        return SumSlices<T, 2>(row, factor, count, at, last, out);
      case 3:
        return SumSlices<T, 3>(row, factor, count, at, last, out);
      case 4:
        return SumSlices<T, 4>(row, factor, count, at, last, out);
      case 5:
        return SumSlices<T, 5>(row, factor, count, at, last, out);
      case 6:
        return SumSlices<T, 6>(row, factor, count, at, last, out);
      case 7:
        return SumSlices<T, 7>(row, factor, count, at, last, out);
      default:
        SumSlices<T, 8>(row, factor, count, at, last, out);
    }
  }
}

template <typename T>
void PoolRows(const word2vec::layers::Pool<T>& pool, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* const places = pool.places + i * pool.contexts;
    const T* const weights = pool.weights == nullptr ? nullptr : pool.weights + i * pool.contexts;
    SumOfRows<T>(
        [&](int64_t c) FASTKERAS_LAMBDA_INLINE {
          return places[c] < 0 ? nullptr : pool.rows + places[c] * pool.size;
        },
        [&](int64_t c) FASTKERAS_LAMBDA_INLINE { return weights == nullptr ? T(1) : weights[c]; },
        pool.contexts, pool.size, pool.out + i * pool.size);
  }
}

template <typename T>
void SpreadRows(const word2vec::layers::Spread<T>& spread, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const int32_t* const order = spread.order + spread.starts[r];
    const int64_t count = spread.starts[r + 1] - spread.starts[r];
    const auto factor = [&](int64_t i) FASTKERAS_LAMBDA_INLINE {
      return spread.factors == nullptr ? T(1) : spread.factors[order[i]];
    };
    SumOfRows<T>(
        [&](int64_t i) FASTKERAS_LAMBDA_INLINE {
          return spread.upstream + order[i] / spread.columns * spread.size;
        },
        factor, count, spread.size, spread.out + r * spread.size);
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += factor(i);
    spread.sums[r] = sum;
  }
}

// x[j] = h . row(j) for J rows.
template <typename T, int J>
FASTKERAS_INLINE void DotRows(const T* h, const T* const* rows, int64_t size, T* x) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> sums[J] = {};
  int64_t s = 0;
  for (; s + kWidth <= size; s += kWidth) {
    const Vec<T> slice = Load(h + s);
    for (int j = 0; j < J; ++j) sums[j] += slice * Load(rows[j] + s);
  }
  if (s < size) {
    const int last = static_cast<int>(size - s);
    const Vec<T> slice = LoadFirst(h + s, last);
    for (int j = 0; j < J; ++j) sums[j] += slice * LoadFirst(rows[j] + s, last);
  }
  for (int j = 0; j < J; ++j) x[j] = Sum(sums[j]);
}

constexpr double kImpossible = -1e30;  // a logit whose exponential is exactly 0

// The softmax's loss; z becomes its gradient. z has room for whole vectors.
template <typename T>
FASTKERAS_INLINE double SoftmaxLoss(T* z, int64_t count) {
  constexpr int kWidth = Simd<T>::kWidth;
  T largest = z[0];
  for (int64_t j = 1; j < count; ++j) largest = z[j] > largest ? z[j] : largest;
  const double first = static_cast<double>(z[0]) - static_cast<double>(largest);
  for (int64_t j = 0; j < count; j += kWidth) {
    Store(z + j, Exp<T>(Load(z + j) - largest));
  }
  double others = 0;
  for (int64_t j = 1; j < count; ++j) others += static_cast<double>(z[j]);
  const double sum = static_cast<double>(z[0]) + others;
  // not p_0 - 1, which loses its digits where the target is almost certain
  z[0] = static_cast<T>(-others);
  const T share = static_cast<T>(1 / sum);
  for (int64_t j = 0; j < count; ++j) z[j] *= share;
  return word2vec::Log(sum) - first;
}

// The same for log(1 + exp(-z_0)) + sum_j log(1 + exp(z_j)).
template <typename T>
FASTKERAS_INLINE double LogisticLoss(T* z, int64_t count) {
  constexpr int kWidth = Simd<T>::kWidth;
  double linear = 0, product = 1, logarithms = 0;
  z[0] = -z[0];
  for (int64_t j = 0; j < count; j += kWidth) {
    const Vec<T> y = Load(z + j);
    const Vec<T> e = Exp<T>(y > 0 ? -y : y);
    const Vec<T> one = Broadcast<T>(1);
    T positive[kWidth], exponentials[kWidth];
    Store(positive, y > 0 ? y : Vec<T>{});
    Store(exponentials, e);
    Store(z + j, (y > 0 ? one : e) / (one + e));
    for (int k = 0; k < kWidth && j + k < count; ++k) {
      linear += static_cast<double>(positive[k]);
      product *= 1 + static_cast<double>(exponentials[k]);
    }
    if (product > 1e280) {  // each factor is at most 2
      logarithms += word2vec::Log(product);
      product = 1;
    }
  }
  z[0] = -z[0];
  return linear + logarithms + word2vec::Log(product);
}

template <typename T>
void LossOfExamples(const Examples<T>& batch, int64_t begin, int64_t end, T* z) {
  constexpr int kTile = 8;
  const int64_t n = batch.candidates, size = batch.size;
  for (int64_t i = begin; i < end; ++i) {
    const int32_t* const places = batch.places + i * n;
    const T* const h = batch.hidden + i * size;
    for (int64_t j = 0; j < n; j += kTile) {
      const T* rows[kTile];
      const int64_t tile = n - j < kTile ? n - j : kTile;
      for (int64_t k = 0; k < tile; ++k) rows[k] = batch.rows + places[j + k] * size;
      if (tile == kTile) {
        DotRows<T, kTile>(h, rows, size, z + j);
      } else {
        for (int64_t k = 0; k < tile; ++k) DotRows<T, 1>(h, rows + k, size, z + j + k);
      }
    }
    if (batch.bias != nullptr) {
      for (int64_t j = 0; j < n; ++j) z[j] += batch.bias[places[j]];
    }
    bool is_highest = true;  // compared without the correction
    for (int64_t j = 1; j < n; ++j) {
      if (places[j] == places[0]) {
        z[j] = static_cast<T>(kImpossible);
        continue;
      }
      is_highest = is_highest && z[0] > z[j];
      if (batch.offset != nullptr) z[j] += batch.offset[places[j]];
    }
    for (int64_t j = n; j < n + Simd<T>::kWidth; ++j) z[j] = static_cast<T>(kImpossible);
    batch.losses[i] = static_cast<T>(batch.loss == Loss::kSampledSoftmax ? SoftmaxLoss(z, n)
                                                                         : LogisticLoss(z, n));
    batch.hits[i] = is_highest ? 1 : 0;
    std::memcpy(batch.errors + i * n, z, static_cast<size_t>(n) * sizeof(T));
    SumOfRows<T>([&](int64_t j) FASTKERAS_LAMBDA_INLINE { return batch.rows + places[j] * size; },
                 [&](int64_t j) FASTKERAS_LAMBDA_INLINE { return z[j]; }, n, size,
                 batch.d_hidden + i * size);
  }
}

template <typename T>
constexpr word2vec::layers::Kernels<T> kLayerKernels = {PoolRows<T>, SpreadRows<T>,
                                                        LossOfExamples<T>};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::word2vec::layers {

FASTKERAS_EXPORT(float, kLayerKernels<float>)
FASTKERAS_EXPORT(double, kLayerKernels<double>)

}  // namespace fastkeras::word2vec::layers
