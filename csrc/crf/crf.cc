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
#include "crf/varying/varying.h"
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
// and pairs (groups, num_tags, stride) for every group of sequences (kernels.h). `value` is written
// before a task is swept, which then reads it.
template <typename T>
struct Sweep {
  const Planner<T>& planner;
  const int32_t* tags;
  double sign;
  const double* value;
  const T* weights;
  T *d_emissions, *pairs;
  int64_t group_size;
  bool per_sequence;
  double largest = 0;               // magnitude of a weight that counts
  std::unique_ptr<double[]> swept;  // (batch) weights / largest

  Sweep(const Planner<T>& planner, const int32_t* tags, double sign, const double* value,
        const T* weights, T* d_emissions, T* pairs, int64_t group_size, bool per_sequence)
      : planner(planner),
        tags(tags),
        sign(sign),
        value(value),
        weights(weights),
        d_emissions(d_emissions),
        pairs(pairs),
        group_size(group_size),
        per_sequence(per_sequence),
        swept(new double[planner.plan.chains.batch]) {}

  bool Counts(int64_t b) const { return planner.plan.counts[b] > 0 && value[b] != -INFINITY; }
  bool Spoiled(int64_t b) const {
    return Counts(b) && weights[b] != 0 && (std::isnan(value[b]) || !std::isfinite(weights[b]));
  }

  // Sequences of a group add up chunk by chunk, so their block must not depend on num_threads.
  int64_t block() const {
    return group_size > 1 ? std::min<int64_t>(kMaxBlock, group_size) : planner.block();
  }
  std::vector<Task> Tasks() const { return planner.Tasks(block(), group_size); }

  double LargestWeight() const {
    double found = 0;
    for (int64_t b = 0; b < planner.plan.chains.batch; ++b) {
      if (Counts(b) && !Spoiled(b)) found = std::max(found, std::abs(double{weights[b]}));
    }
    return found;
  }

  // All tasks, where all values are known.
  void All() {
    largest = LargestWeight();
    const std::vector<Task> tasks = Tasks();
    ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) { (*this)(tasks[number]); });
  }

  void operator()(const Task& task) const {
    const Plan<T>& plan = planner.plan;
    const int64_t first = task.first, last = task.last, block = this->block();
    const int64_t stride = planner.stride(), group_area = plan.chains.num_tags * stride;
    const int64_t size_of_group = per_sequence ? 1 : task.lanes ? last - first : group_size;
    const auto group_of = [&](int64_t k) {
      const int64_t group = per_sequence ? plan.order[k] : task.group + (k - first) / size_of_group;
      return pairs + group * group_area;
    };
    GradientOutputs<T> out = {tags,  static_cast<T>(sign), swept.get(),  largest, d_emissions,
                              pairs, group_size,           per_sequence, nullptr, nullptr};
    for (int64_t k = first; k < last; k += size_of_group) {
      std::fill_n(group_of(k), group_area, T(0));
    }
    for (int64_t k = first; k < last; ++k) {
      const int64_t b = plan.order[k];
      const bool left_out = !Counts(b) || weights[b] == 0 || plan.inexact[b] || Spoiled(b);
      swept[b] = left_out || largest == 0 ? 0 : weights[b] / largest;
      ClearRows(plan, b, left_out, d_emissions);
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
      if (!Counts(b) || weights[b] == 0) continue;
      T* group = group_of(k);
      if (Spoiled(b)) {
        Spoil(plan, b, d_emissions, group, stride);
        continue;
      }
      if (plan.inexact[b]) {
        ExactGradient(plan, b, sign * weights[b],
                      d_emissions + b * plan.chains.steps * plan.chains.num_tags, group, stride);
      }
      if (tags) {
        AddGold(plan, b, tags, weights[b], plan.inexact[b] ? d_emissions : nullptr, group, stride);
      }
    }
  }
};

