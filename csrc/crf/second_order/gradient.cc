// Gradients and marginals of a batch of second-order chains: the parts of groups, put together.

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "crf/second_order/batch.h"
#include "crf/second_order/exact.h"
#include "crf/second_order/wide.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// The gradients by what sequences share, summed in double.
struct SharedSums {
  explicit SharedSums(int64_t num_tags)
      : pairs(num_tags * num_tags), triples(num_tags * num_tags * num_tags) {}
  std::vector<double> pairs, triples;  // pairs: without those that are in triples
};

template <typename T>
void AddGold(const Plan<T>& plan, int64_t b, const int32_t* path, T weight, T* d_emissions,
             SharedSums& shared) {
  const int64_t num_tags = plan.chains.num_tags;
  int64_t before = 0, pair = 0;
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t t = StepAt(plan, b, s), tag = path[t];
    d_emissions[(b * plan.chains.steps + t) * num_tags + tag] += weight;
    if (s == 1) shared.pairs[before * num_tags + tag] += weight;
    if (s > 1) shared.triples[pair * num_tags + tag] += weight;
    pair = before * num_tags + tag;
    before = tag;
  }
}

template <typename T>
void FillRows(const Plan<T>& plan, int64_t b, T fill, T* d_emissions) {
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t row = b * plan.chains.steps + StepAt(plan, b, s);
    std::fill_n(d_emissions + row * plan.chains.num_tags, plan.chains.num_tags, fill);
  }
}

// The sums of the triples take num_tags^3 numbers, for each of a few blocks of sequences, and for
// each thread. Which sequences make a block depends on the problem alone, since the sums depend on
// it.
template <typename T>
int64_t BlocksOf(const TripleLayout<T>& layout) {
  constexpr int64_t kFewest = 16, kNumbers = int64_t{1} << 22;
  return std::min(layout.groups(), std::max(kFewest, kNumbers / std::max<int64_t>(1, layout.sums)));
}

// Adds the sums of all blocks around a middle tag, (blocks, layout.sums), times the scores and the
// largest factor.
template <typename T, typename Sum>
void AddTriples(const TripleLayout<T>& layout, int64_t width, int64_t j, int64_t blocks, T largest,
                const Sum* sums, SharedSums& shared) {
  const TriplePlan<T>& triples = layout.plan;
  const int64_t num_tags = triples.num_tags, area = num_tags * num_tags;
  const int64_t v = j % triples.vectors, section = j / triples.vectors;
  const TripleBlock<T>& block = triples.blocks[v];
  const int64_t row = TilesOf(block.num_after, width) * width;
  std::vector<int64_t> tags_after(block.num_after);
  std::vector<double> totals(block.num_after);
  for (int64_t n = 0; n < block.num_after; ++n) {
    tags_after[n] = block.after[n] / width - v * triples.rows;
  }
  for (int64_t m = 0; m < block.num_before; ++m) {
    const int64_t i = block.before[m] / width / triples.vectors;
    const Sum* const from = sums + block.counts + (section * block.num_before + m) * row;
    std::fill(totals.begin(), totals.end(), 0.0);
    for (int64_t of_block = 0; of_block < blocks; ++of_block) {
      const Sum* const of_row = from + of_block * layout.sums;
      for (int64_t n = 0; n < block.num_after; ++n) totals[n] += static_cast<double>(of_row[n]);
    }
    const int64_t first = i * area + j * num_tags;
    for (int64_t n = 0; n < block.num_after; ++n) {
      const double weight = triples.scores[first + tags_after[n]];
      if (weight == 0 || totals[n] == 0) continue;  // not 0 * NaN
      shared.triples[first + tags_after[n]] += weight * largest * totals[n];
    }
  }
}

