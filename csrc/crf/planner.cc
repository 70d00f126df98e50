#include "crf/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "instruction_set.h"
#include "parallel.h"

namespace fastkeras::crf {

FASTKERAS_CURRENT_KERNELS(float)
FASTKERAS_CURRENT_KERNELS(double)

template <typename T>
Planner<T>::Planner(const Chains<T>& chains, bool exponentials, T* workspace, int threads,
                    double more_work)
    : plan{}, kernels(CurrentKernels<T>()), num_threads(1) {
  plan.chains = chains;
  FindValidSteps();
  ChooseScaling();

  const int64_t rows = chains.batch * chains.steps, num_tags = chains.num_tags;
  if (workspace) {
    plan.alpha = workspace;
    plan.emission = plan.alpha + rows * num_tags;
    plan.scale = plan.emission + rows * num_tags;
    plan.inexact = reinterpret_cast<uint8_t*>(plan.scale + rows);
  } else {
    inexact_.reset(new uint8_t[chains.batch]);
    plan.inexact = inexact_.get();
  }

  const int vectors = static_cast<int>((num_tags + kernels.width - 1) / kernels.width);
  const int64_t area = int64_t{vectors} * kernels.width * num_tags;
  const int64_t lead = 64 / sizeof(T);  // room to start on a cache line
  panels_.reset(new T[2 * area + lead]);
  const auto address = reinterpret_cast<uintptr_t>(panels_.get());
  T* const start = panels_.get() + (64 - address % 64) % 64 / sizeof(T);
  plan.weights = {start, num_tags, vectors};
  plan.weights_transposed = {start + area, num_tags, vectors};
  kernels.cut_into_panels(chains.transitions, num_tags, false, exponentials, plan.peak, start);
  if (exponentials && workspace) {
    kernels.cut_into_panels(chains.transitions, num_tags, true, true, plan.peak, start + area);
  }
  // Threads gain less where each is left with few sequences to take through time together.
  const double work = static_cast<double>(valid_) * (16 + 0.2 * num_tags * vectors + more_work);
  num_threads = ThreadsThatPay(work, threads);
  if (chains.batch < 4 * int64_t{num_threads}) num_threads = ThreadsThatPay(work / 2, threads);
}

template <typename T>
void Planner<T>::FindValidSteps() {
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
  order_.resize(chains.batch);
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(),
                   [this](int64_t a, int64_t b) { return counts_[a] > counts_[b]; });
  valid_ = std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
  plan.order = order_.data();
  plan.counts = counts_.data();
  plan.step_index = chains.mask ? step_index_.data() : nullptr;
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
  plan.sound_ends = kernels.all_sound(plan.chains.start_transitions, num_tags) &&
                    kernels.all_sound(plan.chains.end_transitions, num_tags);
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
int64_t Planner<T>::block() const {
  const int64_t tasks = (plan.chains.num_tags >= 256 ? 1 : 2) * int64_t{num_threads};
  int64_t block = 1;
  while (2 * block <= kMaxBlock && 2 * block * tasks <= plan.chains.batch) block *= 2;
  return block;
}

template struct Planner<float>;
template struct Planner<double>;

}  // namespace fastkeras::crf