// Log Z of the sequences of a task, `block` of which go through time together.
template <typename T>
void LogPartitionsOf(const Planner<T>& planner, const Task& task, int64_t block, double* value) {
  const Plan<T>& plan = planner.plan;
  const Kernels<T>& kernels = planner.kernels;
  if (task.lanes) kernels.forward_lanes(plan, task.first, task.last, value);
  for (int64_t k = task.first; k < task.last && !task.lanes; k += block) {
    kernels.forward(plan, k, std::min(task.last, k + block), value);
  }
  for (int64_t k = task.first; k < task.last; ++k) {
    const int64_t b = plan.order[k];
    if (plan.inexact[b]) value[b] = kernels.is_sound(plan, b) ? ExactLogPartition(plan, b) : NAN;
  }
}

// Calls body(first, last) for all sorted sequences, those that go through time together at once.
template <typename T, typename Body>
void InVaryingBlocks(const Planner<T>& planner, const Body& body) {
  const int64_t batch = planner.plan.chains.batch, block = VaryingBlock(planner);
  ParallelFor((batch + block - 1) / block, planner.num_threads,
              [&](int64_t task) { body(task * block, std::min(batch, (task + 1) * block)); });
}

// Log Z of all sequences; then calls finish(b) for each.
template <typename T, typename Finish>
void LogPartitions(const Planner<T>& planner, double* value, const Finish& finish) {
  const Plan<T>& plan = planner.plan;
  if (plan.chains.varies) {
    InVaryingBlocks(planner, [&](int64_t first, int64_t last) {
      VaryingLogPartitions<T>(planner, first, last, nullptr, value);
      for (int64_t k = first; k < last; ++k) finish(plan.order[k]);
    });
    return;
  }
  const int64_t block = planner.block();
  const std::vector<Task> tasks = planner.Tasks(block, 1);
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    LogPartitionsOf(planner, tasks[number], block, value);
    for (int64_t k = tasks[number].first; k < tasks[number].last; ++k) finish(plan.order[k]);
  });
}

// The quantity of one sequence, of which log Z is known where the quantity needs it.
template <typename T>
T ValueOf(const Plan<T>& plan, int64_t b, const int32_t* tags, Quantity quantity,
          double log_partition) {
  if (quantity == Quantity::kLogPartition) return static_cast<T>(log_partition);
  double score;
  PathScores(plan, b, 1, tags + b * plan.chains.steps, &score);
  const bool possible = score != -INFINITY || std::isnan(log_partition);
  if (quantity == Quantity::kLogLikelihood && possible) {
    score = std::min(score - log_partition, 0.0);  // above 0 by rounding only
  }
  return static_cast<T>(score);
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
  const auto finish = [&](int64_t b) {
    value[b] = ValueOf(planner.plan, b, tags, quantity, log_partition[b]);
  };
  if (marginals) {
    LogPartitions(planner, log_partition.get(), finish);
    return;
  }
  for (int64_t b = 0; b < chains.batch; ++b) finish(b);
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
    InVaryingBlocks(planner, [&](int64_t first, int64_t last) {
      VaryingGradients(planner, first, last, gold ? tags : nullptr, T(gold ? -1 : 1), values.get(),
                       weights, false, d_emissions, d_transitions);
    });
    AddEnds(plan, d_emissions, d_start, d_end);
    return;
  }
  const int64_t group_size = planner.group_size(), groups = planner.groups(group_size);
  const Buffer<T> pairs(groups * num_tags * stride);
  Sweep<T> sweep(planner, gold ? tags : nullptr, gold ? -1 : 1, values.get(), weights, d_emissions,
                 pairs.data, group_size, false);
  sweep.All();
  AddEnds(plan, d_emissions, d_start, d_end);
  AddGroups(planner, groups, pairs.data, false, d_transitions);
}

