// Cuts a batch of second-order chains into groups for the kernels, puts the parts of their
// gradients together, and sends what the scaled domain cannot hold to double, and then to log
// space.

#include "crf/second_order/second_order.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "crf/paths.h"
#include "crf/planner.h"
#include "crf/second_order/exact.h"
#include "crf/second_order/layout.h"
#include "crf/second_order/wide.h"
#include "machine/memory.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

template <typename T>
Planner<T> PlannerOf(const SecondOrderChains<T>& given, int num_threads) {
  const double tags = static_cast<double>(given.chains.num_tags);
  return Planner<T>(given.chains, false, false, nullptr, num_threads, 0.05 * tags * tags * tags);
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

double LogSumOf(const std::vector<double>& scores) {
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

// factor times the marginals of each sequence, to the rows of d_emissions, which must be 0, and to
// the sums; or, where these are null, to the counts of all pairs (batch, num_tags, num_tags). The
// factor of a sequence that is left out is 0.
template <typename T>
void Sweep(const SecondOrderChains<T>& given, const Planner<T>& planner,
           const TripleLayout<T>& layout, const std::vector<T>& factors, T* d_emissions,
           SharedSums* shared, T* counts) {
  const Plan<T>& plan = planner.plan;
  const int64_t num_tags = given.chains.num_tags, area = num_tags * num_tags;
  const int64_t width = planner.kernels.width, of_group = layout.sums * width;
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
  const Buffer<T> sums(shared ? layout.groups() * of_group : 0);
  const Buffer<T> room(shared ? given.chains.batch * area : 0);
  T* const pairs = shared ? room.data : counts;
  ParallelFor(layout.groups(), planner.num_threads, [&](int64_t group) {
    T* const of_triples = shared ? sums.data + group * of_group : nullptr;
    if (shared) std::fill_n(of_triples, of_group, T(0));
    planner.kernels.triple_backward(triples, {scaled.data(), d_emissions, pairs, of_triples},
                                    group * triples.lanes, layout.last(group));
  });
  if (shared) {
    // Sequence after sequence, in whatever lanes they are, so that the bits do not depend on it.
    for (int64_t place = 0; place < layout.num_sequences(); ++place) {
      const int64_t b = triples.order[place];
      for (int64_t k = 0; scaled[b] != 0 && k < area; ++k) {
        shared->pairs[k] += static_cast<double>(scaled[b]) * pairs[b * area + k];
      }
    }
    ParallelFor(num_tags, planner.num_threads, [&](int64_t j) {
      const int v = static_cast<int>(j % triples.vectors);
      const int64_t lane = j / triples.vectors * triples.lanes;
      const TripleBlock<T>& block = triples.blocks[v];
      for (int64_t n = 0; n < int64_t{block.num_before} * block.num_after; ++n) {
        const int64_t i = block.before[n / block.num_after] / width / triples.vectors;
        const int64_t k = block.after[n % block.num_after] / width - v * triples.rows;
        const double weight = triples.scores[i * area + j * num_tags + k];
        if (weight == 0) continue;
        double sum = 0;
        for (int64_t place = 0; place < layout.num_sequences(); ++place) {
          const T factor = scaled[triples.order[place]];
          const int64_t at = place / triples.lanes * of_group + (block.counts + n) * width + lane;
          if (factor != 0)
            sum += static_cast<double>(factor) * sums.data[at + place % triples.lanes];
        }
        if (sum != 0) shared->triples[i * area + j * num_tags + k] += weight * sum;  // not 0 * NaN
      }
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

int64_t SecondOrderWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags) {
  return batch * (KeptTriples(steps, num_tags).size + 1);
}

template <typename T>
void SecondOrderValue(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                      T* value, T* workspace, int num_threads) {
  const Chains<T>& chains = given.chains;
  const Planner<T> planner = PlannerOf(given, num_threads);
  const std::unique_ptr<double[]> log_partition(new double[chains.batch]());
  if (quantity != Quantity::kSequenceScore) {
    const std::unique_ptr<uint8_t[]> inexact(new uint8_t[chains.batch]);
    const TripleLayout<T> layout(planner, given.triples, true, workspace, inexact.get());
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
void SecondOrderGradient(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                         const T* value, const T* workspace, const T* weights,
                         const SecondOrderGradients<T>& gradients, int num_threads) {
  const Chains<T>& chains = given.chains;
  const int64_t batch = chains.batch, num_tags = chains.num_tags, area = num_tags * num_tags;
  const Planner<T> planner = PlannerOf(given, num_threads);
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
    const TripleLayout<T> layout(planner, given.triples, true, const_cast<T*>(workspace),
                                 inexact.get());
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
  std::copy(shared.triples.begin(), shared.triples.end(), gradients.triples);
  for (int64_t k = 0; k < area; ++k) {
    double sum = shared.pairs[k];
    for (int64_t i = 0; i < num_tags; ++i) sum += shared.triples[i * area + k];
    gradients.transitions[k] = static_cast<T>(sum);
  }
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
  const Planner<T> planner = PlannerOf(given, num_threads);
  const Plan<T>& plan = planner.plan;
  const Buffer<T> workspace(SecondOrderWorkspaceSize(batch, chains.steps, num_tags));
  const std::unique_ptr<uint8_t[]> inexact(new uint8_t[batch]);
  const std::unique_ptr<double[]> value(new double[batch]());
  const TripleLayout<T> layout(planner, given.triples, true, workspace.data, inexact.get());
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

namespace {

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

template <typename T>
void SecondOrderViterbi(const SecondOrderChains<T>& given, int32_t* tags, T* score,
                        int num_threads) {
  const Chains<T>& chains = given.chains;
  const Planner<T> planner = PlannerOf(given, num_threads);
  const Plan<T>& plan = planner.plan;
  const std::unique_ptr<uint8_t[]> inexact(new uint8_t[chains.batch]);
  const TripleLayout<T> layout(planner, given.triples, false, nullptr, inexact.get());
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
  template void SecondOrderValue<T>(const SecondOrderChains<T>&, const int32_t*, Quantity, T*, T*, \
                                    int);                                                          \
  template void SecondOrderGradient<T>(const SecondOrderChains<T>&, const int32_t*, Quantity,      \
                                       const T*, const T*, const T*,                               \
                                       const SecondOrderGradients<T>&, int);                       \
  template void SecondOrderMarginals<T>(const SecondOrderChains<T>&, T*, T*, int);                 \
  template void SecondOrderViterbi<T>(const SecondOrderChains<T>&, int32_t*, T*, int);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