// Factors times the marginals, to the rows of d_emissions and to the sums.
template <typename T>
void SweepShared(const Planner<T>& planner, const TripleLayout<T>& layout,
                 const std::vector<T>& factors, T* d_emissions, SharedSums& shared) {
  const TriplePlan<T>& triples = layout.plan;
  const int64_t num_tags = triples.num_tags, area = num_tags * num_tags, size = layout.sums;
  const int64_t groups = layout.groups(), blocks = BlocksOf(layout);
  T largest = 0;
  for (T factor : factors) largest = std::max(largest, std::abs(factor));
  if (largest == 0) return;
  std::vector<T> shares = factors;
  for (T& share : shares) share /= largest;
  const Buffer<T> pairs(static_cast<int64_t>(factors.size()) * area);
  // Of each block: in double, if several groups make one.
  const Buffer<T> of_groups(blocks == groups ? blocks * size : 0);
  const Buffer<double> of_blocks(blocks == groups ? 0 : blocks * size);
  const auto sweep = [&](int64_t group, T* sums) {
    std::fill_n(sums, size, T(0));
    planner.kernels.triple_backward(triples,
                                    {factors.data(), d_emissions, pairs.data, shares.data(), sums},
                                    group * triples.lanes, layout.last(group));
  };
  ParallelFor(blocks, planner.num_threads, [&](int64_t block) {
    if (blocks == groups) return sweep(block, of_groups.data + block * size);
    double* const sums = of_blocks.data + block * size;
    std::fill_n(sums, size, 0.0);
    const Buffer<T> of_group(size);
    for (int64_t group = block * groups / blocks; group < (block + 1) * groups / blocks; ++group) {
      sweep(group, of_group.data);
      for (int64_t k = 0; k < size; ++k) sums[k] += of_group.data[k];
    }
  });
  ParallelFor(num_tags, planner.num_threads, [&](int64_t j) {
    double* const row = shared.pairs.data() + j * num_tags;
    for (int64_t place = 0; place < layout.num_sequences(); ++place) {
      const int64_t b = triples.order[place];
      if (factors[b] == 0) continue;
      const double factor = factors[b];
      const T* const of_sequence = pairs.data + b * area + j * num_tags;
      for (int64_t k = 0; k < num_tags; ++k) row[k] += factor * of_sequence[k];
    }
    blocks == groups
        ? AddTriples(layout, planner.kernels.width, j, blocks, largest, of_groups.data, shared)
        : AddTriples(layout, planner.kernels.width, j, blocks, largest, of_blocks.data, shared);
  });
}

// factor times the marginals of each sequence, to the rows of d_emissions, which must be 0, and to
// the sums; or, where these are null, to the counts of all pairs (batch, num_tags, num_tags). The
// factor of a sequence that is left out is 0.
template <typename T>
void Sweep(const SecondOrderChains<T>& given, const Planner<T>& planner,
           const TripleLayout<T>& layout, const std::vector<T>& factors, T* d_emissions,
           SharedSums* shared, T* counts) {
  const Plan<T>& plan = planner.plan;
  const int64_t num_tags = given.chains.num_tags, area = num_tags * num_tags;
  const TriplePlan<T>& triples = layout.plan;
  std::vector<T> scaled = factors;
  std::vector<int64_t> inexact;
  for (int64_t b = 0; b < given.chains.batch; ++b) {
    if (factors[b] == 0) continue;
    if (plan.counts[b] == 1) {
      const std::vector<double> scores = ScoresOfOne(plan, b);
      const double log_sum = LogSumOf(scores);
      T* const row = d_emissions + (b * given.chains.steps + StepAt(plan, b, 0)) * num_tags;
      for (int64_t j = 0; j < num_tags; ++j) {
        row[j] = static_cast<T>(factors[b] * std::exp(scores[j] - log_sum));
      }
    } else if (triples.inexact[b]) {
      inexact.push_back(b);
      scaled[b] = 0;
    }
  }
  if (shared) {
    SweepShared(planner, layout, scaled, d_emissions, *shared);
  } else {
    ParallelFor(layout.groups(), planner.num_threads, [&](int64_t group) {
      planner.kernels.triple_backward(triples,
                                      {scaled.data(), d_emissions, counts, nullptr, nullptr},
                                      group * triples.lanes, layout.last(group));
    });
  }
  if (inexact.empty()) return;
  if constexpr (sizeof(T) == 4) {
    const WideChains wide(given, plan, inexact);
    wide.AddMarginals(plan, factors.data(), d_emissions, shared ? shared->pairs.data() : nullptr,
                      shared ? shared->triples.data() : nullptr, counts, planner.num_threads);
  } else {
    std::vector<double> of_sequence(shared ? 0 : area);
    for (int64_t b : inexact) {
      std::fill(of_sequence.begin(), of_sequence.end(), 0.0);
      ExactSecondOrderGradient(plan, given.triples, b, static_cast<double>(factors[b]),
                               d_emissions + b * given.chains.steps * num_tags,
                               shared ? shared->pairs.data() : of_sequence.data(),
                               shared ? shared->triples.data() : nullptr);
      std::copy(of_sequence.begin(), of_sequence.end(), shared ? nullptr : counts + b * area);
    }
  }
}

}  // namespace

