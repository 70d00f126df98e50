#include "crf/entropy.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "crf/exact.h"
#include "crf/gradients.h"
#include "crf/kernels.h"
#include "crf/planner.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// exp(A - peak) * (A - peak), cut into panels as the weights of the plan are.
template <typename T>
struct WeightedLogs {
  explicit WeightedLogs(const Planner<T>& planner)
      : area(planner.stride() * planner.plan.chains.num_tags), data(2 * area) {
    const Plan<T>& plan = planner.plan;
    const int64_t num_tags = plan.chains.num_tags;
    const int width = planner.kernels.width;
    std::fill_n(data.data, 2 * area, T(0));
    for (int64_t i = 0; i < num_tags; ++i) {
      for (int64_t j = 0; j < num_tags; ++j) {
        const T weight = EntryOf(plan.weights, width, i, j);
        if (!(weight > 0)) continue;
        const T product = weight * (plan.chains.transitions[i * num_tags + j] - plan.peak);
        data.data[PlaceOf(plan.weights, width, i, j)] = product;
        data.data[area + PlaceOf(plan.weights, width, j, i)] = product;
      }
    }
  }

  EntropyRows<T> Rows(const Planner<T>& planner, T* rows) const {
    const Panels<T>& like = planner.plan.weights;
    return {{data.data, like.num_tags, like.vectors},
            {data.data + area, like.num_tags, like.vectors},
            rows};
  }

  int64_t area;
  Buffer<T> data;
};

// What a step of a sequence takes in log space beyond a sweep, in nanoseconds.
template <typename T>
double ExactWork(const Chains<T>& chains) {
  return 8.0 * static_cast<double>(chains.num_tags * chains.num_tags);
}

template <typename T>
double ExactValue(const Planner<T>& planner, int64_t b) {
  if (planner.plan.counts[b] == 0) return 0;
  if (!planner.kernels.is_sound(planner.plan, b)) return NAN;
  return ExactEntropy<T>(planner.plan, b, 0, nullptr, nullptr, 0);
}

// pairs = factor * (W * pairs - W * L * plain_pairs), for one group of sequences.
template <typename T>
void Combine(const Planner<T>& planner, const EntropyRows<T>& entropy, T factor, T* pairs,
             const T* plain_pairs) {
  const Panels<T>& weights = planner.plan.weights;
  const int64_t stride = planner.stride();
  const int width = planner.kernels.width;
  for (int64_t i = 0; i < weights.num_tags; ++i) {
    for (int64_t j = 0; j < weights.num_tags; ++j) {
      const int64_t place = PlaceOf(weights, width, i, j), k = i * stride + j;
      pairs[k] = factor * (weights.data[place] * pairs[k] -
                           entropy.weighted_logs.data[place] * plain_pairs[k]);
    }
  }
}

template <typename T>
void VaryingGradient(const Planner<T>& planner, const T* value, const T* weights, T* d_emissions,
                     T* d_transitions) {
  const Plan<T>& plan = planner.plan;
  const Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags;
  const int64_t area = chains.batch ? chains.NumTransitions() / chains.batch : 0;
  ParallelFor(chains.batch, planner.num_threads, [&](int64_t b) {
    T* const pairs = d_transitions + b * area;
    T* const gradient = d_emissions + b * chains.steps * num_tags;
    std::fill_n(pairs, area, T(0));
    ClearRows(plan, b, true, d_emissions);
    if (plan.counts[b] == 0 || weights[b] == 0) return;
    if (std::isfinite(value[b]) && std::isfinite(weights[b])) {
      ExactEntropy(plan, b, double{weights[b]}, gradient, pairs, num_tags);
      return;
    }
    Spoil(plan, b, d_emissions, pairs, int64_t{0});
    for (int64_t s = 1; s < plan.counts[b]; ++s) {
      std::fill_n(PairsInto(plan, b, s, pairs), num_tags * num_tags, T(NAN));
    }
  });
}

}  // namespace

template <typename T>
int64_t EntropyWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags) {
  return WorkspaceSize<T>(batch, steps, num_tags) + 2 * batch * steps * num_tags;
}

