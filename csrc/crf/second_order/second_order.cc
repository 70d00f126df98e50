// Cuts a batch of second-order chains into groups for the kernels, and sends what the scaled domain
// cannot hold to double, and then to log space.

#include "crf/second_order/second_order.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "crf/paths.h"
#include "crf/second_order/batch.h"
#include "crf/second_order/exact.h"
#include "crf/second_order/wide.h"
#include "machine/parallel.h"

namespace fastkeras::crf {

template <typename T>
void LogPartitions(const SecondOrderChains<T>& given, const Planner<T>& planner,
                   const TripleLayout<T>& layout, double* value) {
  const Plan<T>& plan = planner.plan;
  ParallelFor(layout.groups(), planner.num_threads, [&](int64_t group) {
    planner.kernels.triple_forward(layout.plan, group * layout.plan.lanes, layout.last(group),
                                   value);
  });
  std::vector<int64_t> inexact;
  for (int64_t b = 0; b < plan.chains.batch; ++b) {
    if (plan.counts[b] == 0) value[b] = 0;
    const bool one = plan.counts[b] == 1;
    if (!one && !(plan.counts[b] > 1 && layout.plan.inexact[b])) continue;
    if (!IsSound(planner, layout.sound_triples, b)) {
      value[b] = NAN;
    } else if (one) {
      value[b] = LogSumOf(ScoresOfOne(plan, b));
    } else {
      inexact.push_back(b);
    }
  }
  if (inexact.empty()) return;
  if constexpr (sizeof(T) == 4) {
    const WideChains wide(given, plan, inexact);
    std::vector<double> values(inexact.size());
    SecondOrderValue<double>(wide.given, nullptr, Quantity::kLogPartition, values.data(), nullptr,
                             planner.num_threads);
    for (size_t k = 0; k < inexact.size(); ++k) value[inexact[k]] = values[k];
  } else {
    ParallelFor(inexact.size(), planner.num_threads, [&](int64_t k) {
      value[inexact[k]] = ExactSecondOrder(plan, given.triples, inexact[k]);
    });
  }
}

namespace {

template <typename T>
double PathScore(const SecondOrderChains<T>& given, const Plan<T>& plan, int64_t b,
                 const int32_t* path) {
  const int64_t num_tags = given.chains.num_tags;
  double score;
  PathScores(plan, b, 1, path, &score);
  for (int64_t s = 2; s < plan.counts[b]; ++s) {
    const int64_t i = path[StepAt(plan, b, s - 2)], j = path[StepAt(plan, b, s - 1)];
    score += given.triples[(i * num_tags + j) * num_tags + path[StepAt(plan, b, s)]];
  }
  return score;
}

// The result of a recursion that keeps every NaN: of sequences that are not sound (soundness.h).
template <typename T>
T UnsoundScore(const SecondOrderChains<T>& given, const Plan<T>& plan, int64_t b) {
  const Chains<T>& chains = given.chains;
  const int64_t num_tags = chains.num_tags, area = num_tags * num_tags, steps = plan.counts[b];
  const auto has_nan = [](const T* scores, int64_t count) {
    return std::any_of(scores, scores + count, [](T score) { return std::isnan(score); });
  };
  const auto emissions = [&](int64_t s) {
    return chains.emissions + (b * chains.steps + StepAt(plan, b, s)) * num_tags;
  };
  bool any = has_nan(chains.start_transitions, num_tags) ||
             has_nan(chains.end_transitions, num_tags) ||
             (steps > 1 && has_nan(chains.transitions, area)) ||
             (steps > 2 && has_nan(given.triples, area * num_tags));
  for (int64_t s = 0; s < steps && !any; ++s) any = has_nan(emissions(s), num_tags);
  if (any) return NAN;
  const auto raise = [](double& best, double score) {
    if (score > best || std::isnan(score)) best = score;
  };
  std::vector<double> best(area), before;
  for (int64_t k = 0; k < area; ++k) {  // the first tag in each row, as if it came after itself
    best[k] =
        static_cast<double>(emissions(0)[k % num_tags]) + chains.start_transitions[k % num_tags];
  }
  for (int64_t s = 1; s < steps; ++s) {
    before = best;
    for (int64_t k = 0; k < area; ++k) {
      double reached = s == 1 ? before[k / num_tags] : -INFINITY;
      for (int64_t i = 0; s > 1 && i < num_tags; ++i) {
        raise(reached, before[i * num_tags + k / num_tags] + given.triples[i * area + k]);
      }
      best[k] = reached + chains.transitions[k] + emissions(s)[k % num_tags];
    }
  }
  double score = -INFINITY;
  for (int64_t k = 0; k < area; ++k) raise(score, best[k] + chains.end_transitions[k % num_tags]);
  return static_cast<T>(score);
}

}  // namespace

int64_t SecondOrderWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags) {
  return batch * (KeptTriples(steps, num_tags).size + 1);
}

