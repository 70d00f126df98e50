#include "crf/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "machine/instruction_set.h"
#include "machine/parallel.h"

namespace fastkeras::crf {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

template <typename T>
Planner<T>::Planner(const Chains<T>& chains, bool exponentials, bool in_lanes, T* workspace,
                    int threads, double more_work, bool reversed)
    : plan{}, kernels(CurrentKernels<T>()), num_threads(1) {
  plan.chains = chains;
  FindValidSteps(reversed);
  const int64_t num_tags = chains.num_tags;
  plan.sound_ends = kernels.all_sound(chains.start_transitions, num_tags) &&
                    kernels.all_sound(chains.end_transitions, num_tags);
  if (chains.varies) {
    WatchAllSteps();
  } else {
    ChooseScaling();
  }
  plan.workspace = workspace;
  plan.workspace_area = chains.steps * (2 * num_tags + 1);
  if (workspace) {
    plan.inexact = reinterpret_cast<uint8_t*>(workspace + chains.batch * plan.workspace_area);
  } else {
    inexact_.reset(new uint8_t[chains.batch]);
    plan.inexact = inexact_.get();
  }

  const int vectors = static_cast<int>((num_tags + kernels.width - 1) / kernels.width);
  if (chains.varies) {
    const double area = static_cast<double>(num_tags) * num_tags;
    const double step = workspace ? 50 + 0.45 * area : 30 + 0.25 * area;  // to and fro, or one way
    num_threads = ThreadsThatPay(static_cast<double>(valid_) * (step + more_work), threads);
    return;
  }
  const int64_t area = int64_t{vectors} * kernels.width * num_tags;
  const int64_t lead = 64 / sizeof(T);  // room to start on a cache line
  panels_.reset(new T[2 * area + lead]);
  const auto address = reinterpret_cast<uintptr_t>(panels_.get());
  T* const start = panels_.get() + (64 - address % 64) % 64 / sizeof(T);
  plan.weights = {start, num_tags, vectors};
  plan.weights_transposed = {start + area, num_tags, vectors};
  kernels.cut_into_panels(chains.transitions, num_tags, false, exponentials, plan.peak, start);
  if (exponentials && plan.watched) ChooseWatch();
  if (exponentials && workspace) {
    kernels.cut_into_panels(chains.transitions, num_tags, true, true, plan.peak, start + area);
  }
  if (in_lanes) ChooseLanes();
  if (stretches_.empty()) stretches_ = {{0, chains.batch, false, 0}};
  CutIntoLanes(exponentials, workspace != nullptr);
  // Threads gain less where each is left with few sequences to take through time together.
  const double work = static_cast<double>(valid_) * (16 + 0.2 * num_tags * vectors + more_work);
  num_threads = ThreadsThatPay(work, threads);
  if (chains.batch < 4 * int64_t{num_threads}) num_threads = ThreadsThatPay(work / 2, threads);
}

template <typename T>
void Planner<T>::FindValidSteps(bool reversed) {
  const Chains<T>& chains = plan.chains;
  counts_.assign(chains.lengths, chains.lengths + chains.batch);
  if (chains.mask) {
    step_index_.resize(chains.batch * chains.steps);
    const auto* const mask = reinterpret_cast<const uint8_t*>(chains.mask);  // 2 may be true too
    for (int64_t b = 0; b < chains.batch; ++b) {
      int32_t* const begin = step_index_.data() + b * chains.steps;
      int32_t* end = begin;
      for (int64_t t = 0; t < chains.steps; ++t) {
        if (mask[b * chains.steps + t]) *end++ = static_cast<int32_t>(t);
      }
      counts_[b] = end - begin;
    }
  }
  if (reversed) {
    const bool listed = !step_index_.empty();
    step_index_.resize(chains.batch * chains.steps);
    for (int64_t b = 0; b < chains.batch; ++b) {
      int32_t* const begin = step_index_.data() + b * chains.steps;
      if (!listed) std::iota(begin, begin + counts_[b], 0);
      std::reverse(begin, begin + counts_[b]);
    }
  }
  order_.resize(chains.batch);
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(),
                   [this](int64_t a, int64_t b) { return counts_[a] > counts_[b]; });
  valid_ = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  plan.order = order_.data();
  plan.counts = counts_.data();
  plan.step_index = chains.mask || reversed ? step_index_.data() : nullptr;
  plan.reversed = reversed && !chains.mask;
}