template <typename T>
void SecondOrderGradient(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                         const T* value, const T* workspace, const T* weights,
                         const SecondOrderGradients<T>& gradients, int num_threads) {
  const Chains<T>& chains = given.chains;
  const int64_t batch = chains.batch, num_tags = chains.num_tags, area = num_tags * num_tags;
  const Planner<T> planner = PlannerOf(given, num_threads, 3);
  const Plan<T>& plan = planner.plan;
  std::fill_n(gradients.emissions, batch * chains.steps * num_tags, T(0));
  SharedSums shared(num_tags);
  std::vector<T> factors(batch);
  std::vector<bool> spoiled(batch);
  for (int64_t b = 0; b < batch; ++b) {
    if (plan.counts[b] == 0 || value[b] == -INFINITY || weights[b] == 0) continue;
    spoiled[b] = !std::isfinite(value[b]) || !std::isfinite(weights[b]);
    if (!spoiled[b]) factors[b] = quantity == Quantity::kLogPartition ? weights[b] : -weights[b];
  }
  if (quantity != Quantity::kSequenceScore) {
    const std::unique_ptr<uint8_t[]> inexact(new uint8_t[batch]);
    const TripleLayout<T> layout(planner, given.triples, TripleUse::kGradient,
                                 const_cast<T*>(workspace), inexact.get());
    const int64_t size = KeptTriples(chains.steps, num_tags).size;
    for (int64_t b = 0; b < batch; ++b) inexact[b] |= workspace[batch * size + b] != 0;
    Sweep(given, planner, layout, factors, gradients.emissions, &shared, static_cast<T*>(nullptr));
  }
  for (int64_t b = 0; b < batch; ++b) {
    if (spoiled[b]) {
      FillRows(plan, b, T(NAN), gradients.emissions);
      if (plan.counts[b] > 1) std::fill(shared.pairs.begin(), shared.pairs.end(), NAN);
      if (plan.counts[b] > 2) std::fill(shared.triples.begin(), shared.triples.end(), NAN);
    } else if (factors[b] != 0 && quantity != Quantity::kLogPartition) {
      AddGold(plan, b, tags + b * chains.steps, weights[b], gradients.emissions, shared);
    }
  }
  for (int64_t i = 0; i < num_tags; ++i) {
    const double* const from = shared.triples.data() + i * area;
    T* const to = gradients.triples + i * area;
    for (int64_t k = 0; k < area; ++k) {
      to[k] = static_cast<T>(from[k]);
      shared.pairs[k] += from[k];
    }
  }
  std::copy(shared.pairs.begin(), shared.pairs.end(), gradients.transitions);
  std::vector<double> ends(2 * num_tags);
  for (int64_t b = 0; b < batch; ++b) {
    if (plan.counts[b] == 0) continue;
    const T* const rows = gradients.emissions + b * chains.steps * num_tags;
    for (int64_t j = 0; j < num_tags; ++j) {
      ends[j] += rows[StepAt(plan, b, 0) * num_tags + j];
      ends[num_tags + j] += rows[StepAt(plan, b, plan.counts[b] - 1) * num_tags + j];
    }
  }
  std::copy_n(ends.begin(), num_tags, gradients.start);
  std::copy_n(ends.begin() + num_tags, num_tags, gradients.end);
}

template <typename T>
void SecondOrderMarginals(const SecondOrderChains<T>& given, T* unary, T* counts, int num_threads) {
  const Chains<T>& chains = given.chains;
  const int64_t batch = chains.batch, num_tags = chains.num_tags, area = num_tags * num_tags;
  const Planner<T> planner = PlannerOf(given, num_threads, 3);
  const Plan<T>& plan = planner.plan;
  const Buffer<T> workspace(SecondOrderWorkspaceSize(batch, chains.steps, num_tags));
  const std::unique_ptr<uint8_t[]> inexact(new uint8_t[batch]);
  const std::unique_ptr<double[]> value(new double[batch]());
  const TripleLayout<T> layout(planner, given.triples, TripleUse::kMarginals, workspace.data,
                               inexact.get());
  LogPartitions(given, planner, layout, value.get());
  std::vector<T> factors(batch);
  for (int64_t b = 0; b < batch; ++b) factors[b] = std::isfinite(value[b]) && plan.counts[b] > 0;
  std::fill_n(unary, batch * chains.steps * num_tags, T(0));
  std::fill_n(counts, batch * area, T(0));
  Sweep(given, planner, layout, factors, unary, static_cast<SharedSums*>(nullptr), counts);
  for (int64_t b = 0; b < batch; ++b) {
    if (factors[b] != 0) continue;
    const T fill = std::isnan(value[b]) ? T(NAN) : T(0);
    if (plan.counts[b] > 0) FillRows(plan, b, fill, unary);
    std::fill_n(counts + b * area, area, plan.counts[b] > 1 ? fill : T(0));
  }
}

#define FASTKERAS_INSTANTIATE(T)                                                              \
  template void SecondOrderGradient<T>(const SecondOrderChains<T>&, const int32_t*, Quantity, \
                                       const T*, const T*, const T*,                          \
                                       const SecondOrderGradients<T>&, int);                  \
  template void SecondOrderMarginals<T>(const SecondOrderChains<T>&, T*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
