// Viterbi in the (max, +) semiring. Scores are kept and pointers are not: the way back repeats the
// additions along the one path it takes.

#ifndef FASTKERAS_CRF_SWEEPS_VITERBI_H_
#define FASTKERAS_CRF_SWEEPS_VITERBI_H_

#include "crf/kernels.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/products.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The lowest index of the largest element of a row; `candidates` yields vector v. If one of them is
// NaN, the result may be any index of the row, but always one of the row, even if the search finds
// no element, or only padding of the last vector.
template <typename T, typename Candidates>
FASTKERAS_INLINE int32_t FirstBestOf(const Row<T>& shape, const Candidates& candidates) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto padded = [&](int v) FASTKERAS_LAMBDA_INLINE {
    return shape.Pad(v, candidates(v), -kInfinity);
  };
  Vec<T> best = padded(0);
  for (int v = 1; v < shape.vectors; ++v) best = Max(padded(v), best);
  const Vec<T> largest = Broadcast(Largest(best));
  for (int v = 0; v < shape.vectors; ++v) {
    const int lane = FirstEqual(padded(v), largest);
    const int64_t index = int64_t{v} * Simd<T>::kWidth + lane;
    if (lane < Simd<T>::kWidth) return index < shape.num_tags ? static_cast<int32_t>(index) : 0;
  }
  return 0;
}

template <typename T>
FASTKERAS_INLINE int32_t FirstBest(const Row<T>& shape, const T* a) {
  return FirstBestOf(shape, [&](int v) FASTKERAS_LAMBDA_INLINE { return shape.LoadVector(a, v); });
}

// The same for a[i] + b[i].
template <typename T>
FASTKERAS_INLINE int32_t FirstBest(const Row<T>& shape, const T* a, const T* b) {
  return FirstBestOf(shape, [&](int v) FASTKERAS_LAMBDA_INLINE {
    return shape.LoadVector(a, v) + shape.LoadVector(b, v);
  });
}

// Whether no score is NaN or +inf.
template <typename T>
bool AllSound(const T* scores, int64_t count) {
  constexpr int kWidth = Simd<T>::kWidth;
  Vec<T> zeros[4] = {};  // sums of x * 0, which is NaN for infinities and NaN
  int64_t k = 0;
  for (; k + 4 * kWidth <= count; k += 4 * kWidth) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) zeros[v] += Load(scores + k + v * kWidth) * T(0);
  }
  for (; k < count; k += kWidth) {
    const Vec<T> last =
        k + kWidth <= count ? Load(scores + k) : LoadFirst(scores + k, static_cast<int>(count - k));
    zeros[0] += last * T(0);
  }
  if (Sum(zeros[0] + zeros[1] + zeros[2] + zeros[3]) == 0) return true;
  bool sound = true;  // so far; a score of -inf is sound
  for (k = 0; k < count; ++k) sound &= scores[k] < std::numeric_limits<T>::infinity();
  return sound;
}

// Whether no score that a sequence uses is NaN or +inf.
template <typename T>
bool IsSound(const crf::Plan<T>& plan, int64_t sequence) {
  const crf::Chains<T>& chains = plan.chains;
  const int64_t count = plan.counts[sequence], num_tags = chains.num_tags;
  if (count == 0) return true;
  if (!plan.sound_ends || (count > 1 && !plan.sound_transitions)) return false;
  const T* emissions = chains.emissions + sequence * chains.steps * num_tags;
  for (int64_t s = 1; plan.chains.varies && s < count; ++s) {
    if (!AllSound(crf::TransitionsInto(plan, sequence, s), num_tags * num_tags)) return false;
  }
  if (!plan.step_index) return AllSound(emissions, count * num_tags);
  for (int64_t s = 0; s < count; ++s) {
    if (!AllSound(emissions + crf::StepAt(plan, sequence, s) * num_tags, num_tags)) return false;
  }
  return true;
}

// best[m][s][j], of all paths of sequence m that end in tag j at step s, for up to kMaxBlock sorted
// sequences that have any valid step.
template <typename T>
struct Trellis {
  // What is subtracted from the rows every now and then, so that scores stay near zero and keep
  // their digits. An integer keeps exact scores exact.
  static constexpr int64_t kPeriod = kChunk;

  int count = 0;
  bool suspicious;  // some emission is infinite or NaN, or another score NaN or +inf
  int64_t sequence[crf::kMaxBlock], steps[crf::kMaxBlock];
  T *best[crf::kMaxBlock], *subtracted[crf::kMaxBlock];  // subtracted[m][s / kPeriod]
};

// Sets plan.inexact of the sequences of the trellis that are not sound.
template <typename T>
void TellUnsound(const crf::Plan<T>& plan, const Trellis<T>& trellis) {
  for (int m = 0; m < trellis.count; ++m) {
    plan.inexact[trellis.sequence[m]] = trellis.suspicious && !IsSound(plan, trellis.sequence[m]);
  }
}

