#include "crf/second_order/wide.h"

#include <algorithm>
#include <cmath>

namespace fastkeras::crf {

WideChains::WideChains(const SecondOrderChains<float>& of, const Plan<float>& plan,
                       const std::vector<int64_t>& sequences)
    : sequences_(sequences) {
  const Chains<float>& chains = of.chains;
  const int64_t num_tags = chains.num_tags, area = num_tags * num_tags;
  int64_t steps = 0;
  for (int64_t b : sequences) {
    steps = std::max(steps, plan.counts[b]);
    lengths_.push_back(static_cast<int32_t>(plan.counts[b]));
  }
  const int64_t batch = static_cast<int64_t>(sequences.size());
  emissions_.resize(batch * steps * num_tags);
  for (int64_t k = 0; k < batch; ++k) {
    const int64_t b = sequences[k];
    for (int64_t s = 0; s < plan.counts[b]; ++s) {
      const float* const row =
          chains.emissions + (b * chains.steps + StepAt(plan, b, s)) * num_tags;
      std::copy_n(row, num_tags, emissions_.begin() + (k * steps + s) * num_tags);
    }
  }
  transitions_.assign(chains.transitions, chains.transitions + area);
  triples_.assign(of.triples, of.triples + area * num_tags);
  start_.assign(chains.start_transitions, chains.start_transitions + num_tags);
  end_.assign(chains.end_transitions, chains.end_transitions + num_tags);
  given.chains = {
      batch,       steps,           num_tags, emissions_.data(), transitions_.data(), start_.data(),
      end_.data(), lengths_.data(), nullptr};
  given.triples = triples_.data();
}

void WideChains::AddMarginals(const Plan<float>& plan, const float* factors, float* d_emissions,
                              double* pairs, double* triples, float* counts,
                              int num_threads) const {
  const int64_t batch = given.chains.batch, steps = given.chains.steps;
  const int64_t num_tags = given.chains.num_tags, area = num_tags * num_tags;
  std::vector<double> unary(batch * steps * num_tags);
  if (pairs) {
    std::vector<double> value(batch), weights(batch), start(num_tags), end(num_tags);
    std::vector<double> workspace(SecondOrderWorkspaceSize(batch, steps, num_tags));
    std::vector<double> of_pairs(area), of_triples(area * num_tags);
    for (int64_t k = 0; k < batch; ++k) weights[k] = factors[sequences_[k]];
    SecondOrderValue<double>(given, nullptr, Quantity::kLogPartition, value.data(),
                             workspace.data(), num_threads);
    SecondOrderGradient<double>(
        given, nullptr, Quantity::kLogPartition, value.data(), workspace.data(), weights.data(),
        {unary.data(), of_pairs.data(), of_triples.data(), start.data(), end.data()}, num_threads);
    for (int64_t k = 0; k < area * num_tags; ++k) {
      triples[k] += of_triples[k];
      of_pairs[k % area] -= of_triples[k];
    }
    for (int64_t k = 0; k < area; ++k) pairs[k] += of_pairs[k];
  } else {
    std::vector<double> of_pairs(batch * area);
    SecondOrderMarginals<double>(given, unary.data(), of_pairs.data(), num_threads);
    for (int64_t k = 0; k < batch; ++k) {
      std::copy_n(of_pairs.begin() + k * area, area, counts + sequences_[k] * area);
    }
  }
  for (int64_t k = 0; k < batch; ++k) {
    const int64_t b = sequences_[k];
    for (int64_t s = 0; s < given.chains.lengths[k]; ++s) {
      float* const row = d_emissions + (b * plan.chains.steps + StepAt(plan, b, s)) * num_tags;
      const double* const p = unary.data() + (k * steps + s) * num_tags;
      for (int64_t j = 0; j < num_tags; ++j) row[j] += static_cast<float>(p[j]);
    }
  }
}

}  // namespace fastkeras::crf
