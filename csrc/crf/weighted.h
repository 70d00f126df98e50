// Likelihoods whose steps have weights: sum_t w_t log p(y_t | y_{t-1}). docs/crf.md has the
// recursions.

#ifndef FASTKERAS_CRF_WEIGHTED_H_
#define FASTKERAS_CRF_WEIGHTED_H_

#include <cstdint>

#include "crf/crf.h"

namespace fastkeras::crf {

// Elements of T that `WeightedValue` leaves behind for `WeightedGradient`.
template <typename T>
int64_t WeightedWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags);

// Writes value (batch) and log_p (batch, steps), the terms without their weights: 0 where a step is
// not valid or the sequence impossible, whose value is -inf; else a weight that is not finite makes
// the value NaN. Reads weights (batch, steps) and tags (batch, steps) at valid steps, the tags in
// range. workspace may be null when no gradient will be asked for.
template <typename T>
void WeightedValue(const Chains<T>& chains, const int32_t* tags, const T* weights, T* value,
                   T* log_p, T* workspace, int num_threads);

// Writes the gradients of sum_b factors[b] * value[b], as `Gradient` does. Reads the value and the
// workspace that `WeightedValue` wrote for the same arguments.
template <typename T>
void WeightedGradient(const Chains<T>& chains, const int32_t* tags, const T* weights,
                      const T* value, const T* workspace, const T* factors, T* d_emissions,
                      T* d_transitions, T* d_start, T* d_end, int num_threads);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_WEIGHTED_H_
