// The steps of the gold path, after a forward sweep over chains whose steps are reversed
// (weighted.cc). That sweep's rows are a_t = E_t * b_t * 2^-k, with b_t[j] the sum of all that may
// follow tag j, and b_{t-1} = W a_t; so p(y_t | y_{t-1}) = W[y_{t-1}, y_t] a_t[y_t] /
// b_{t-1}[y_{t-1}].

#ifndef FASTKERAS_CRF_SWEEPS_GOLD_H_
#define FASTKERAS_CRF_SWEEPS_GOLD_H_

#include "crf/kernels.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_forward.h"
#include "machine/math.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Where the rows of one sequence are in the workspace, with or without a lane for each sequence.
template <typename T>
struct GoldRows {
  const T *alpha, *emission;
  int64_t step, tag;      // elements from one step, or tag, to the next
  int64_t tags, section;  // tags of the first section of lanes, and where the second one begins
  const T* scales;        // of each step, or in lanes of each period
  int64_t scale, period;  // elements from one scale to the next; period 0: of each step

  FASTKERAS_INLINE int64_t Place(int64_t s, int64_t j) const {
    return s * step + (j < tags ? j * tag : (j - tags) * tag + section);
  }
  // By what the row of a step was multiplied, beside its emissions.
  FASTKERAS_INLINE T ScaleOf(int64_t s) const {
    if (period == 0) return scales[s];
    return s % period == period - 1 ? scales[s / period * scale] : T(1);
  }
  // By what the row that was rescaled last, up to this step, was multiplied.
  FASTKERAS_INLINE T LastScale(int64_t s, int64_t plan_period) const {
    if (period == 0) return scales[s / plan_period * plan_period];
    return s + 1 < period ? T(1) : scales[((s + 1) / period - 1) * scale];
  }
};

// One step whose gold tag is so far behind that its elements underflowed: the sum of what may
// follow it is computed anew, and the log of its element put together of logs.
template <typename T>
void GoldFarBehind(const crf::Plan<T>& plan, const GoldRows<T>& rows, int64_t b, int64_t s,
                   int64_t j, double* suffix, double* log_reached) {
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags;
  const T* x = chains.emissions + (b * chains.steps + crf::StepAt(plan, b, s)) * num_tags;
  const auto score = [&](int64_t k) {
    T sum = x[k];
    if (s == 0) sum += chains.start_transitions[k];
    if (s == plan.counts[b] - 1) sum += chains.end_transitions[k];
    return sum;
  };
  T peak = score(0);
  for (int64_t k = 1; k < num_tags; ++k) peak = score(k) > peak ? score(k) : peak;
  *suffix = s == 0 ? 1 : 0;
  for (int64_t i = 0; s > 0 && i < num_tags; ++i) {
    *suffix += static_cast<double>(rows.alpha[rows.Place(s - 1, i)]) *
               crf::EntryOf(plan.weights, Simd<T>::kWidth, i, j);
  }
  *log_reached = static_cast<double>(score(j)) - peak +
                 std::log(static_cast<double>(rows.ScaleOf(s))) + std::log(*suffix);
}

