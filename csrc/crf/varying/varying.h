// Values and gradients of chains whose transitions vary (crf.h).

#ifndef FASTKERAS_CRF_VARYING_VARYING_H_
#define FASTKERAS_CRF_VARYING_VARYING_H_

#include "crf/planner.h"

namespace fastkeras::crf {

// How many sorted sequences go through time together. Results do not depend on it.
template <typename T>
int64_t VaryingBlock(const Planner<T>& planner);

// Whether the exponentials of a sorted sequence's transitions, left in d_transitions on the way
// forward, are still in a cache when it is gone back through at once.
template <typename T>
bool KeepsExponentials(const Planner<T>& planner, int64_t longest);

// Writes log Z of the sorted sequences first..last-1, at most kMaxBlock, to value[b], and the
// exponentials of their transitions to `exponentials`, of the shape of these, unless that is null.
template <typename T>
void VaryingLogPartitions(const Planner<T>& planner, int64_t first, int64_t last, T* exponentials,
                          double* value);

// Writes sign * weights[b] * marginals of the tags of these sequences to d_emissions, and of their
// pairs to d_transitions, after VaryingLogPartitions with the same workspace, which has left the
// exponentials in d_transitions if `exponentiated`. Where tags are given, the weight is added along
// their path. A sequence whose value is -inf, or its weight 0, gets zeros.
template <typename T>
void VaryingGradients(const Planner<T>& planner, int64_t first, int64_t last, const int32_t* tags,
                      T sign, const double* value, const T* weights, bool exponentiated,
                      T* d_emissions, T* d_transitions);

// Multiplies gradients of emissions and of transitions that vary, which are those of `gradients`,
// by the weights of their sequences, and adds up those of a start and an end. Where the value is
// -inf they are zeros, whatever the weight. The results may be in the same place.
template <typename T>
void WeighGradient(const Chains<T>& gradients, const T* value, const T* weights, T* d_emissions,
                   T* d_transitions, T* d_start, T* d_end, int num_threads);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_VARYING_VARYING_H_
