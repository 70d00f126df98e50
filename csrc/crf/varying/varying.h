// Values and gradients of chains whose transitions vary (crf.h).

#ifndef FASTKERAS_CRF_VARYING_VARYING_H_
#define FASTKERAS_CRF_VARYING_VARYING_H_

#include "crf/planner.h"

namespace fastkeras::crf {

// Whether the exponentials of a sequence's transitions, left in its part of d_transitions on the
// way forward, are still in a cache when it is gone back through at once.
template <typename T>
bool KeepsExponentials(const Planner<T>& planner, int64_t b);

// Writes log Z of a sequence to value[b], and the exponentials of its transitions to its part of
// d_transitions unless that is null.
template <typename T>
void VaryingLogPartition(const Planner<T>& planner, int64_t b, T* d_transitions, double* value);

// Writes sign * weights[b] * marginals of a sequence's tags to its part of d_emissions, and of its
// pairs to that of d_transitions, after VaryingLogPartition with the same workspace, which has left
// the exponentials there if `exponentiated`. Where tags are
// given, the weight is added along their path. A sequence whose value is -inf, or its weight 0,
// gets zeros.
template <typename T>
void VaryingGradient(const Planner<T>& planner, int64_t b, const int32_t* tags, T sign,
                     const double* value, const T* weights, bool exponentiated, T* d_emissions,
                     T* d_transitions);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_VARYING_VARYING_H_
