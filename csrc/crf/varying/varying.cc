#include "crf/varying/varying.h"

#include <algorithm>
#include <cmath>

#include "crf/exact.h"

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

}  // namespace

template <typename T>
bool KeepsExponentials(const Planner<T>& planner, int64_t b) {
  constexpr int64_t kInCache = int64_t{1} << 23;  // bytes, which are then still in the last cache
  const int64_t num_tags = planner.plan.chains.num_tags;
  return num_tags % planner.kernels.width == 0 &&
         planner.plan.counts[b] * num_tags * num_tags * int64_t{sizeof(T)} <= kInCache;
}

template <typename T>
void VaryingLogPartition(const Planner<T>& planner, int64_t b, T* d_transitions, double* value) {
  const Plan<T>& plan = planner.plan;
  value[b] = 0;
  plan.inexact[b] = false;
  if (plan.counts[b] == 0) return;
  planner.kernels.varying_forward(plan, b, PairsOf(plan, b, d_transitions), value);
  if (!plan.inexact[b]) return;
  value[b] = planner.kernels.is_sound(plan, b) ? ExactLogPartition(plan, b) : NAN;
}

template <typename T>
void VaryingGradient(const Planner<T>& planner, int64_t b, const int32_t* tags, T sign,
                     const double* value, const T* weights, bool exponentiated, T* d_emissions,
                     T* d_transitions) {
  const Plan<T>& plan = planner.plan;
  const int64_t steps = plan.chains.steps, num_tags = plan.chains.num_tags;
  T* const unary = d_emissions + b * steps * num_tags;
  T* const pairs = PairsOf(plan, b, d_transitions);
  FillRows(plan, b, false, T(0), unary, pairs);
  const T weight = plan.counts[b] == 0 || value[b] == -INFINITY ? 0 : weights[b];
  if (weight == 0) {
    FillRows(plan, b, true, T(0), unary, pairs);
    return;
  }
  if (std::isnan(value[b]) || !std::isfinite(weight)) {
    FillRows(plan, b, true, T(NAN), unary, pairs);
    return;
  }
  if (plan.inexact[b]) {
    FillRows(plan, b, true, T(0), unary, pairs);
    ExactGradient(plan, b, static_cast<double>(sign * weight), unary, pairs, num_tags);
  } else {
    planner.kernels.varying_backward(plan, b, sign * weight, exponentiated, unary, pairs);
  }
  if (!tags) return;
  const int32_t* const path = tags + b * steps;
  int64_t before = 0;
  for (int64_t s = 0; s < plan.counts[b]; ++s) {
    const int64_t t = StepAt(plan, b, s), tag = path[t];
    unary[t * num_tags + tag] += weight;
    if (s > 0) PairsInto(plan, b, s, pairs)[before * num_tags + tag] += weight;
    before = tag;
  }
}

#define FASTKERAS_INSTANTIATE(T)                                                                 \
  template bool KeepsExponentials<T>(const Planner<T>&, int64_t);                                \
  template void VaryingLogPartition<T>(const Planner<T>&, int64_t, T*, double*);                 \
  template void VaryingGradient<T>(const Planner<T>&, int64_t, const int32_t*, T, const double*, \
                                   const T*, bool, T*, T*);
FASTKERAS_INSTANTIATE(float)
FASTKERAS_INSTANTIATE(double)

}  // namespace fastkeras::crf