// The scores of two tags' suffixes differ by at most the range R of the transitions. So the mass
// that underflows, at most num_tags times the smallest normal number a step, stays below the
// rounding error as long as (period + 1) R + 2 log num_tags is below the range of the type less its
// digits: then rescaling may be rare, and nothing need be watched. If R is too large for that,
// every step is watched (docs/crf.md, "When the scaled domain is enough").
template <typename T>
void Planner<T>::ChooseScaling() {
  const int64_t num_tags = plan.chains.num_tags, area = num_tags * num_tags;
  const T* transitions = plan.chains.transitions;
  plan.sound_transitions = kernels.all_sound(transitions, area);
  const T peak = *std::max_element(transitions, transitions + area);
  plan.peak = peak == -INFINITY || !plan.sound_transitions ? 0 : peak;
  double range = 0;
  plan.forbidden_gap = INFINITY;
  for (int64_t k = 0; k < area; ++k) {
    const T gap = plan.peak - transitions[k];
    range = std::max<double>(range, gap);
    if (gap > kForbidden<T> && gap < plan.forbidden_gap) plan.forbidden_gap = gap;
  }
  const double log_tags = std::log(static_cast<double>(num_tags));
  const double span = (-std::log(static_cast<double>(std::numeric_limits<T>::min())) +
                       std::log(static_cast<double>(std::numeric_limits<T>::epsilon()))) -
                      2 * log_tags;
  plan.watched = !(2 * range <= span);
  plan.period = 1;
  if (!plan.watched) {
    const double largest_period = std::min(8.0, 50 / std::max(log_tags, 1.0));
    plan.period = static_cast<int64_t>(range * (largest_period + 1) <= span ? largest_period
                                                                            : span / range - 1);
  }
}

// Where transitions vary, each row is rescaled and looked at, which costs little beside its matrix.
// The bounds are those of ChooseScaling and ChooseWatch for a period of one. Where no peak is taken
// out of the transitions, an emission with its scale, which then may be small, is multiplied by
// sums that are larger by exp(kSmallScore).
template <typename T>
void Planner<T>::WatchAllSteps() {
  const double num_tags = static_cast<double>(plan.chains.num_tags);
  const double smallest = std::numeric_limits<T>::min();
  const double epsilon = std::numeric_limits<T>::epsilon();
  plan.sound_transitions = true;  // each sequence has its own
  plan.forbidden_gap = INFINITY;
  plan.safe = static_cast<T>(smallest / epsilon * num_tags * num_tags * std::exp(kSmallScore));
  plan.harmless_range =
      static_cast<T>(std::log(epsilon) - std::log(smallest) - std::log(12 * num_tags * num_tags)) -
      kSmallScore;
}

// What can be lost between two looks, p steps apart. Let m be the smallest normal number, and g >=
// 1 the largest sum of a row or column of W. W and E are at most 1, so a row that sums to S <= K,
// or to less than 2 where it was rescaled, becomes one that sums to at most g S. An element of the
// k-th step loses less than m in each of K products, in the one with its scale and in the one with
// E, and S m where an entry of W, or E, is a zero that should be less than m: less than (3 K + 2)
// g^(k-1) m in all. What it lost grows by at most g in each further step, the sum of a column. So
// at the look each element lacks less than (3 K + 2) p g^(p-1) m: one above (K + 2)^2 p g^(p-1) m /
// epsilon has all its digits, whatever happened on the way to it, and Inspect (sweeps/watch.h) asks
// of all others whether they should be zero. So no mass that survives is lost unseen, whatever p
// is.
template <typename T>
void Planner<T>::ChooseWatch() {
  // A tag may be behind its row by so many nats, before it is below what is safe: on the way to a
  // look, rows shrink by the mean distance of an allowed transition from the peak, and by
  // emissions.
  constexpr double kRoom = 40, kOfEmissions = 1;
  const int64_t num_tags = plan.chains.num_tags;
  plan.words = (num_tags + 63) / 64;
  allowed_into_.assign(num_tags * plan.words, 0);
  std::vector<double> into(num_tags);
  double largest_sum = 1, gaps = 0, allowed = 0;
  for (int64_t i = 0; i < num_tags; ++i) {
    double from = 0;
    for (int64_t j = 0; j < num_tags; ++j) {
      const T gap = plan.peak - plan.chains.transitions[i * num_tags + j];
      if (!(gap <= kForbidden<T>)) continue;
      allowed_into_[j * plan.words + i / 64] |= uint64_t{1} << i % 64;
      const double weight = EntryOf(plan.weights, kernels.width, i, j);
      from += weight, into[j] += weight;
      gaps += gap, allowed += 1;
    }
    largest_sum = std::max(largest_sum, from);
  }
  largest_sum = std::max(largest_sum, *std::max_element(into.begin(), into.end()));
  largest_sum *= 1 + 1e-5;  // the weights are rounded
  plan.allowed_into = allowed_into_.data();
  const double shrinks = (allowed > 0 ? gaps / allowed : 0) + kOfEmissions;
  const double of_one = std::log(static_cast<double>(std::numeric_limits<T>::min())) -
                        std::log(static_cast<double>(std::numeric_limits<T>::epsilon())) +
                        2 * std::log(static_cast<double>(num_tags + 2));
  const auto log_safe = [&](double period) {
    return of_one + std::log(period) + (period - 1) * std::log(largest_sum);
  };
  const auto room = [&](double period) { return -log_safe(period) - period * shrinks; };
  plan.period = 8;
  while (plan.period > 1 && room(static_cast<double>(plan.period)) < kRoom) plan.period /= 2;
  plan.safe = static_cast<T>(std::exp(log_safe(static_cast<double>(plan.period))));
}

