// The best and the k best paths where transitions vary.

#ifndef FASTKERAS_CRF_VARYING_PATHS_H_
#define FASTKERAS_CRF_VARYING_PATHS_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/k_best.h"
#include "crf/sweeps/viterbi.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Fills the rows of a trellis of one sequence (viterbi.h), or else, where `rows` is null, the last
// row alone, `last`; and, if they are asked for, the tag before each tag on its best path: those of
// step s in pointers[s * vectors]. `subtracted` and `last` have room for a trellis' and two whole
// rows.
template <bool kPointers, typename T>
Trellis<T> FillVaryingTrellis(const crf::Plan<T>& plan, int64_t b, T* rows, T* subtracted, T* last,
                              typename Simd<T>::Int* pointers) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  const int64_t stride = int64_t{shape.vectors} * kWidth;
  Trellis<T> trellis;
  trellis.count = 1;
  trellis.sequence[0] = b;
  trellis.steps[0] = steps;
  trellis.best[0] = rows;
  trellis.subtracted[0] = subtracted;
  const T* const emissions = chains.emissions + b * chains.steps * num_tags;
  // Sums of x * 0, which is NaN of +inf and NaN; -inf, which is sound, is taken as a finite score.
  Vec<T> zeros = {};
  const Vec<T> finite = Broadcast(std::numeric_limits<T>::lowest());
  const auto watch = [&](Vec<T> x) FASTKERAS_LAMBDA_INLINE { zeros += Max(finite, x) * T(0); };
  for (int64_t s = 0; s < steps; ++s) {
    T *const row = last + (steps - 1 - s) % 2 * stride, *const before =
                                                            last + (steps - s) % 2 * stride;
    const T* const x = emissions + crf::StepAt(plan, b, s) * num_tags;
    const T* const into = s > 0 ? crf::TransitionsInto(plan, b, s) : nullptr;
    for (int v = 0; v < shape.vectors; ++v) {
      Vec<T> best = s > 0 ? Broadcast(-kInfinity) : shape.LoadVector(chains.start_transitions, v);
      Int from = {};
      for (int64_t i = 0; s > 0 && i < num_tags; ++i) {
        const Vec<T> way = shape.LoadVector(into + i * num_tags, v);
        const Vec<T> score = way + before[i];
        if constexpr (kPointers) {
          const auto better = score > best;
          from = better ? Int{} + static_cast<decltype(+from[0])>(i) : from;
          best = better ? score : best;
        } else {
          best = Max(best, score);
        }
        watch(way);
      }
      const Vec<T> emission = shape.LoadVector(x, v);
      Store(row + v * kWidth, best + emission);
      watch(emission);
      if constexpr (kPointers) pointers[s * shape.vectors + v] = from;
    }
    if (s % Trellis<T>::kPeriod == Trellis<T>::kPeriod - 1) {
      T peak = -kInfinity;
      for (int64_t j = 0; j < num_tags; ++j) peak = row[j] > peak ? row[j] : peak;
      peak = peak - peak == 0 ? std::rint(peak) : 0;
      for (int v = 0; v < shape.vectors; ++v) {
        Store(row + v * kWidth, Load(row + v * kWidth) - peak);
      }
      subtracted[s / Trellis<T>::kPeriod] = peak;
    }
    for (int v = 0; rows && v < shape.vectors; ++v) {
      shape.StoreVector(rows + s * num_tags, v, Load(row + v * kWidth));
    }
  }
  trellis.suspicious = !(Sum(zeros) == 0 && plan.sound_ends);
  return trellis;
}

template <typename T>
void VaryingViterbi(const crf::Plan<T>& plan, int64_t b, int32_t* tags) {
  using Int = typename Simd<T>::Int;
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t steps = plan.counts[b];
  const int64_t stride = int64_t{shape.vectors} * Simd<T>::kWidth;
  const Buffer<T> room(2 * stride + steps / Trellis<T>::kPeriod);
  const Buffer<Int> pointers(steps * shape.vectors);
  const auto trellis = FillVaryingTrellis<true, T>(plan, b, nullptr, room.data + 2 * stride,
                                                   room.data, pointers.data);
  TellUnsound(plan, trellis);
  int32_t tag = FirstBest(shape, room.data, chains.end_transitions);
  for (int64_t s = steps - 1; s >= 0; --s) {
    tags[b * chains.steps + crf::StepAt(plan, b, s)] = tag;
    if (s > 0) {
      const Int* const of_step = pointers.data + s * shape.vectors;
      tag = static_cast<int32_t>(of_step[tag / Simd<T>::kWidth][tag % Simd<T>::kWidth]);
    }
  }
}

// As for plain transitions (k_best.h), with a transposed copy of every step's matrix.
template <typename T>
void VaryingKBest(const crf::Plan<T>& plan, int64_t b, int64_t k, int32_t* tags, int64_t* found) {
  const int64_t num_tags = plan.chains.num_tags, steps = plan.counts[b];
  const int64_t stride = (num_tags + Simd<T>::kWidth - 1) / Simd<T>::kWidth * Simd<T>::kWidth;
  const Buffer<T> room(2 * stride + steps * num_tags + steps / Trellis<T>::kPeriod);
  T* const rows = room.data + 2 * stride;
  const auto trellis =
      FillVaryingTrellis<false, T>(plan, b, rows, rows + steps * num_tags, room.data, nullptr);
  TellUnsound(plan, trellis);
  if (plan.inexact[b]) return;
  const Buffer<T> transposed((steps - 1) * num_tags * num_tags);
  for (int64_t s = 1; s < steps; ++s) {
    const T* const into = crf::TransitionsInto(plan, b, s);
    T* const out = transposed.data + (s - 1) * num_tags * num_tags;
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) out[j * num_tags + i] = into[i * num_tags + j];
    }
  }
  PathLists<T> lists(plan, transposed.data, steps, k);
  lists.Search(trellis, 0, k, tags, found);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_VARYING_PATHS_H_
