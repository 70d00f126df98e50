#include "crf/varying/varying.h"

#include <algorithm>
#include <cmath>

#include "crf/exact.h"
#include "crf/gradients.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
namespace {

// The part of a sequence in d_transitions, unless that is null.
template <typename T>
T* PairsOf(const Plan<T>& plan, int64_t b, T* d_transitions) {
  const int64_t num_tags = plan.chains.num_tags, steps = plan.chains.steps;
  const int64_t matrices = std::max<int64_t>(steps - 1, 0);
  return d_transitions ? d_transitions + b * matrices * num_tags * num_tags : nullptr;
}

// Fills a sequence's gradients at its valid steps, or at the others. Into the first valid step
// there are no transitions.
template <typename T>
void FillRows(const Plan<T>& plan, int64_t b, bool valid, T fill, T* d_emissions,
              T* d_transitions) {
  const Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags, area = num_tags * num_tags;
  int64_t s = 0;
  for (int64_t t = 0; t < chains.steps; ++t) {
    const bool here = s < plan.counts[b] && StepAt(plan, b, s) == t;
    const bool pairs_here = here && s > 0;
    s += here;
    if (here == valid) std::fill_n(d_emissions + t * num_tags, num_tags, fill);
    if (t > 0 && pairs_here == valid) std::fill_n(d_transitions + (t - 1) * area, area, fill);
  }
}

// The weight of a sequence, 0 where it has no gradient.
template <typename T>
T WeightOf(const Plan<T>& plan, int64_t b, double value, const T* weights) {
  return plan.counts[b] == 0 || value == -INFINITY ? 0 : weights[b];
}

}  // namespace

// While a step of one sequence waits for its sums, those of others with short rows fill the time.
template <typename T>
int64_t VaryingBlock(const Planner<T>& planner) {
  constexpr int64_t kMost = 4;
  if (planner.plan.chains.num_tags >= kMostLaneTags) return 1;
  return std::min(kMost, planner.block());
}

template <typename T>
bool KeepsExponentials(const Planner<T>& planner, int64_t longest) {
  constexpr int64_t kInCache = int64_t{1} << 23;  // bytes, which are then still in the last cache
  const Plan<T>& plan = planner.plan;
  const int64_t area = plan.chains.num_tags * plan.chains.num_tags;
  return plan.counts[plan.order[longest]] * area * int64_t{sizeof(T)} <= kInCache;
}

template <typename T>
void VaryingLogPartitions(const Planner<T>& planner, int64_t first, int64_t last, T* exponentials,
                          double* value) {
  const Plan<T>& plan = planner.plan;
  int count = 0;  // of those with valid steps, which come first
  for (int64_t k = first; k < last; ++k) {
    const int64_t b = plan.order[k];
    value[b] = 0;
    plan.inexact[b] = false;
    count += plan.counts[b] > 0;
  }
  if (count == 0) return;
  planner.kernels.varying_forward(plan, plan.order + first, count, exponentials, value);
  for (int64_t k = first; k < first + count; ++k) {
    const int64_t b = plan.order[k];
    if (!plan.inexact[b]) continue;
    value[b] = planner.kernels.is_sound(plan, b) ? ExactLogPartition(plan, b) : NAN;
  }
}

template <typename T>
void VaryingGradients(const Planner<T>& planner, int64_t first, int64_t last, const int32_t* tags,
                      T sign, const double* value, const T* weights, bool exponentiated,
                      T* d_emissions, T* d_transitions) {
  const Plan<T>& plan = planner.plan;
  const int64_t steps = plan.chains.steps, num_tags = plan.chains.num_tags;
  int64_t swept[kMaxBlock];
  T factors[kMaxBlock];
  int count = 0;
  for (int64_t k = first; k < last; ++k) {
    const int64_t b = plan.order[k];
    T* const unary = d_emissions + b * steps * num_tags;
    T* const pairs = PairsOf(plan, b, d_transitions);
    FillRows(plan, b, false, T(0), unary, pairs);
    const T weight = WeightOf(plan, b, value[b], weights);
    if (weight == 0) {
      FillRows(plan, b, true, T(0), unary, pairs);
    } else if (std::isnan(value[b]) || !std::isfinite(weight)) {
      FillRows(plan, b, true, T(NAN), unary, pairs);
    } else if (plan.inexact[b]) {
      FillRows(plan, b, true, T(0), unary, pairs);
      ExactGradient(plan, b, static_cast<double>(sign * weight), unary, pairs, num_tags);
    } else {
      swept[count] = b;
      factors[count++] = sign * weight;
    }
  }
  if (count > 0) {
    planner.kernels.varying_backward(plan, swept, factors, count, exponentiated, d_emissions,
                                     d_transitions);
  }
  for (int64_t k = first; tags && k < last; ++k) {
    const int64_t b = plan.order[k];
    const T weight = WeightOf(plan, b, value[b], weights);
    if (weight == 0) continue;
    T* const unary = d_emissions + b * steps * num_tags;
    T* const pairs = PairsOf(plan, b, d_transitions);
    const int32_t* const path = tags + b * steps;
    int64_t before = 0;
    for (int64_t s = 0; s < plan.counts[b]; ++s) {
      const int64_t t = StepAt(plan, b, s), tag = path[t];
      unary[t * num_tags + tag] += weight;
      if (s > 0) PairsInto(plan, b, s, pairs)[before * num_tags + tag] += weight;
      before = tag;
    }
  }
}

template <typename T>
void WeighGradient(const Chains<T>& gradients, const T* value, const T* weights, T* d_emissions,
                   T* d_transitions, T* d_start, T* d_end, int num_threads) {
  const Planner<T> planner(gradients, false, false, nullptr, num_threads);
  const Plan<T>& plan = planner.plan;
  const int64_t steps = gradients.steps, num_tags = gradients.num_tags;
  const int64_t rows = steps * num_tags;
  const int64_t pairs = std::max<int64_t>(steps - 1, 0) * num_tags * num_tags;
  const auto weigh = [](const T* from, T weight, int64_t size, T* to) {
    if (weight == 0) {
      std::fill_n(to, size, T(0));
    } else if (weight != 1) {
      for (int64_t k = 0; k < size; ++k) to[k] = weight * from[k];
    } else if (from != to) {
      std::copy(from, from + size, to);
    }
  };
  ParallelFor(gradients.batch, planner.num_threads, [&](int64_t b) {
    const T weight = WeightOf(plan, b, value[b], weights);
    T *const unary = d_emissions + b * rows, *const binary = d_transitions + b * pairs;
    const bool sound = std::isfinite(weight);
    weigh(gradients.emissions + b * rows, sound ? weight : 0, rows, unary);
    weigh(gradients.transitions + b * pairs, sound ? weight : 0, pairs, binary);
    if (!sound) FillRows(plan, b, true, T(NAN), unary, binary);
  });
  AddEnds(plan, d_emissions, d_start, d_end);
}

#define FASTKERAS_INSTANTIATE(T)                                                            \
  template int64_t VaryingBlock<T>(const Planner<T>&);                                      \
  template bool KeepsExponentials<T>(const Planner<T>&, int64_t);                           \
  template void VaryingLogPartitions<T>(const Planner<T>&, int64_t, int64_t, T*, double*);  \
  template void VaryingGradients<T>(const Planner<T>&, int64_t, int64_t, const int32_t*, T, \
                                    const double*, const T*, bool, T*, T*);                 \
  template void WeighGradient<T>(const Chains<T>&, const T*, const T*, T*, T*, T*, T*, int);

FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
