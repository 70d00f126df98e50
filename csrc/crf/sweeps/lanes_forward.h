// The forward sweep in the scaled domain, a lane for each sequence.

#ifndef FASTKERAS_CRF_SWEEPS_LANES_FORWARD_H_
#define FASTKERAS_CRF_SWEEPS_LANES_FORWARD_H_

#include "crf/kernels.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_reversed.h"
#include "crf/sweeps/lanes_rows.h"
#include "crf/sweeps/watch.h"
#include "machine/math.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Where the rows of the sorted sequences from `first` on begin in the workspace.
template <typename T>
struct LaneRows {
  T *alpha, *emission, *scale;  // scale: (periods, count)
  int64_t step;                 // elements of a step

  LaneRows(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t first)
      : alpha(plan.workspace + first * plan.workspace_area),
        emission(alpha + lanes.steps * lanes.num_tags * lanes.count),
        scale(emission + lanes.steps * lanes.num_tags * lanes.count),
        step(int64_t{lanes.num_tags} * lanes.count) {}
};

// The exponent of a sum of a row, as a number, and 2^-exponent; clipped so that both are normal.
template <typename T>
FASTKERAS_INLINE typename Simd<T>::Int ExponentOf(Vec<T> total, Vec<T>& power) {
  using Int = typename Simd<T>::Int;
  constexpr int kMantissa = ExpConstants<T>::kMantissa;
  constexpr int kBias = sizeof(T) == 4 ? 127 : 1023, kMost = sizeof(T) == 4 ? 120 : 1000;
  Int exponent, bits;
  std::memcpy(&bits, &total, sizeof(bits));
  exponent = (bits >> kMantissa) - kBias;
  exponent = exponent < -kMost ? Int{} - kMost : exponent > kMost ? Int{} + kMost : exponent;
  bits = (kBias - exponent) << kMantissa;
  std::memcpy(&power, &bits, sizeof(power));
  return exponent;
}

// What a lane had at its last step.
template <typename T>
struct LaneEnds {
  T total[Simd<T>::kWidth];
  int64_t exponent[Simd<T>::kWidth];
  double peaks[Simd<T>::kWidth];
};

// The emissions of the steps begin..end-1 below their peaks, exponentiated, which needs no step to
// wait for the one before: from the rows of `scores` into those of `emissions`, which may be the
// same. `edges` has the scores of a start and of an end. Adds the peaks up.
template <typename T>
FASTKERAS_INLINE void ScaleEmissions(const Lanes<T>& lanes, int64_t begin, int64_t end,
                                     const T* edges, T* scores, T* emissions, double* peaks,
                                     LaneEnds<T>& ends) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  using Int = typename Simd<T>::Int;
  const int vectors = lanes.vectors;
  const int64_t row = int64_t{vectors} * kWidth;
  int64_t next_end = lanes.NextEnd(begin);
  for (int64_t s = begin; s < end; ++s, scores += row, emissions += row) {
    for (int v = 0; s == 0 && v < vectors; ++v) {
      Store(scores + v * kWidth, Load(scores + v * kWidth) + Load(edges + v * kWidth));
    }
    if (s == next_end) {
      const Int now = lanes.EndingAt(s);
      for (int v = 0; v < vectors; ++v) {
        const Vec<T> score = Load(scores + v * kWidth);
        Store(scores + v * kWidth, now ? score + Load(edges + row + v * kWidth) : score);
      }
    }
    Vec<T> peak = lanes.Pad(0, Load(scores), -kInfinity);
    for (int v = 1; v < vectors; ++v) {
      peak = Max(lanes.Pad(v, Load(scores + v * kWidth), -kInfinity), peak);
    }
    peak = MaxOfSections(lanes, peak);
    peak = peak == -kInfinity ? Vec<T>{} : peak;
    for (int v = 0; v < vectors; ++v) {
      const Vec<T> below = lanes.Pad(v, Load(scores + v * kWidth) - peak, -kInfinity);
      Store(emissions + v * kWidth, Exp<T>(below));
    }
    if (s >= lanes.shortest) {  // a lane that has ended has zeros only, so that no NaN arises
      const Int live = lanes.Live(s);
      for (int v = 0; v < vectors; ++v) {
        Store(emissions + v * kWidth, live ? Load(emissions + v * kWidth) : Vec<T>{});
      }
    }
    for (int lane = 0; lane < kWidth; ++lane) peaks[lane] += peak[lane];
    if (s != next_end) continue;
    for (int lane = 0; lane < lanes.count; ++lane) {
      if (lanes.counts[lane] - 1 == s) ends.peaks[lane] = peaks[lane];
    }
    next_end = lanes.NextEnd(s + 1);
  }
}