// Writes log_p and suffixes of the valid steps s of one sequence; `room` is for twice as many.
template <typename T>
void GoldOfSequence(const crf::Plan<T>& plan, const GoldRows<T>& rows, int64_t b,
                    const int32_t* tags, double* room, double* log_p, T* suffixes) {
  constexpr double kTiny = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
  constexpr int kWidth = Simd<double>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  tags += b * chains.steps;
  double *const reached = room, *const suffix = room + steps;
  bool far_behind = false;
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t place = rows.Place(s, tags[crf::StepAt(plan, b, s)]);
    const double element = rows.alpha[place];
    const double factor = static_cast<double>(rows.emission[place]) * rows.ScaleOf(s);
    const bool whole = element > kTiny && rows.emission[place] > static_cast<T>(kTiny);
    far_behind |= !whole;
    reached[s] = whole ? element : 1;
    suffix[s] = whole ? factor : 0;
  }
  double total = 0;
  for (int64_t j = 0; j < num_tags; ++j) total += rows.alpha[rows.Place(steps - 1, j)];
  for (int64_t s = 0; s < steps; s += kWidth) {
    const int here = steps - s < kWidth ? static_cast<int>(steps - s) : kWidth;
    const Vec<double> element = LoadFirst(reached + s, here), factor = LoadFirst(suffix + s, here);
    const Vec<double> after = element / factor;
    const auto whole = factor > 0;
    StoreFirst(suffix + s, after, here);
    StoreFirst(reached + s, LogOfPositive(whole ? element : Broadcast(1.0)), here);
    StoreFirst(log_p + s, LogOfPositive(whole ? after : Broadcast(1.0)), here);
  }
  for (int64_t s = 0; far_behind && s < steps; ++s) {
    if (suffix[s] < std::numeric_limits<double>::infinity()) continue;
    GoldFarBehind(plan, rows, b, s, tags[crf::StepAt(plan, b, s)], suffix + s, reached + s);
    log_p[s] = std::log(suffix[s]);
  }
  // What a look at every element would find only at the next rescaling (watch.h) is seen here.
  for (int64_t s = 1; plan.watched && s < steps; ++s) {
    const T last = rows.LastScale(s, plan.period), before = rows.LastScale(s - 1, plan.period);
    const T scaled_up = last > before ? last : before;
    const double safe = static_cast<double>(plan.safe) * (scaled_up > 1 ? scaled_up : T(1));
    if (!(suffix[s] >= safe)) plan.inexact[b] = true;
  }
  const double log_total = std::log(total);
  int64_t tag = tags[crf::StepAt(plan, b, 0)];
  for (int64_t s = 0; s < steps; ++s) {
    suffixes[s] = static_cast<T>(suffix[s]);
    double log_of_all = log_total, transition = 0;
    if (s + 1 < steps) {
      const int64_t before = tags[crf::StepAt(plan, b, s + 1)];
      transition = static_cast<double>(chains.transitions[tag * num_tags + before]) - plan.peak;
      log_of_all = log_p[s + 1];
      tag = before;
    }
    const double log = transition + reached[s] - log_of_all;
    log_p[s] = log < 0 ? log : log != log ? log : 0;  // above 0 by rounding only
  }
}

// For the sorted sequences first..last-1, after `forward` or, with `lanes`, `forward_lanes`: by
// position in the batch and valid step, log_p (batch, steps) and suffixes (batch, steps).
template <typename T>
void GoldSteps(const crf::Plan<T>& plan, bool in_lanes, int64_t first, int64_t last,
               const int32_t* tags, double* log_p, T* suffixes) {
  const int64_t num_tags = plan.chains.num_tags, steps = plan.chains.steps;
  const Buffer<double> room(2 * plan.counts[plan.order[first]]);
  const auto compute = [&](const GoldRows<T>& rows, int64_t b) {
    GoldOfSequence(plan, rows, b, tags, room.data, log_p + b * steps, suffixes + b * steps);
  };
  if (!in_lanes) {
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      if (plan.counts[b] == 0 || plan.inexact[b]) continue;
      const crf::KeptRows<T> kept(plan, k);
      compute({kept.alpha, kept.emission, num_tags, 1, num_tags, 0, kept.scale, 1, 0}, b);
    }
    return;
  }
  const Lanes<T> lanes(plan, first, last);
  const LaneRows<T> kept(plan, lanes, first);
  const bool whole = lanes.fills_vectors();
  const int64_t tag = whole ? lanes.kWidth : lanes.count;
  const int64_t tags_of_section = whole ? lanes.vectors : num_tags;
  for (int lane = 0; lane < lanes.count; ++lane) {
    const int64_t b = lanes.sequence[lane];
    if (plan.inexact[b]) continue;
    compute({kept.alpha + lane, kept.emission + lane, kept.step, tag, tags_of_section,
             lanes.kWidth / 2, kept.scale + lane, lanes.count, plan.period},
            b);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_GOLD_H_
