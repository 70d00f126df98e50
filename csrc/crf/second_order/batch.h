// What the values, the gradients and the best paths of a batch of second-order chains share.

#ifndef FASTKERAS_CRF_SECOND_ORDER_BATCH_H_
#define FASTKERAS_CRF_SECOND_ORDER_BATCH_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "crf/planner.h"
#include "crf/second_order/layout.h"
#include "crf/second_order/second_order.h"

namespace fastkeras::crf {

// `passes`: how many times what a value takes.
template <typename T>
Planner<T> PlannerOf(const SecondOrderChains<T>& given, int num_threads, double passes) {
  const double tags = static_cast<double>(given.chains.num_tags);
  return Planner<T>(given.chains, false, false, nullptr, num_threads,
                    passes * 0.04 * tags * tags * tags);
}

// The scores of the tags of a sequence of one valid step.
template <typename T>
std::vector<double> ScoresOfOne(const Plan<T>& plan, int64_t b) {
  const Chains<T>& chains = plan.chains;
  const T* const x = chains.emissions + (b * chains.steps + StepAt(plan, b, 0)) * chains.num_tags;
  std::vector<double> scores(chains.num_tags);
  for (int64_t j = 0; j < chains.num_tags; ++j) {
    scores[j] = static_cast<double>(x[j]) + chains.start_transitions[j] + chains.end_transitions[j];
  }
  return scores;
}

inline double LogSumOf(const std::vector<double>& scores) {
  const double peak = *std::max_element(scores.begin(), scores.end());
  if (!std::isfinite(peak)) return peak;
  double sum = 0;
  for (double score : scores) sum += std::exp(score - peak);
  return std::log(sum) + peak;
}

// Whether a sequence uses no score that is NaN or +inf.
template <typename T>
bool IsSound(const Planner<T>& planner, bool sound_triples, int64_t b) {
  const Plan<T>& plan = planner.plan;
  return planner.kernels.is_sound(plan, b) && (plan.counts[b] < 3 || sound_triples);
}

// log Z of all sequences, in single precision rounded by the caller: by the kernels, or in log
// space where these tell that the scaled domain cannot hold a sequence.
template <typename T>
void LogPartitions(const SecondOrderChains<T>& given, const Planner<T>& planner,
                   const TripleLayout<T>& layout, double* value);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_BATCH_H_
