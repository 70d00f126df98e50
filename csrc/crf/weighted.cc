#include "crf/weighted.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "crf/exact.h"
#include "crf/gradients.h"
#include "crf/kernels.h"
#include "crf/planner.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// The chains read from their ends: a forward sweep of these sums over what may follow each tag, and
// a backward sweep carries the derivatives by those sums, from the first step on.
template <typename T>
struct Reversed {
  explicit Reversed(const Chains<T>& given)
      : transitions(given.num_tags * given.num_tags), chains(given) {
    const int64_t num_tags = given.num_tags;
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        transitions.data[j * num_tags + i] = given.transitions[i * num_tags + j];
      }
    }
    chains.transitions = transitions.data;
    std::swap(chains.start_transitions, chains.end_transitions);
  }

  Buffer<T> transitions;
  Chains<T> chains;
};

// Writes value and log_p of a sequence, of which of_steps are the terms by the number of their
// valid step, in the order of `plan`.
template <typename T>
void WriteValue(const Plan<T>& plan, int64_t b, const double* of_steps, const T* weights, T* value,
                T* log_p) {
  const int64_t steps = plan.chains.steps;
  double sums[2] = {};  // since each addition waits for the one before
  double least = 0;
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t t = b * steps + StepAt(plan, b, s);
    sums[s & 1] += static_cast<double>(weights[t]) * of_steps[s];
    log_p[t] = static_cast<T>(of_steps[s]);
    least = of_steps[s] < least ? of_steps[s] : least;
  }
  const double sum = sums[0] + sums[1];  // not finite where a weight is not
  value[b] = std::isfinite(sum) ? static_cast<T>(sum) : std::numeric_limits<T>::quiet_NaN();
  if (least > -INFINITY) return;
  value[b] = -std::numeric_limits<T>::infinity();
  std::fill_n(log_p + b * steps, steps, T(0));
}

// One sequence in log space: sets of_steps, for a plan whose steps are not reversed.
template <typename T>
void ExactValue(const Plan<T>& plan, const Kernels<T>& kernels, int64_t b, const int32_t* tags,
                double* of_steps) {
  if (kernels.is_sound(plan, b)) {
    ExactSteps(plan, b, tags + b * plan.chains.steps, of_steps);
  } else {
    std::fill_n(of_steps, plan.counts[b], NAN);
  }
}

// Which sequences have a gradient other than 0, and which a NaN.
template <typename T>
struct Counted {
  Counted(const Plan<T>& plan, const T* weights, const T* value, const T* factors)
      : of_sequence(new bool[plan.chains.batch]), spoiled(new bool[plan.chains.batch]) {
    const int64_t steps = plan.chains.steps;
    for (int64_t b = 0; b < plan.chains.batch; ++b) {
      T zero = 0 * factors[b];  // NaN if it or a weight is not finite
      for (int64_t s = 0; s < plan.counts[b]; ++s) {
        zero += 0 * weights[b * steps + (plan.chains.mask ? StepAt(plan, b, s) : s)];
      }
      of_sequence[b] = plan.counts[b] > 0 && value[b] != -INFINITY && factors[b] != 0;
      spoiled[b] = of_sequence[b] && (std::isnan(value[b]) || zero != 0);
      if (of_sequence[b] && !spoiled[b]) {
        largest = std::max(largest, std::abs(static_cast<double>(factors[b])));
      }
    }
  }

  std::unique_ptr<bool[]> of_sequence, spoiled;
  double largest = 0;  // magnitude of a factor
};

// The gradient of one sequence in log space, for a plan whose steps are not reversed.
template <typename T>
void AddExact(const Plan<T>& plan, int64_t b, const int32_t* tags, const T* weights, T factor,
              T* d_emissions, T* pairs, int64_t from, int64_t to) {
  const int64_t steps = plan.chains.steps;
  std::vector<double> of_steps(plan.counts[b]);
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    of_steps[s] = static_cast<double>(factor) * weights[b * steps + StepAt(plan, b, s)];
  }
  ExactStepsGradient(plan, b, tags + b * steps, of_steps.data(),
                     d_emissions + b * steps * plan.chains.num_tags, pairs, from, to);
}