template <typename T>
void Entropy(const Chains<T>& chains, T* value, T* workspace, int num_threads) {
  const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
  if (chains.varies) {
    const Planner<T> planner(chains, false, false, nullptr, num_threads, ExactWork(chains));
    ParallelFor(batch, planner.num_threads,
                [&](int64_t b) { value[b] = static_cast<T>(ExactValue(planner, b)); });
    return;
  }
  const Buffer<T> own(workspace ? 0 : EntropyWorkspaceSize<T>(batch, steps, num_tags));
  T* const room = workspace ? workspace : own.data;
  const Planner<T> planner(chains, true, false, room, num_threads);
  const Plan<T>& plan = planner.plan;
  const WeightedLogs<T> weighted_logs(planner);
  const EntropyRows<T> entropy =
      weighted_logs.Rows(planner, room + WorkspaceSize<T>(batch, steps, num_tags));
  const std::unique_ptr<double[]> nats(new double[batch]);
  const std::vector<Task> tasks = planner.Tasks(planner.block(), 1);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const Task& task = tasks[number];
    planner.kernels.forward(plan, task.first, task.last, nats.get());
    for (int64_t k = task.first; k < task.last; ++k) {
      const int64_t b = plan.order[k];
      if (plan.inexact[b]) {
        nats[b] = ExactValue(planner, b);
      } else if (plan.counts[b] > 0) {
        planner.kernels.entropy_forward(plan, entropy, k, nats.get());
      }
      value[b] = static_cast<T>(nats[b]);
    }
  });
}

template <typename T>
void EntropyGradient(const Chains<T>& chains, const T* value, const T* workspace, const T* weights,
                     T* d_emissions, T* d_transitions, T* d_start, T* d_end, int num_threads) {
  const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
  if (chains.varies) {
    const Planner<T> planner(chains, false, false, nullptr, num_threads, ExactWork(chains));
    VaryingGradient(planner, value, weights, d_emissions, d_transitions);
    AddEnds(planner.plan, d_emissions, d_start, d_end);
    return;
  }
  T* const room = const_cast<T*>(workspace);
  const Planner<T> planner(chains, true, false, room, num_threads);
  const Plan<T>& plan = planner.plan;
  const WeightedLogs<T> weighted_logs(planner);
  const EntropyRows<T> entropy =
      weighted_logs.Rows(planner, room + WorkspaceSize<T>(batch, steps, num_tags));
  const auto counts = [&](int64_t b) { return plan.counts[b] > 0 && weights[b] != 0; };
  const auto spoiled = [&](int64_t b) {
    return !std::isfinite(value[b]) || !std::isfinite(weights[b]);
  };
  T largest = 0;  // magnitude of a weight
  for (int64_t b = 0; b < batch; ++b) {
    if (counts(b) && !spoiled(b)) largest = std::max(largest, std::abs(weights[b]));
  }
  const int64_t group_size = planner.group_size(), groups = planner.groups(group_size);
  const int64_t stride = planner.stride(), area = num_tags * stride;
  const Buffer<T> pairs(groups * area);
  const std::vector<Task> tasks = planner.Tasks(1, group_size);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const Task& task = tasks[number];
    T* const group = pairs.data + task.group * area;
    const Buffer<T> plain_pairs(area);
    std::fill_n(group, area, T(0));
    std::fill_n(plain_pairs.data, area, T(0));
    for (int64_t k = task.first; k < task.last; ++k) {
      const int64_t b = plan.order[k];
      const bool swept = counts(b) && !spoiled(b) && !plan.inexact[b];
      ClearRows(plan, b, !swept, d_emissions);
      if (!swept) continue;
      planner.kernels.entropy_backward(plan, entropy, k, weights[b] / largest, largest,
                                       d_emissions + b * steps * num_tags, group, plain_pairs.data);
    }
    // Unsound transitions have no weights; every sequence with pairs is then dealt with below.
    if (plan.sound_transitions) Combine(planner, entropy, largest, group, plain_pairs.data);
    for (int64_t k = task.first; k < task.last; ++k) {
      const int64_t b = plan.order[k];
      if (!counts(b)) continue;
      if (spoiled(b)) {
        Spoil(plan, b, d_emissions, group, stride);
      } else if (plan.inexact[b]) {
        ExactEntropy(plan, b, double{weights[b]}, d_emissions + b * steps * num_tags, group,
                     stride);
      }
    }
  });
  AddEnds(plan, d_emissions, d_start, d_end);
  AddGroups(planner, groups, pairs.data, false, d_transitions);
}

#define FASTKERAS_INSTANTIATE(T)                                                                   \
  template int64_t EntropyWorkspaceSize<T>(int64_t, int64_t, int64_t);                             \
  template void Entropy<T>(const Chains<T>&, T*, T*, int);                                         \
  template void EntropyGradient<T>(const Chains<T>&, const T*, const T*, const T*, T*, T*, T*, T*, \
                                   int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
