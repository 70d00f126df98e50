// Viterbi in the (max, +) semiring. Scores are kept and pointers are not: the way back repeats the
// additions along the one path it takes.

#ifndef FASTKERAS_CRF_VITERBI_H_
#define FASTKERAS_CRF_VITERBI_H_

#include "crf/forward.h"
#include "crf/plan.h"
#include "crf/products.h"
#include "memory.h"
#include "simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The lowest index of the largest of a[i] + b[i].
template <typename T>
FASTKERAS_INLINE int32_t FirstBest(const Row<T>& shape, const T* a, const T* b) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto candidates = [&](int v) FASTKERAS_LAMBDA_INLINE {
    return shape.Pad(v, shape.LoadVector(a, v) + shape.LoadVector(b, v), -kInfinity);
  };
  Vec<T> best = candidates(0);
  for (int v = 1; v < shape.vectors; ++v) best = Max(candidates(v), best);
  const Vec<T> largest = Broadcast(Largest(best));
  for (int v = 0; v < shape.vectors; ++v) {
    const int lane = FirstEqual(candidates(v), largest);
    if (lane < Simd<T>::kWidth) return static_cast<int32_t>(v * Simd<T>::kWidth + lane);
  }
  return 0;  // NaN
}

// For the sorted sequences first..last-1, at most kMaxBlock of them.
template <typename T>
void Viterbi(const crf::Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
             int32_t* tags) {
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags;
  int count = 0;
  int64_t total = 0;
  for (; first + count < last && plan.counts[plan.order[first + count]] > 0; ++count) {
    total += plan.counts[plan.order[first + count]];
  }
  if (count == 0) return;
  const Buffer<T> rows((total + 2) * num_tags);
  T* const idle = rows.data;
  for (int64_t k = 0; k < 2 * num_tags; ++k) idle[k] = 0;

  int64_t sequence[crf::kMaxBlock], steps[crf::kMaxBlock];
  T* best[crf::kMaxBlock];  // best[m][s][j]: of all paths that end in tag j at step s
  const T *previous[crf::kMaxBlock], *emission[crf::kMaxBlock];
  T* current[crf::kMaxBlock];
  for (int m = 0; m < crf::kMaxBlock; ++m) {
    previous[m] = emission[m] = idle;
    current[m] = idle + num_tags;
    if (m >= count) continue;
    sequence[m] = plan.order[first + m];
    steps[m] = plan.counts[sequence[m]];
    best[m] = m == 0 ? idle + 2 * num_tags : best[m - 1] + steps[m - 1] * num_tags;
  }
  int active = count;
  for (int64_t s = 0; s < steps[0]; ++s) {
    for (; steps[active - 1] <= s; --active) {
      previous[active - 1] = emission[active - 1] = idle;
      current[active - 1] = idle + num_tags;
    }
    for (int m = 0; m < active; ++m) {
      const int64_t t = crf::StepAt(plan, sequence[m], s);
      emission[m] = chains.emissions + (sequence[m] * chains.steps + t) * num_tags;
      current[m] = best[m] + s * num_tags;
    }
    if (s == 0) {
      for (int m = 0; m < active; ++m) {
        for (int v = 0; v < shape.vectors; ++v) {
          shape.StoreVector(
              current[m], v,
              shape.LoadVector(chains.start_transitions, v) + shape.LoadVector(emission[m], v));
        }
      }
    } else {
      InRowGroups(active, [&](int m, auto group) FASTKERAS_LAMBDA_INLINE {
        RowsProduct<MaxPlus, decltype(group)::value>(
            previous + m, plan.weights, [&](int k, int v, Vec<T> reached) FASTKERAS_LAMBDA_INLINE {
              shape.StoreVector(current[m + k], v, reached + shape.LoadVector(emission[m + k], v));
            });
      });
    }
    for (int m = 0; m < active; ++m) {
      if (s % kChunk == kChunk - 1) {
        // Large scores lose digits: go on from near zero. An integer keeps exact scores exact.
        T peak = -std::numeric_limits<T>::infinity();
        for (int64_t j = 0; j < num_tags; ++j) peak = current[m][j] > peak ? current[m][j] : peak;
        if (peak - peak == 0) {
          peak = std::rint(peak);
          for (int64_t j = 0; j < num_tags; ++j) current[m][j] -= peak;
        }
      }
      previous[m] = current[m];
    }
  }

  int32_t tag[crf::kMaxBlock];
  for (int64_t s = steps[0] - 1; s >= 0; --s) {
    for (int m = 0; m < count && steps[m] > s; ++m) {
      const T* leaving =
          s == steps[m] - 1 ? chains.end_transitions : transposed + tag[m] * num_tags;
      tag[m] = FirstBest(shape, best[m] + s * num_tags, leaving);
      tags[sequence[m] * chains.steps + crf::StepAt(plan, sequence[m], s)] = tag[m];
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VITERBI_H_
