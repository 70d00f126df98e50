// Cuts a batch into tasks for the kernels, puts the parts of a value and of its gradient together,
// and sends what the scaled domain cannot hold down the exact path.

#include "crf/crf.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "crf/exact.h"
#include "crf/gradients.h"
#include "crf/kernels.h"
#include "crf/paths.h"
#include "crf/planner.h"
#include "crf/varying.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// Adds weight to the gradient wherever the gold path of a sequence goes.
template <typename T>
void AddGold(const Plan<T>& plan, int64_t b, const int32_t* tags, T weight, T* d_emissions,
             T* pairs, int64_t stride) {
  const Chains<T>& chains = plan.chains;
  tags += b * chains.steps;
  int64_t before = 0;
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t t = StepAt(plan, b, s);
    if (d_emissions) d_emissions[(b * chains.steps + t) * chains.num_tags + tags[t]] += weight;
    if (s > 0) PairsInto(plan, b, s, pairs)[before * stride + tags[t]] += weight;
    before = tags[t];
  }
}

// The marginals' part of a gradient, and the gold path's where tags are given: rows of d_emissions,
// and pairs (groups, num_tags, stride) for every group of sequences (kernels.h).
template <typename T>
void Sweep(const Planner<T>& planner, const int32_t* tags, double sign, const double* value,
           const T* weights, T* d_emissions, T* pairs, int64_t group_size, bool per_sequence) {
  const Plan<T>& plan = planner.plan;
  const int64_t batch = plan.chains.batch;
  const int64_t stride = planner.stride(), group_area = plan.chains.num_tags * stride;
  const std::unique_ptr<double[]> relative(new double[batch]);
  const std::unique_ptr<bool[]> spoiled(new bool[batch]);
  double largest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const bool counts = plan.counts[b] > 0 && value[b] != -INFINITY;
    relative[b] = counts ? static_cast<double>(weights[b]) : 0;
    spoiled[b] = relative[b] != 0 && (std::isnan(value[b]) || !std::isfinite(relative[b]));
    if (!spoiled[b]) largest = std::max(largest, std::abs(relative[b]));
  }
  const std::unique_ptr<double[]> swept(new double[batch]);
  for (int64_t b = 0; b < batch; ++b) {
    const bool left_out = plan.inexact[b] || spoiled[b] || largest == 0;
    swept[b] = left_out ? 0 : relative[b] / largest;
  }
  // Sequences of a group add up chunk by chunk, so their block must not depend on num_threads.
  const int64_t block = group_size > 1 ? std::min<int64_t>(kMaxBlock, group_size) : planner.block();
  const std::vector<Task> tasks = planner.Tasks(block, group_size);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const Task& task = tasks[number];
    const int64_t first = task.first, last = task.last;
    const int64_t size_of_group = per_sequence ? 1 : task.lanes ? last - first : group_size;
    const auto group_of = [&](int64_t k) {
      const int64_t group = per_sequence ? plan.order[k] : task.group + (k - first) / size_of_group;
      return pairs + group * group_area;
    };
    GradientOutputs<T> out = {tags,  static_cast<T>(sign), swept.get(), largest, d_emissions,
                              pairs, group_size,           per_sequence};
    for (int64_t k = first; k < last; k += size_of_group) {
      std::fill_n(group_of(k), group_area, T(0));
    }
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      ClearRows(plan, b, relative[b] == 0 || plan.inexact[b] || spoiled[b], d_emissions);
    }
    if (task.lanes) {
      if (!per_sequence) out.pairs = group_of(first);
      planner.kernels.backward_lanes(plan, out, first, last);
    }
    for (int64_t k = first; k < last && !task.lanes; k += block) {
      if (!per_sequence) out.pairs = group_of(k);
      planner.kernels.backward(plan, out, k, std::min(last, k + block));
    }
    // Unsound transitions have no weights; every sequence with pairs is then dealt with below.
    for (int64_t k = first; k < last && plan.sound_transitions; k += size_of_group) {
      Weigh(plan, planner.kernels.width, static_cast<T>(sign * largest), group_of(k), stride);
    }
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      if (relative[b] == 0) continue;
      T* group = group_of(k);
      if (spoiled[b]) {
        Spoil(plan, b, d_emissions, group, stride);
        continue;
      }
      if (plan.inexact[b]) {
        ExactGradient(plan, b, sign * relative[b],
                      d_emissions + b * plan.chains.steps * plan.chains.num_tags, group, stride);
      }
      if (tags) {
        AddGold(plan, b, tags, weights[b], plan.inexact[b] ? d_emissions : nullptr, group, stride);
      }
    }
  });
}

template <typename T>
void LogPartitions(const Planner<T>& planner, double* value) {
  const Plan<T>& plan = planner.plan;
  const Kernels<T>& kernels = planner.kernels;
  if (plan.chains.varies) {
    VaryingLogPartitions(planner, value);
    return;
  }
  const std::vector<Task> tasks = planner.Tasks(planner.block(), 1);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const auto [first, last, lanes, group] = tasks[number];
    (lanes ? kernels.forward_lanes : kernels.forward)(plan, first, last, value);
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      if (plan.inexact[b]) value[b] = kernels.is_sound(plan, b) ? ExactLogPartition(plan, b) : NAN;
    }
  });
}

}  // namespace

template <typename T>
int64_t WorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags) {
  return batch * steps * (2 * num_tags + 1) + batch;
}

