// The way back where transitions vary, which writes the gradient of each step's matrix.

#ifndef FASTKERAS_CRF_VARYING_BACKWARD_H_
#define FASTKERAS_CRF_VARYING_BACKWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/varying/matrix.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Lane i is the sum of rows[i], for as many rows as a vector has lanes, which are overwritten: of
// two neighbours, the sums of each other piece and the next, and so on with smaller pieces.
template <typename T, int kPiece = Simd<T>::kWidth / 2>
FASTKERAS_INLINE Vec<T> SumsOfRows(Vec<T>* rows) {
  constexpr int kWidth = Simd<T>::kWidth;
  if constexpr (kPiece == 0) {
    return rows[0];
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < kPiece; ++i) {
      const Vec<T> a = rows[2 * i], b = rows[2 * i + 1];
      rows[i] = Shuffled<EverySecond<kWidth, kPiece, 0>>(a, b) +
                Shuffled<EverySecond<kWidth, kPiece, 1>>(a, b);
    }
    return SumsOfRows<T, kPiece / 2>(rows);
  }
}

// One step back: gradients of the transitions, and beta = W r, the sums of their rows before these
// are weighted. Where the gradient holds W, `exponentiated`, it is overwritten. Fetches the scores
// and the gradient that come `ahead` elements before: caches expect what comes after.
template <typename T>
FASTKERAS_INLINE void StepBack(const Matrix<T>& matrix, const T* scores, T peak, const T* before,
                               const T* r, T factor, int64_t ahead, bool exponentiated, T* weights,
                               T* beta, T* gradient) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = matrix.num_tags, area = num_tags * num_tags;
  const int vectors = matrix.row.vectors;
  for (int64_t from = 0; from < num_tags; from += matrix.rows_at_once) {
    const int64_t most = from + matrix.rows_at_once, to = most < num_tags ? most : num_tags;
    if (!exponentiated) matrix.Exponentiate(scores, peak, from, to, weights);
    const T* entry = exponentiated ? gradient + from * num_tags : weights;
    for (int64_t k = from * num_tags; ahead > 0 && k < to * num_tags; k += kWidth) {
      if (!exponentiated) __builtin_prefetch(scores + k - ahead);
      __builtin_prefetch(gradient + k - ahead, 1);
    }
    for (int64_t first = from; first < to; first += kWidth) {
      Vec<T> sums[kWidth];
      for (int64_t i = to - first; i < kWidth; ++i) sums[i] = Vec<T>{};
      for (int64_t i = first; i < first + kWidth && i < to; ++i, entry += num_tags) {
        const Vec<T> left = Broadcast(before[i] * factor);
        Vec<T> sum = {};
        for (int v = 0; v < vectors; ++v) {
          const Vec<T> pair = Load(entry + v * kWidth) * Load(r + v * kWidth);
          sum += pair;
          const int64_t k = i * num_tags + v * kWidth;
          // What goes past a row is overwritten by the next.
          if (k + kWidth <= area) {
            Store(gradient + k, pair * left);
          } else {
            StoreFirst(gradient + k, pair * left, static_cast<int>(area - k));
          }
        }
        sums[i - first] = sum;
      }
      Store(beta + first, SumsOfRows<T>(sums));
    }
  }
}

template <typename T>
void VaryingBackward(const crf::Plan<T>& plan, int64_t b, T factor, bool exponentiated,
                     T* d_emissions, T* d_transitions) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const Matrix<T> matrix(chains.num_tags);
  const Row<T>& shape = matrix.row;
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  const int64_t steps_ahead = 1 + 1024 / (num_tags * num_tags);
  const Buffer<T> room(2 * matrix.stride + matrix.room());
  T *const beta = room.data, *const r = beta + matrix.stride, *const weights = r + matrix.stride;
  const crf::KeptRows<T> kept(plan, b);
  for (int64_t s = steps - 1; s >= 0; --s) {
    const T *const alpha = kept.alpha + s * num_tags, *const emission =
                                                          kept.emission + s * num_tags;
    T correction = 1;
    if (s == steps - 1) {
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) totals += shape.LoadVector(alpha, v);
      const T first = 1 / Sum(totals);
      for (int v = 0; v < shape.vectors; ++v) {
        Store(beta + v * kWidth, shape.Pad(v, Broadcast(first), 0));
      }
    } else if (s % kChunk == 0) {  // the errors of many steps must not add up
      Vec<T> totals = {};
      for (int v = 0; v < shape.vectors; ++v) {
        const Vec<T> prefix = shape.LoadVector(alpha, v);
        totals += prefix > 0 ? prefix * Load(beta + v * kWidth) : Vec<T>{};
      }
      const T sum = Sum(totals);
      if (sum > T(0.5) && sum < T(2)) correction = 1 / sum;
    }
    const int64_t t = crf::StepAt(plan, b, s);
    for (int v = 0; v < shape.vectors; ++v) {
      const Vec<T> prefix = shape.LoadVector(alpha, v);
      // Of a tag that nothing reaches, the other may have grown without bound.
      const Vec<T> suffix = prefix > 0 ? Load(beta + v * kWidth) * correction : Vec<T>{};
      shape.StoreVector(d_emissions + t * num_tags, v, prefix * suffix * factor);
      Store(r + v * kWidth, shape.LoadVector(emission, v) * suffix);
    }
    if (s == 0) break;
    StepBack(matrix, crf::TransitionsInto(plan, b, s), kept.scale[s], alpha - num_tags, r, factor,
             s > steps_ahead ? steps_ahead * num_tags * num_tags : 0, exponentiated, weights, beta,
             crf::PairsInto(plan, b, s, d_transitions));
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_BACKWARD_H_
