// Viterbi, a lane for each sequence: the same additions in the same order as in viterbi.h, so the
// same tags.

#ifndef FASTKERAS_CRF_SWEEPS_LANES_VITERBI_H_
#define FASTKERAS_CRF_SWEEPS_LANES_VITERBI_H_

#include "crf/kernels.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_rows.h"
#include "crf/sweeps/viterbi.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The best scores of all steps of the lanes, (steps, vectors, kWidth), and whether all are sound.
template <int kSections, typename T>
bool FillLanes(const crf::Plan<T>& plan, const Lanes<T>& lanes, T* best) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  using Int = typename Simd<T>::Int;
  const int vectors = lanes.vectors, num_tags = lanes.num_tags;
  const int64_t row = int64_t{vectors} * kWidth;
  const Buffer<T> room((kLaneChunk + 1) * row);
  T *const begins = room.data, *const scores = begins + row;
  SpreadOverLanes(lanes, plan.chains.start_transitions, begins);
  Vec<T> zeros = {};  // sums of x * 0, which is NaN for infinities and NaN
  for (int64_t begin = 0; begin < lanes.steps; begin += kLaneChunk) {
    const int64_t end = lanes.steps < begin + kLaneChunk ? lanes.steps : begin + kLaneChunk;
    ReadEmissions(plan, lanes, begin, end, scores);
    for (int64_t s = begin; s < end; ++s) {
      const T* const x = scores + (s - begin) * row;
      T* const current = best + s * row;
      const Int live = lanes.Live(s);
      if (s == 0) {
        for (int v = 0; v < vectors; ++v) {
          const Vec<T> score = Load(x + v * kWidth);
          Store(current + v * kWidth, lanes.Pad(v, Load(begins + v * kWidth) + score, -kInfinity));
          zeros += live ? score * T(0) : Vec<T>{};
        }
      } else {
        LaneProduct<MaxPlus, kSections>(current - row, plan.lane_weights[kSections > 1], num_tags,
                                        vectors,
                                        [&](int v, Vec<T> reached) FASTKERAS_LAMBDA_INLINE {
                                          const Vec<T> score = Load(x + v * kWidth);
                                          Store(current + v * kWidth, reached + score);
                                          zeros += live ? score * T(0) : Vec<T>{};
                                        });
      }
      if (s % Trellis<T>::kPeriod == Trellis<T>::kPeriod - 1) {
        Vec<T> peak = Load(current);
        for (int v = 1; v < vectors; ++v) {
          peak = Max(lanes.Pad(v, Load(current + v * kWidth), -kInfinity), peak);
        }
        peak = MaxOfSections(lanes, peak);
        for (int lane = 0; lane < kWidth; ++lane) {
          peak[lane] = peak[lane] - peak[lane] == 0 ? std::rint(peak[lane]) : 0;
        }
        for (int v = 0; v < vectors; ++v) {
          Store(current + v * kWidth, Load(current + v * kWidth) - peak);
        }
      }
    }
  }
  return Sum(zeros) == 0 && plan.sound_transitions && plan.sound_ends;
}

// The lowest index i, in one lane, of the largest row[i] + leaving[i].
template <typename T>
FASTKERAS_INLINE int32_t BestInLane(const Lanes<T>& lanes, const T* row, const T* leaving) {
  constexpr int kWidth = Simd<T>::kWidth;
  T best = row[0] + leaving[0];
  int32_t tag = 0;
  const auto look = [&](int begin, int end, const T* section) FASTKERAS_LAMBDA_INLINE {
    for (int i = begin; i < end; ++i) {
      const T score = section[(i - begin) * kWidth] + leaving[i];
      tag = score > best ? i : tag;
      best = score > best ? score : best;
    }
  };
  for (int i = 0; i < lanes.num_tags; i += lanes.vectors) {
    const int end = i + lanes.vectors < lanes.num_tags ? i + lanes.vectors : lanes.num_tags;
    look(i, end, row + lanes.Place(i));
  }
  return tag;
}

// The way back of one lane after the other.
template <typename T>
FASTKERAS_INLINE void WalkBack(const crf::Plan<T>& plan, const Lanes<T>& lanes, const T* best,
                               const T* transposed, int32_t* tags) {
  const crf::Chains<T>& chains = plan.chains;
  const int64_t row = int64_t{lanes.vectors} * lanes.kWidth, num_tags = lanes.num_tags;
  int32_t tag[Lanes<T>::kWidth];
  for (int64_t s = lanes.steps - 1; s >= 0; --s) {
    for (int lane = 0; lane < lanes.count; ++lane) {
      if (s >= lanes.counts[lane]) continue;
      const int64_t b = lanes.sequence[lane];
      const T* leaving =
          s == lanes.counts[lane] - 1 ? chains.end_transitions : transposed + tag[lane] * num_tags;
      tag[lane] = BestInLane(lanes, best + s * row + lane, leaving);
      tags[b * chains.steps + crf::StepAt(plan, b, s)] = tag[lane];
    }
  }
}

#if defined(FASTKERAS_AVX512)
// Whether `LookBack` can look up a tag's score in a row of the transitions.
template <typename T>
bool CanLookBack(const Lanes<T>& lanes) {
  return lanes.num_tags <= (lanes.sections == 1 ? 2 : 1) * lanes.kWidth;
}