template <bool kWatched, int kSections, typename T>
void SweepLanes(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t first, Watched<T>* watched,
                LaneEnds<T>& ends) {
  constexpr int kWidth = Simd<T>::kWidth;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  using Int = typename Simd<T>::Int;
  const int vectors = lanes.vectors, num_tags = lanes.num_tags;
  const int64_t row = int64_t{vectors} * kWidth;
  const bool keeps = plan.workspace != nullptr, direct = keeps && lanes.fills_vectors();
  const LaneRows<T> kept(plan, lanes, keeps ? first : 0);
  // Without a workspace a few rows are kept; with a watch, those since the last look.
  constexpr int kRows = kWatched ? 16 : 2;
  const Buffer<T> room((kLaneChunk + 2 + kRows) * row);
  T* const scores = room.data;                 // of a chunk of steps
  T* const edges = scores + kLaneChunk * row;  // two rows
  T* const alphas = edges + 2 * row;           // kRows
  SpreadOverLanes(lanes, plan.chains.start_transitions, edges);
  SpreadOverLanes(lanes, plan.chains.end_transitions, edges + row);
  const T* const matrix = plan.lane_weights[kSections > 1];
  const Buffer<uint64_t> sets(kWatched ? 3 * plan.words : 0);

  double peaks[kWidth] = {};
  Int exponents = {};
  int64_t next_end = lanes.NextEnd(0), until_rescaled = plan.period;
  Vec<T> power = Broadcast(T(1));                     // by which the row was multiplied last
  const T *previous = nullptr, *looked_at = nullptr;  // the row of the last look
  int64_t last_look = -1;
  for (int64_t begin = 0; begin < lanes.steps; begin += kLaneChunk) {
    const int64_t end = lanes.steps < begin + kLaneChunk ? lanes.steps : begin + kLaneChunk;
    if (IsReversedBlock(plan, lanes, end)) {
      ReadReversed(plan, lanes, begin, end, scores);
    } else {
      ReadEmissions(plan, lanes, begin, end, scores);
    }
    T* const emissions = direct ? kept.emission + begin * row : scores;
    ScaleEmissions(lanes, begin, end, edges, scores, emissions, peaks, ends);
    for (int64_t s = begin; s < end; ++s) {
      const bool ending = s == next_end;
      const T* const emission = emissions + (s - begin) * row;
      T* const alpha = direct ? kept.alpha + s * row : alphas + (s & (kRows - 1)) * row;
      if (s == 0) {
        for (int v = 0; v < vectors; ++v) {
          Store(alpha + v * kWidth, Load(emission + v * kWidth));
        }
      } else {
        LaneProduct<SumProduct, kSections>(
            previous, matrix, num_tags, vectors, [&](int v, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
              Store(alpha + v * kWidth, sum * Load(emission + v * kWidth));
            });
      }
      const bool rescale = --until_rescaled == 0;
      Vec<T> total = {};
      if (rescale || ending) {
        total = SumOfTags(lanes, alpha);
        if constexpr (kWatched) {
          // What was lost before a row was scaled up grew with it.
          const Vec<T> safe = plan.safe * (power > 1 ? power : Broadcast(T(1)));
          const Int now = lanes.EndingAt(s), looked = rescale ? lanes.Live(s) : now;
          Vec<T> least = Broadcast(kInfinity);
          for (int v = 0; v < vectors; ++v) {
            Vec<T> element = lanes.Pad(v, Load(alpha + v * kWidth), kInfinity);
            if (ending) {  // what must not be the last tag is zero for good reason
              const Vec<T> end = now ? Load(edges + row + v * kWidth) : Vec<T>{};
              element = end == -kInfinity ? Broadcast(kInfinity) : element;
            }
            least = element < least ? element : least;
          }
          if (AnyLess(looked ? least : Broadcast(kInfinity), safe)) {
            for (int lane = 0; lane < lanes.count; ++lane) {
              if (!looked[lane] || watched[lane].inexact) continue;
              watched[lane].inspected = last_look;
              Inspect(
                  plan, s, [&](int64_t j) { return looked_at[lanes.Place(j) + lane]; },
                  [&](int64_t j) { return alpha[lanes.Place(j) + lane]; }, safe[lane], sets.data,
                  watched[lane]);
            }
          }
        }
      }
      if (ending) {
        for (int lane = 0; lane < lanes.count; ++lane) {
          if (lanes.counts[lane] - 1 != s) continue;
          ends.total[lane] = total[lane];
          ends.exponent[lane] = exponents[lane];
        }
        next_end = lanes.NextEnd(s + 1);
      }
      if (rescale) {
        until_rescaled = plan.period;
        const Int exponent = ExponentOf<T>(total, power);
        power = total > 0 ? power : Broadcast(T(1));
        exponents += total > 0 ? exponent : Int{};
        if (keeps) StoreFirst(kept.scale + s / plan.period * lanes.count, power, lanes.count);
        for (int v = 0; v < vectors; ++v) {
          Store(alpha + v * kWidth, Load(alpha + v * kWidth) * power);
        }
        if constexpr (kWatched) looked_at = alpha, last_look = s;
      }
      if (keeps && !direct) {
        StoreNarrow(lanes, emission, kept.emission + s * kept.step);
        StoreNarrow(lanes, alpha, kept.alpha + s * kept.step);
      }
      previous = alpha;
    }
  }
}

