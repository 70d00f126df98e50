// Values and gradients of chains whose transitions vary (crf.h).

#ifndef FASTKERAS_CRF_VARYING_H_
#define FASTKERAS_CRF_VARYING_H_

#include "crf/planner.h"

namespace fastkeras::crf {

// Writes log Z of each sequence.
template <typename T>
void VaryingLogPartitions(const Planner<T>& planner, double* value);

// Writes sign * weights * marginals of the tags to d_emissions, and of the pairs to d_transitions,
// after VaryingLogPartitions with the same workspace. Where tags are given, the weights are added
// along their paths. A sequence whose value is -inf, or its weight 0, gets zeros.
template <typename T>
void VaryingSweep(const Planner<T>& planner, const int32_t* tags, T sign, const double* value,
                  const T* weights, T* d_emissions, T* d_transitions);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_VARYING_H_