// A lane for each sequence, where enough of them are of about the same length: from `least` on they
// take less time than one after the other, as measured. Half a vector or less is left to sections,
// in two groups where one cannot hold all.
template <typename T>
void Planner<T>::ChooseLanes() {
  const int64_t num_tags = plan.chains.num_tags, width = kernels.width;
  if (num_tags > kMostLaneTags || !plan.sound_transitions) return;
  const int64_t filling = width / MostSections(kernels.width);  // a vector in sections
  int64_t possible = plan.chains.batch;
  while (possible > 0 && counts_[order_[possible - 1]] == 0) --possible;
  int64_t tags_from = 0;  // the sequences since the last group of lanes
  const auto end_tags = [&](int64_t end) {
    if (end > tags_from) stretches_.push_back({tags_from, end, false, 0});
  };
  for (int64_t k = 0; k + 2 <= possible;) {
    const int64_t left = std::min(possible - k, width);
    const int64_t last = k + (left <= filling || 2 * left > width ? left : (left + 1) / 2);
    const bool quarters = LaneSections(last - k, kernels.width) == 4;
    const double least = quarters ? 2.5 : std::max<double>(2, 3 * width / 8);
    int64_t valid = 0;
    for (int64_t i = k; i < last; ++i) valid += counts_[order_[i]];
    if (static_cast<double>(valid) < least * static_cast<double>(counts_[order_[k]])) {
      ++k;
      continue;
    }
    end_tags(k);
    stretches_.push_back({k, last, true, 0});
    k = tags_from = last;
  }
  if (!stretches_.empty()) end_tags(plan.chains.batch);
}

template <typename T>
void Planner<T>::CutIntoLanes(bool exponentials, bool transposed) {
  const int64_t num_tags = plan.chains.num_tags, width = kernels.width;
  const T padding = exponentials ? 0 : -std::numeric_limits<T>::infinity();
  bool needed[2] = {false, false};
  for (const Task& stretch : stretches_) {
    if (stretch.lanes) needed[LaneSections(stretch.last - stretch.first, kernels.width) > 1] = true;
  }
  const int64_t area = num_tags * (num_tags + 1) * width, lead = 64 / sizeof(T);
  if (!needed[0] && !needed[1]) return;
  lane_weights_.reset(new T[4 * area + lead]);
  const auto address = reinterpret_cast<uintptr_t>(lane_weights_.get());
  T* into = lane_weights_.get() + (64 - address % 64) % 64 / sizeof(T);
  for (const bool several : {false, true}) {
    if (!needed[several]) continue;
    const int sections = several ? MostSections(kernels.width) : 1;
    kernels.cut_into_lanes(plan.weights, sections, padding, into);
    plan.lane_weights[several] = into;
    into += area;
    if (!transposed) continue;
    kernels.cut_into_lanes(plan.weights_transposed, sections, padding, into);
    plan.lane_weights_transposed[several] = into;
    into += area;
  }
}

template <typename T>
std::vector<Task> Planner<T>::Tasks(int64_t block, int64_t group_size) const {
  std::vector<Task> tasks;
  int64_t group = 0;
  const int64_t most = std::max(block, group_size);
  for (const Task& stretch : stretches_) {
    const int64_t size = stretch.lanes ? stretch.last - stretch.first : most;
    for (int64_t k = stretch.first; k < stretch.last; k += size) {
      const int64_t last = std::min(stretch.last, k + size);
      tasks.push_back({k, last, stretch.lanes, group});
      group += stretch.lanes ? 1 : (last - k + group_size - 1) / group_size;
    }
  }
  return tasks;
}

template <typename T>
int64_t Planner<T>::group_size() const {
  const int64_t batch = plan.chains.batch;
  const int64_t rows = batch * plan.chains.steps;
  int64_t size = 1;
  // At most half the emissions' memory, and at least 128 valid steps to a group on average.
  while (size < batch &&
         ((batch + size - 1) / size * stride() > rows / 2 || valid_ * size < 128 * batch)) {
    size *= 2;
  }
  return size;
}

template <typename T>
int64_t Planner<T>::groups(int64_t size) const {
  int64_t groups = 0;
  for (const Task& stretch : stretches_) {
    groups += stretch.lanes ? 1 : (stretch.last - stretch.first + size - 1) / size;
  }
  return groups;
}

template <typename T>
int64_t Planner<T>::block() const {
  const int64_t tasks = (plan.chains.num_tags >= 256 ? 1 : 2) * int64_t{num_threads};
  int64_t block = 1;
  while (2 * block <= kMaxBlock && 2 * block * tasks <= plan.chains.batch) block *= 2;
  return block;
}

template struct Planner<float>;
template struct Planner<double>;

}  // namespace fastkeras::crf