// Sets the rows of a lane to 0, so that the backward sweep meets no NaN.
template <typename T>
void ClearLane(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t first, int lane) {
  const LaneRows<T> kept(plan, lanes, first);
  for (int j = 0; j < lanes.num_tags; ++j) {
    const int64_t place = lanes.fills_vectors() ? lanes.Place(j) : j * int64_t{lanes.count};
    for (int64_t s = 0; s < lanes.steps; ++s) {
      kept.alpha[s * kept.step + place + lane] = kept.emission[s * kept.step + place + lane] = 0;
    }
  }
}

// For the sorted sequences first..last-1, as many as a vector has lanes, or fewer.
template <typename T>
void ForwardLanes(const crf::Plan<T>& plan, int64_t first, int64_t last, double* value) {
  constexpr int kWidth = Simd<T>::kWidth;
  const Lanes<T> lanes(plan, first, last);
  Watched<T> watched[kWidth];
  for (int lane = 0; lane < lanes.count; ++lane) {
    watched[lane] = {lanes.sequence[lane], lanes.counts[lane], -1, plan.forbidden_gap, false};
  }
  LaneEnds<T> ends;
  if (plan.watched) {
    lanes.sections == 1 ? SweepLanes<true, 1>(plan, lanes, first, watched, ends)
                        : SweepLanes<true, kSectionsOf<T>>(plan, lanes, first, watched, ends);
  } else {
    lanes.sections == 1 ? SweepLanes<false, 1>(plan, lanes, first, watched, ends)
                        : SweepLanes<false, kSectionsOf<T>>(plan, lanes, first, watched, ends);
  }
  for (int lane = 0; lane < lanes.count; ++lane) {
    crf::Finish(plan, watched[lane].sequence, std::log(static_cast<double>(ends.total[lane])),
                ends.exponent[lane], ends.peaks[lane], watched[lane].gap, watched[lane].inexact,
                value);
    const bool inexact = plan.inexact[watched[lane].sequence];
    if (inexact && plan.workspace) ClearLane(plan, lanes, first, lane);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_FORWARD_H_