template <typename T>
void SecondOrderValue(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                      T* value, T* workspace, int num_threads) {
  const Chains<T>& chains = given.chains;
  const Planner<T> planner = PlannerOf(given, num_threads, 1);
  const std::unique_ptr<double[]> log_partition(new double[chains.batch]());
  if (quantity != Quantity::kSequenceScore) {
    const std::unique_ptr<uint8_t[]> inexact(new uint8_t[chains.batch]);
    const TripleLayout<T> layout(planner, given.triples, TripleUse::kValue, workspace,
                                 inexact.get());
    LogPartitions(given, planner, layout, log_partition.get());
    const int64_t size = KeptTriples(chains.steps, chains.num_tags).size;
    for (int64_t b = 0; workspace && b < chains.batch; ++b) {
      workspace[chains.batch * size + b] = inexact[b];
    }
  }
  for (int64_t b = 0; b < chains.batch; ++b) {
    if (quantity == Quantity::kLogPartition) {
      value[b] = static_cast<T>(log_partition[b]);
      continue;
    }
    double score = PathScore(given, planner.plan, b, tags + b * chains.steps);
    const bool possible = score != -INFINITY || std::isnan(log_partition[b]);
    if (quantity == Quantity::kLogLikelihood && possible) {
      score = std::min(score - log_partition[b], 0.0);  // above 0 by rounding only
    }
    value[b] = static_cast<T>(score);
  }
}

template <typename T>
void SecondOrderViterbi(const SecondOrderChains<T>& given, int32_t* tags, T* score,
                        int num_threads) {
  const Chains<T>& chains = given.chains;
  const Planner<T> planner = PlannerOf(given, num_threads, 2);
  const Plan<T>& plan = planner.plan;
  const std::unique_ptr<uint8_t[]> inexact(new uint8_t[chains.batch]);
  const TripleLayout<T> layout(planner, given.triples, TripleUse::kViterbi, nullptr, inexact.get());
  std::fill_n(tags, chains.batch * chains.steps, 0);
  ParallelFor(layout.groups(), planner.num_threads, [&](int64_t group) {
    planner.kernels.triple_viterbi(layout.plan, group * layout.plan.lanes, layout.last(group),
                                   tags);
  });
  for (int64_t b = 0; b < chains.batch; ++b) {
    int32_t* const path = tags + b * chains.steps;
    score[b] = 0;
    if (plan.counts[b] == 0) continue;
    if (!IsSound(planner, layout.sound_triples, b)) {
      std::fill_n(path, chains.steps, 0);
      score[b] = UnsoundScore(given, plan, b);
      continue;
    }
    if (plan.counts[b] == 1) {
      const std::vector<double> scores = ScoresOfOne(plan, b);
      const auto best = std::max_element(scores.begin(), scores.end());
      path[StepAt(plan, b, 0)] = static_cast<int32_t>(best - scores.begin());
    }
    score[b] = static_cast<T>(PathScore(given, plan, b, path));
  }
}

#define FASTKERAS_INSTANTIATE(T)                                                                   \
  template void LogPartitions<T>(const SecondOrderChains<T>&, const Planner<T>&,                   \
                                 const TripleLayout<T>&, double*);                                 \
  template void SecondOrderValue<T>(const SecondOrderChains<T>&, const int32_t*, Quantity, T*, T*, \
                                    int);                                                          \
  template void SecondOrderViterbi<T>(const SecondOrderChains<T>&, int32_t*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