template <typename T>
void VaryingGradient(const Planner<T>& planner, const int32_t* tags, const T* weights,
                     const Counted<T>& counted, const T* factors, T* d_emissions,
                     T* d_transitions) {
  const Plan<T>& plan = planner.plan;
  const Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags;
  const int64_t area = chains.batch ? chains.NumTransitions() / chains.batch : 0;
  ParallelFor(chains.batch, planner.num_threads, [&](int64_t b) {
    std::fill_n(d_transitions + b * area, area, T(0));
    ClearRows(plan, b, true, d_emissions);
    if (!counted.of_sequence[b]) return;
    if (!counted.spoiled[b]) {
      AddExact(plan, b, tags, weights, factors[b], d_emissions, d_transitions + b * area, num_tags,
               1);
      return;
    }
    Spoil(plan, b, d_emissions, d_transitions + b * area, int64_t{0});
    for (int64_t s = 1; s < plan.counts[b]; ++s) {
      std::fill_n(PairsInto(plan, b, s, d_transitions + b * area), num_tags * num_tags, T(NAN));
    }
  });
}

template <typename T>
void AddGoldPairs(const Plan<T>& plan, int64_t b, const int32_t* tags, const T* weights, T factor,
                  T* pairs, int64_t stride) {
  const int64_t row = b * plan.chains.steps;
  for (int64_t s = 1; s < plan.counts[b]; ++s) {
    const int64_t later = row + StepAt(plan, b, s - 1), earlier = row + StepAt(plan, b, s);
    pairs[tags[later] * stride + tags[earlier]] += factor * weights[later];
  }
}

}  // namespace

template <typename T>
int64_t WeightedWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags) {
  return WorkspaceSize<T>(batch, steps, num_tags) + batch * steps;
}

template <typename T>
void WeightedValue(const Chains<T>& chains, const int32_t* tags, const T* weights, T* value,
                   T* log_p, T* workspace, int num_threads) {
  const int64_t batch = chains.batch, steps = chains.steps;
  std::fill_n(log_p, batch * steps, T(0));
  if (chains.varies) {
    const Planner<T> planner(chains, false, false, nullptr, num_threads,
                             8.0 * chains.num_tags * chains.num_tags);
    ParallelFor(batch, planner.num_threads, [&](int64_t b) {
      std::vector<double> of_steps(steps);
      ExactValue(planner.plan, planner.kernels, b, tags, of_steps.data());
      WriteValue(planner.plan, b, of_steps.data(), weights, value, log_p);
    });
    return;
  }
  const int64_t kept = WorkspaceSize<T>(batch, steps, chains.num_tags);
  const Buffer<T> own(workspace ? 0 : WeightedWorkspaceSize<T>(batch, steps, chains.num_tags));
  T* const room = workspace ? workspace : own.data;
  const Reversed<T> reversed(chains);
  const Planner<T> planner(reversed.chains, true, true, room, num_threads, 0, true);
  const Plan<T>& plan = planner.plan;
  const Kernels<T>& kernels = planner.kernels;
  const std::unique_ptr<double[]> sums(new double[batch]);
  const std::vector<Task> tasks = planner.Tasks(planner.block(), 1);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const auto [first, last, lanes, group] = tasks[number];
    (lanes ? kernels.forward_lanes : kernels.forward)(plan, first, last, sums.get());
    kernels.gold_steps(plan, lanes, first, last, tags, weights, sums.get(), log_p, room + kept);
  });
  const bool any_inexact =
      std::any_of(plan.inexact, plan.inexact + batch, [](uint8_t b) { return b != 0; });
  std::copy(sums.get(), sums.get() + batch, value);
  if (!any_inexact) return;
  const Planner<T> unscaled(chains, false, false, nullptr, 1);
  ParallelFor(batch, planner.num_threads, [&](int64_t b) {
    if (!plan.inexact[b]) return;
    std::vector<double> of_steps(steps);
    ExactValue(unscaled.plan, kernels, b, tags, of_steps.data());
    WriteValue(unscaled.plan, b, of_steps.data(), weights, value, log_p);
  });
}