// The way back of all lanes at once.
template <int kSections, typename T>
void LookBack(const crf::Plan<T>& plan, const Lanes<T>& lanes, const T* best, int32_t* tags) {
  constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;
  typedef int32_t Narrow __attribute__((vector_size(4 * kWidth)));
  const int vectors = lanes.vectors;
  const int64_t row = int64_t{vectors} * kWidth, steps = plan.chains.steps;
  const int64_t size = int64_t{plan.weights.vectors} * kWidth;  // of a row of the transitions
  const Buffer<T> room(row);
  T* const finishes = room.data;
  SpreadOverLanes(lanes, plan.chains.end_transitions, finishes);
  int32_t found[kLaneChunk * kWidth];  // tags of a chunk of steps
  // Two rows are looked up at once: those of a first and of a second section.
  const Int second = ((lanes.first_tag / vectors) & 1) * kWidth;
  Int tag = {};
  int64_t next_end = lanes.EndBefore(lanes.steps);
  for (int64_t begin = (lanes.steps - 1) / kLaneChunk * kLaneChunk; begin >= 0;
       begin -= kLaneChunk) {
    const int64_t end = lanes.steps < begin + kLaneChunk ? lanes.steps : begin + kLaneChunk;
    for (int64_t s = end - 1; s >= begin; --s) {
      const T* const scores = best + s * row;
      const bool ending = s == next_end;
      const Int now = ending ? lanes.EndingAt(s) : Int{};
      if (ending) next_end = lanes.EndBefore(s);
      const Int index = kSections == 1 ? tag : tag + second;
      const auto candidate = [&](int v, Vec<T>& sum) FASTKERAS_LAMBDA_INLINE {
        const auto row_of = [&](int section) FASTKERAS_LAMBDA_INLINE {
          const int tag_of_section = v + section * vectors;
          return plan.weights.data + (tag_of_section < lanes.num_tags ? tag_of_section : v) * size;
        };
        // One row, which may have two vectors, or one for each section.
        const T *const low = row_of(0), *const high =
                                            kSections == 1 ? low + (size - kWidth) : row_of(1);
        Vec<T> leaving = LookUp(Load(low), Load(high), index);
        if constexpr (kSections == 4) {
          const Vec<T> others = LookUp(Load(row_of(2)), Load(row_of(3)), index);
          leaving = lanes.first_tag < 2 * vectors ? leaving : others;
        }
        if (ending) leaving = now ? Load(finishes + v * kWidth) : leaving;
        sum = Load(scores + v * kWidth) + leaving;
      };
      Vec<T> largest;
      candidate(0, largest);
      Int of_largest = {};
      for (int v = 1; v < vectors; ++v) {
        Vec<T> sum;
        candidate(v, sum);
        of_largest = sum > largest ? Int{} + v : of_largest;
        largest = Max(sum, largest);
      }
      if constexpr (kSections > 1) {  // of all sections the best, in all of them
        of_largest += lanes.first_tag;
        const auto take = [&](Vec<T> score, Int tag_of_score) FASTKERAS_LAMBDA_INLINE {
          const Int better = (score > largest) | ((score == largest) & (tag_of_score < of_largest));
          of_largest = better ? tag_of_score : of_largest;
          largest = better ? score : largest;
        };
        if constexpr (kSections == 4) take(SwappedQuarters(largest), SwappedQuarters(of_largest));
        take(SwappedHalves(largest), SwappedHalves(of_largest));
      }
      tag = of_largest;
      const Narrow narrow = __builtin_convertvector(tag, Narrow);
      std::memcpy(found + (s - begin) * kWidth, &narrow, sizeof(narrow));
    }
    for (int lane = 0; lane < lanes.count; ++lane) {
      const int64_t b = lanes.sequence[lane];
      const int64_t to = lanes.counts[lane] < end ? lanes.counts[lane] : end;
      for (int64_t s = begin; s < to; ++s) {
        tags[b * steps + crf::StepAt(plan, b, s)] = found[(s - begin) * kWidth + lane];
      }
    }
  }
}
#endif

// For the sorted sequences first..last-1, as many as a vector has lanes, or fewer.
template <typename T>
void ViterbiLanes(const crf::Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
                  int32_t* tags) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Lanes<T> lanes(plan, first, last);
  const int64_t row = int64_t{lanes.vectors} * kWidth;
  const Buffer<T> best(lanes.steps * row);
  const bool sound = lanes.sections == 1 ? FillLanes<1>(plan, lanes, best.data)
                                         : FillLanes<kSectionsOf<T>>(plan, lanes, best.data);
  for (int lane = 0; lane < lanes.count; ++lane) {
    plan.inexact[lanes.sequence[lane]] = !sound && !IsSound(plan, lanes.sequence[lane]);
  }
#if defined(FASTKERAS_AVX512)
  if (CanLookBack(lanes)) {
    lanes.sections == 1 ? LookBack<1>(plan, lanes, best.data, tags)
                        : LookBack<kSectionsOf<T>>(plan, lanes, best.data, tags);
    return;
  }
#endif
  WalkBack(plan, lanes, best.data, transposed, tags);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_VITERBI_H_