template <typename T>
void ValueAndGradient(const Chains<T>& chains, const int32_t* tags, Quantity quantity, T* value,
                      const T* weights, T* d_emissions, T* d_transitions, T* d_start, T* d_end,
                      int num_threads) {
  if (quantity == Quantity::kSequenceScore) {
    Value<T>(chains, tags, quantity, value, nullptr, num_threads);
    Gradient<T>(chains, tags, quantity, value, nullptr, weights, d_emissions, d_transitions,
                d_start, d_end, num_threads);
    return;
  }
  const Buffer<T> workspace(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
  const Planner<T> planner(chains, true, true, workspace.data, num_threads);
  const Plan<T>& plan = planner.plan;
  const bool gold = quantity == Quantity::kLogLikelihood;
  const int32_t* const path = gold ? tags : nullptr;
  const std::unique_ptr<double[]> values(new double[chains.batch]());
  const auto finish = [&](int64_t b) {
    value[b] = ValueOf(plan, b, tags, quantity, values[b]);
    values[b] = value[b];  // rounded, as `Gradient` reads it
  };
  if (chains.varies) {
    InVaryingBlocks(planner, [&](int64_t first, int64_t last) {
      const bool keep = KeepsExponentials(planner, first);
      VaryingLogPartitions(planner, first, last, keep ? d_transitions : nullptr, values.get());
      for (int64_t k = first; k < last; ++k) finish(plan.order[k]);
      VaryingGradients(planner, first, last, path, T(gold ? -1 : 1), values.get(), weights, keep,
                       d_emissions, d_transitions);
    });
    AddEnds(plan, d_emissions, d_start, d_end);
    return;
  }
  const int64_t group_size = planner.group_size(), groups = planner.groups(group_size);
  const Buffer<T> pairs(groups * chains.num_tags * planner.stride());
  Sweep<T> sweep(planner, path, gold ? -1 : 1, values.get(), weights, d_emissions, pairs.data,
                 group_size, false);
  const int64_t block = sweep.block();
  const std::vector<Task> tasks = sweep.Tasks();
  sweep.largest = sweep.LargestWeight();  // as if all values were finite
  ParallelFor(tasks.size(), planner.num_threads, [&](int64_t number) {
    const Task& task = tasks[number];
    LogPartitionsOf(planner, task, block, values.get());
    for (int64_t k = task.first; k < task.last; ++k) finish(plan.order[k]);
    sweep(task);
  });
  if (sweep.LargestWeight() != sweep.largest) sweep.All();
  AddEnds(plan, d_emissions, d_start, d_end);
  AddGroups(planner, groups, pairs.data, false, d_transitions);
}

template <typename T>
void Marginals(const Chains<T>& chains, T* unary, T* counts, int num_threads) {
  const int64_t batch = chains.batch, num_tags = chains.num_tags;
  const Buffer<T> workspace(WorkspaceSize<T>(batch, chains.steps, num_tags));
  const Planner<T> planner(chains, true, true, workspace.data, num_threads);
  const std::unique_ptr<double[]> value(new double[batch]);
  const Buffer<T> ones(batch);
  std::fill(ones.data, ones.data + batch, T(1));
  if (chains.varies) {
    InVaryingBlocks(planner, [&](int64_t first, int64_t last) {
      const bool keep = KeepsExponentials(planner, first);
      VaryingLogPartitions(planner, first, last, keep ? counts : nullptr, value.get());
      VaryingGradients<T>(planner, first, last, nullptr, 1, value.get(), ones.data, keep, unary,
                          counts);
    });
    return;
  }
  LogPartitions(planner, value.get(), [](int64_t) {});
  const int64_t stride = planner.stride();
  const bool padded = stride != num_tags;
  const Buffer<T> room(padded ? batch * num_tags * stride : 0);
  T* pairs = padded ? room.data : counts;
  Sweep<T>(planner, nullptr, 1, value.get(), ones.data, unary, pairs, 1, true).All();
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

#define FASTKERAS_INSTANTIATE(T)                                                                  \
  template int64_t WorkspaceSize<T>(int64_t, int64_t, int64_t);                                   \
  template void Value<T>(const Chains<T>&, const int32_t*, Quantity, T*, T*, int);                \
  template void Gradient<T>(const Chains<T>&, const int32_t*, Quantity, const T*, const T*,       \
                            const T*, T*, T*, T*, T*, int);                                       \
  template void ValueAndGradient<T>(const Chains<T>&, const int32_t*, Quantity, T*, const T*, T*, \
                                    T*, T*, T*, int);                                             \
  template void Marginals<T>(const Chains<T>&, T*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