template <typename T>
void WeightedGradient(const Chains<T>& chains, const int32_t* tags, const T* weights,
                      const T* value, const T* workspace, const T* factors, T* d_emissions,
                      T* d_transitions, T* d_start, T* d_end, int num_threads) {
  const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
  if (chains.varies) {
    const Planner<T> planner(chains, false, false, nullptr, num_threads, 8.0 * num_tags * num_tags);
    const Counted<T> counted(planner.plan, weights, value, factors);
    VaryingGradient(planner, tags, weights, counted, factors, d_emissions, d_transitions);
    AddEnds(planner.plan, d_emissions, d_start, d_end);
    return;
  }
  const T* const inverses = workspace + WorkspaceSize<T>(batch, steps, num_tags);
  const Reversed<T> reversed(chains);
  const Planner<T> planner(reversed.chains, true, true, const_cast<T*>(workspace), num_threads, 0,
                           true);
  const Plan<T>& plan = planner.plan;
  const Counted<T> counted(plan, weights, value, factors);
  const double largest = counted.largest;
  const bool any_inexact =
      std::any_of(plan.inexact, plan.inexact + batch, [](uint8_t b) { return b != 0; });
  std::unique_ptr<Planner<T>> unscaled;
  if (any_inexact) unscaled.reset(new Planner<T>(chains, false, false, nullptr, 1));
  const std::unique_ptr<double[]> swept(new double[batch]);
  for (int64_t b = 0; b < batch; ++b) {
    const bool left_out =
        !counted.of_sequence[b] || counted.spoiled[b] || plan.inexact[b] || largest == 0;
    swept[b] = left_out ? 0 : factors[b] / largest;
  }
  const int64_t group_size = planner.group_size(), stride = planner.stride();
  const int64_t groups = planner.groups(group_size), area = num_tags * stride;
  const Buffer<T> pairs(groups * area);
  const int64_t block = group_size > 1 ? std::min<int64_t>(kMaxBlock, group_size) : planner.block();
  const std::vector<Task> tasks = planner.Tasks(block, group_size);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const Task& task = tasks[number];
    const int64_t first = task.first, last = task.last;
    const int64_t size_of_group = task.lanes ? last - first : group_size;
    const auto group_of = [&](int64_t k) {
      return pairs.data + (task.group + (k - first) / size_of_group) * area;
    };
    for (int64_t k = first; k < last; k += size_of_group) std::fill_n(group_of(k), area, T(0));
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      ClearRows(plan, b, swept[b] == 0, d_emissions);
    }
    GradientOutputs<T> out = {tags,       T(-1),      swept.get(), largest, d_emissions,
                              pairs.data, group_size, false,       weights, inverses};
    if (task.lanes) {
      out.pairs = group_of(first);
      planner.kernels.backward_lanes(plan, out, first, last);
    }
    for (int64_t k = first; k < last && !task.lanes; k += block) {
      out.pairs = group_of(k);
      planner.kernels.backward(plan, out, k, std::min(last, k + block));
    }
    for (int64_t k = first; k < last && plan.sound_transitions; k += size_of_group) {
      Weigh(plan, planner.kernels.width, static_cast<T>(-largest), group_of(k), stride);
    }
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      if (!counted.of_sequence[b]) continue;
      if (counted.spoiled[b]) {
        Spoil(plan, b, d_emissions, group_of(k), stride);
      } else if (plan.inexact[b]) {
        AddExact(unscaled->plan, b, tags, weights, factors[b], d_emissions, group_of(k), int64_t{1},
                 stride);
      } else {
        AddGoldPairs(plan, b, tags, weights, factors[b], group_of(k), stride);
      }
    }
  });
  AddEnds(plan, d_emissions, d_end, d_start);  // the first step is the last of the reversed chain
  AddGroups(planner, groups, pairs.data, true, d_transitions);
}

#define FASTKERAS_INSTANTIATE(T)                                                               \
  template int64_t WeightedWorkspaceSize<T>(int64_t, int64_t, int64_t);                        \
  template void WeightedValue<T>(const Chains<T>&, const int32_t*, const T*, T*, T*, T*, int); \
  template void WeightedGradient<T>(const Chains<T>&, const int32_t*, const T*, const T*,      \
                                    const T*, const T*, T*, T*, T*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
