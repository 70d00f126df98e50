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
  int64_t step;           // elements from one to the next
  const int32_t* places;  // of the tags, in a step
  const T* scales;        // of each step, or in lanes of each period
  int64_t scale, period;  // elements from one scale to the next; period 0: of each step

  FASTKERAS_INLINE int64_t Place(int64_t s, int64_t j) const { return s * step + places[j]; }
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

// Writes what GoldSteps does of one sequence; `room` is for two numbers a step, and one.
template <typename T>
void GoldOfSequence(const crf::Plan<T>& plan, const GoldRows<T>& rows, int64_t b,
                    const int32_t* tags, const T* weights, double* room, double* value, T* log_p,
                    T* inverses) {
  constexpr T kTiny = std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr int kWidth = Simd<double>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags, steps = plan.counts[b];
  double *const logs = room, *const inverse = room + steps;  // of what may follow
  bool far_behind = false;
  int64_t until_scaled = rows.period;
  const T* scales = rows.scales;
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t place = rows.Place(s, tags[crf::StepAt(plan, b, s)]);
    T scale = 1;
    if (rows.period == 0 || --until_scaled == 0) {
      scale = *scales;
      scales += rows.scale;
      until_scaled = rows.period;
    }
    const T element = rows.alpha[place], emission = rows.emission[place];
    // In lanes the scale came last: what an element had lost before, it still lacks.
    const T least = rows.period > 0 && scale > 1 ? kTiny * scale : kTiny;
    const bool whole = element > least && emission > kTiny;
    far_behind |= !whole;
    logs[s] = whole ? element : T(1);
    inverse[s] = whole ? emission / element * scale : T(0);
  }
  double total = 0;
  for (int64_t j = 0; j < num_tags; ++j) total += rows.alpha[rows.Place(steps - 1, j)];
  inverse[steps] = 1 / total;
  double following, log_reached;
  for (int64_t s = 0; far_behind && s < steps; ++s) {
    if (inverse[s] > 0) continue;
    const int64_t tag = tags[crf::StepAt(plan, b, s)];
    GoldFarBehind(plan, rows, b, s, tag, &following, &log_reached);
    inverse[s] = 1 / following;
    logs[s] = -1;
  }
  for (int64_t s = 0; s < steps; s += kWidth) {
    const int here = steps - s < kWidth ? static_cast<int>(steps - s) : kWidth;
    const Vec<double> reached = LoadFirst(logs + s, here);
    const Vec<double> share = reached * LoadFirst(inverse + s + 1, here);
    const Vec<double> log = LogOfPositive(share > 0 ? share : Broadcast(1.0));
    StoreFirst(logs + s, reached > 0 ? log : Broadcast(kInfinity), here);
  }
  for (int64_t s = 0; far_behind && s < steps; ++s) {
    if (logs[s] < kInfinity) continue;
    const int64_t tag = tags[crf::StepAt(plan, b, s)];
    GoldFarBehind(plan, rows, b, s, tag, &following, &log_reached);
    logs[s] = log_reached + std::log(inverse[s + 1]);
  }
  // What a look at every element would find only at the next rescaling (watch.h) is seen here.
  for (int64_t s = 1; plan.watched && s < steps; ++s) {
    const T last = rows.LastScale(s, plan.period), before = rows.LastScale(s - 1, plan.period);
    const T scaled_up = last > before ? last : before;
    const double safe = static_cast<double>(plan.safe) * (scaled_up > 1 ? scaled_up : T(1));
    if (!(inverse[s] * safe <= 1)) plan.inexact[b] = true;
  }
  double sums[2] = {}, least = 0;  // two, since each addition waits for the one before
  int64_t t = crf::StepAt(plan, b, 0);
  for (int64_t s = 0; s < steps; ++s) {
    const int64_t step = t;
    double log = logs[s];
    if (s + 1 < steps) {
      t = crf::StepAt(plan, b, s + 1);
      log += static_cast<double>(chains.transitions[tags[step] * num_tags + tags[t]]) - plan.peak;
    }
    log = log < 0 ? log : log != log ? log : 0;  // above 0 by rounding only
    least = log < least ? log : least;
    sums[s & 1] += weights[step] * log;
    log_p[step] = static_cast<T>(log);
    inverses[s] = static_cast<T>(inverse[s]);
  }
  const double sum = sums[0] + sums[1];  // not finite where a weight is not
  const double sound = sum - sum == 0 ? sum : std::numeric_limits<double>::quiet_NaN();
  *value = least == -kInfinity ? least : sound;
  for (int64_t s = 0; least == -kInfinity && s < chains.steps; ++s) log_p[s] = 0;
}

// For the sorted sequences first..last-1, after `forward` or, with `lanes`, `forward_lanes`.
template <typename T>
void GoldSteps(const crf::Plan<T>& plan, bool in_lanes, int64_t first, int64_t last,
               const int32_t* tags, const T* weights, double* value, T* log_p, T* inverses) {
  const int64_t num_tags = plan.chains.num_tags, steps = plan.chains.steps;
  const Buffer<double> room(2 * plan.counts[plan.order[first]] + 1);
  const auto compute = [&](const GoldRows<T>& rows, int64_t b) {
    GoldOfSequence(plan, rows, b, tags + b * steps, weights + b * steps, room.data, value + b,
                   log_p + b * steps, inverses + b * steps);
  };
  const Buffer<int32_t> places(num_tags);
  if (!in_lanes) {
    for (int j = 0; j < num_tags; ++j) places.data[j] = j;
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      if (plan.counts[b] == 0 || plan.inexact[b]) continue;
      const crf::KeptRows<T> kept(plan, k);
      compute({kept.alpha, kept.emission, num_tags, places.data, kept.scale, 1, 0}, b);
    }
    return;
  }
  const Lanes<T> lanes(plan, first, last);
  const LaneRows<T> kept(plan, lanes, first);
  const bool whole = lanes.fills_vectors();
  for (int j = 0; j < num_tags; ++j) {
    places.data[j] = static_cast<int32_t>(whole ? lanes.Place(j) : j * int64_t{lanes.count});
  }
  for (int lane = 0; lane < lanes.count; ++lane) {
    const int64_t b = lanes.sequence[lane];
    if (plan.inexact[b]) continue;
    compute({kept.alpha + lane, kept.emission + lane, kept.step, places.data, kept.scale + lane,
             lanes.count, plan.period},
            b);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_GOLD_H_