// How many elements of T the rows of the sorted sequences first..last-1 need, and the rows.
template <typename T>
int64_t TrellisSize(const crf::Plan<T>& plan, int64_t first, int64_t last) {
  int64_t size = 2 * plan.chains.num_tags;
  for (int64_t k = first; k < last; ++k) {
    const int64_t steps = plan.counts[plan.order[k]];
    size += steps * plan.chains.num_tags + steps / Trellis<T>::kPeriod;
  }
  return size;
}

template <typename T>
Trellis<T> FillTrellis(const crf::Plan<T>& plan, int64_t first, int64_t last, T* rows) {
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags;
  T* const idle = rows;  // rows that only fill up a group of rows
  for (int64_t k = 0; k < 2 * num_tags; ++k) idle[k] = 0;
  T* free = rows + 2 * num_tags;
  Trellis<T> trellis;
  const T *previous[crf::kMaxBlock], *emission[crf::kMaxBlock];
  T* current[crf::kMaxBlock];
  for (int m = 0; m < crf::kMaxBlock; ++m) {
    previous[m] = emission[m] = idle;
    current[m] = idle + num_tags;
    if (first + m >= last || plan.counts[plan.order[first + m]] == 0) continue;
    ++trellis.count;
    trellis.sequence[m] = plan.order[first + m];
    trellis.steps[m] = plan.counts[trellis.sequence[m]];
    trellis.best[m] = free;
    trellis.subtracted[m] = free + trellis.steps[m] * num_tags;
    free = trellis.subtracted[m] + trellis.steps[m] / Trellis<T>::kPeriod;
  }
  if (trellis.count == 0) return trellis;
  int active = trellis.count;
  Vec<T> zeros = {};  // sums of x * 0, which is NaN for infinities and NaN
  for (int64_t s = 0; s < trellis.steps[0]; ++s) {
    for (; trellis.steps[active - 1] <= s; --active) {
      previous[active - 1] = emission[active - 1] = idle;
      current[active - 1] = idle + num_tags;
    }
    for (int m = 0; m < active; ++m) {
      const int64_t b = trellis.sequence[m];
      emission[m] = chains.emissions + (b * chains.steps + crf::StepAt(plan, b, s)) * num_tags;
      current[m] = trellis.best[m] + s * num_tags;
    }
    if (s == 0) {
      for (int m = 0; m < active; ++m) {
        for (int v = 0; v < shape.vectors; ++v) {
          const Vec<T> x = shape.LoadVector(emission[m], v);
          shape.StoreVector(current[m], v, shape.LoadVector(chains.start_transitions, v) + x);
          zeros += x * T(0);
        }
      }
    } else {
      InRowGroups(active, [&](int m, auto group) FASTKERAS_LAMBDA_INLINE {
        RowsProduct<MaxPlus, decltype(group)::value>(
            previous + m, plan.weights, [&](int k, int v, Vec<T> reached) FASTKERAS_LAMBDA_INLINE {
              const Vec<T> x = shape.LoadVector(emission[m + k], v);
              shape.StoreVector(current[m + k], v, reached + x);
              zeros += x * T(0);
            });
      });
    }
    for (int m = 0; m < active; ++m) {
      if (s % Trellis<T>::kPeriod == Trellis<T>::kPeriod - 1) {
        T peak = -std::numeric_limits<T>::infinity();
        for (int64_t j = 0; j < num_tags; ++j) peak = current[m][j] > peak ? current[m][j] : peak;
        peak = peak - peak == 0 ? std::rint(peak) : 0;
        for (int64_t j = 0; j < num_tags; ++j) current[m][j] -= peak;
        trellis.subtracted[m][s / Trellis<T>::kPeriod] = peak;
      }
      previous[m] = current[m];
    }
  }
  trellis.suspicious = !(Sum(zeros) == 0 && plan.sound_transitions && plan.sound_ends);
  return trellis;
}

// For the sorted sequences first..last-1, at most kMaxBlock of them.
template <typename T>
void Viterbi(const crf::Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
             int32_t* tags) {
  const crf::Chains<T>& chains = plan.chains;
  const Row<T> shape(chains.num_tags);
  const int64_t num_tags = chains.num_tags;
  const Buffer<T> rows(TrellisSize(plan, first, last));
  const Trellis<T> trellis = FillTrellis(plan, first, last, rows.data);
  if (trellis.count == 0) return;
  TellUnsound(plan, trellis);
  int32_t tag[crf::kMaxBlock];
  for (int64_t s = trellis.steps[0] - 1; s >= 0; --s) {
    for (int m = 0; m < trellis.count && trellis.steps[m] > s; ++m) {
      const int64_t b = trellis.sequence[m];
      const T* leaving =
          s == trellis.steps[m] - 1 ? chains.end_transitions : transposed + tag[m] * num_tags;
      tag[m] = FirstBest(shape, trellis.best[m] + s * num_tags, leaving);
      tags[b * chains.steps + crf::StepAt(plan, b, s)] = tag[m];
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_VITERBI_H_