template <typename T>
void Value(const Chains<T>& chains, const int32_t* tags, Quantity quantity, T* value, T* workspace,
           int num_threads) {
  const bool marginals = quantity != Quantity::kSequenceScore;
  const Planner<T> planner(chains, marginals, marginals, workspace, num_threads);
  const std::unique_ptr<double[]> log_partition(new double[chains.batch]());
  if (marginals) LogPartitions(planner, log_partition.get());
  for (int64_t b = 0; b < chains.batch; ++b) {
    if (quantity == Quantity::kLogPartition) {
      value[b] = static_cast<T>(log_partition[b]);
      continue;
    }
    double score;
    PathScores(planner.plan, b, 1, tags + b * chains.steps, &score);
    const bool possible = score != -INFINITY || std::isnan(log_partition[b]);
    if (quantity == Quantity::kLogLikelihood && possible) {
      score = std::min(score - log_partition[b], 0.0);  // above 0 by rounding only
    }
    value[b] = static_cast<T>(score);
  }
}

template <typename T>
void Gradient(const Chains<T>& chains, const int32_t* tags, Quantity quantity, const T* value,
              const T* workspace, const T* weights, T* d_emissions, T* d_transitions, T* d_start,
              T* d_end, int num_threads) {
  const bool marginals = quantity != Quantity::kSequenceScore;
  const Planner<T> planner(chains, marginals, marginals, const_cast<T*>(workspace), num_threads);
  const Plan<T>& plan = planner.plan;
  const int64_t num_tags = chains.num_tags, stride = planner.stride();
  if (!marginals) {
    std::fill(d_emissions, d_emissions + chains.batch * chains.steps * num_tags, T(0));
    std::fill_n(d_transitions, chains.NumTransitions(), T(0));
    const int64_t of_sequence =
        chains.varies && chains.batch ? chains.NumTransitions() / chains.batch : 0;
    for (int64_t b = 0; b < chains.batch; ++b) {
      if (value[b] == -INFINITY || weights[b] == 0) continue;
      const T weight = std::isfinite(value[b]) ? weights[b] : T(NAN);
      AddGold(plan, b, tags, weight, d_emissions, d_transitions + b * of_sequence, num_tags);
    }
    AddEnds(plan, d_emissions, d_start, d_end);
    return;
  }
  const bool gold = quantity == Quantity::kLogLikelihood;
  const std::unique_ptr<double[]> values(new double[chains.batch]);
  std::copy(value, value + chains.batch, values.get());
  if (chains.varies) {
    VaryingSweep(planner, gold ? tags : nullptr, T(gold ? -1 : 1), values.get(), weights,
                 d_emissions, d_transitions);
    AddEnds(plan, d_emissions, d_start, d_end);
    return;
  }
  const int64_t group_size = planner.group_size();
  const int64_t groups = planner.groups(group_size);
  const Buffer<T> pairs(groups * num_tags * stride);
  Sweep(planner, gold ? tags : nullptr, gold ? -1 : 1, values.get(), weights, d_emissions,
        pairs.data, group_size, false);
  AddEnds(plan, d_emissions, d_start, d_end);
  AddGroups(planner, groups, pairs.data, false, d_transitions);
}

template <typename T>
void Marginals(const Chains<T>& chains, T* unary, T* counts, int num_threads) {
  const int64_t batch = chains.batch, num_tags = chains.num_tags;
  const Buffer<T> workspace(WorkspaceSize<T>(batch, chains.steps, num_tags));
  const Planner<T> planner(chains, true, true, workspace.data, num_threads);
  const std::unique_ptr<double[]> value(new double[batch]);
  LogPartitions(planner, value.get());
  const Buffer<T> ones(batch);
  std::fill(ones.data, ones.data + batch, T(1));
  if (chains.varies) {
    VaryingSweep<T>(planner, nullptr, 1, value.get(), ones.data, unary, counts);
    return;
  }
  const int64_t stride = planner.stride();
  const bool padded = stride != num_tags;
  const Buffer<T> room(padded ? batch * num_tags * stride : 0);
  T* pairs = padded ? room.data : counts;
  Sweep(planner, nullptr, 1, value.get(), ones.data, unary, pairs, int64_t{1}, true);
  if (!padded) return;
  ParallelFor(batch, planner.num_threads, [&](int64_t b) {
    for (int64_t i = 0; i < num_tags; ++i) {
      const T* row = pairs + (b * num_tags + i) * stride;
      std::copy(row, row + num_tags, counts + (b * num_tags + i) * num_tags);
    }
  });
}

int64_t FirstTagOutOfRange(int64_t batch, int64_t steps, int64_t num_tags, const int32_t* tags,
                           const int32_t* lengths, const bool* given_mask) {
  const auto* const mask = reinterpret_cast<const uint8_t*>(given_mask);
  const uint32_t bound = static_cast<uint32_t>(std::min<int64_t>(num_tags, int64_t{1} << 31));
  const auto out_of_range = [&](int64_t k) { return static_cast<uint32_t>(tags[k]) >= bound; };
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t begin = b * steps, end = begin + (mask ? steps : lengths[b]);
    int any = 0;  // without a branch, so that the loop can be vectorized
    for (int64_t k = begin; k < end; ++k) any |= out_of_range(k);
    for (int64_t k = begin; any && k < end; ++k) {
      if (out_of_range(k) && (!mask || mask[k])) return k;
    }
  }
  return -1;
}

#define FASTKERAS_INSTANTIATE(T)                                                            \
  template int64_t WorkspaceSize<T>(int64_t, int64_t, int64_t);                             \
  template void Value<T>(const Chains<T>&, const int32_t*, Quantity, T*, T*, int);          \
  template void Gradient<T>(const Chains<T>&, const int32_t*, Quantity, const T*, const T*, \
                            const T*, T*, T*, T*, T*, int);                                 \
  template void Marginals<T>(const Chains<T>&, T*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
