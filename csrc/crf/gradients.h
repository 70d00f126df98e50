// Parts of a gradient that are the same for all quantities.

#ifndef FASTKERAS_CRF_GRADIENTS_H_
#define FASTKERAS_CRF_GRADIENTS_H_

#include <cstdint>

#include "crf/kernels.h"
#include "crf/planner.h"

namespace fastkeras::crf {

// Makes the gradient of a sequence NaN, because a score that it uses is NaN or +inf, or its weight,
// or that of one of its steps, is not finite.
template <typename T>
void Spoil(const Plan<T>& plan, int64_t b, T* d_emissions, T* pairs, int64_t stride);

// The rows of the gradient that no sweep writes: steps that are not valid, sequences left out.
template <typename T>
void ClearRows(const Plan<T>& plan, int64_t b, bool left_out, T* d_emissions);

// Turns pairs[i, j] of a group, so far sums of alpha r, into derivatives by the transitions.
template <typename T>
void Weigh(const Plan<T>& plan, int width, T factor, T* pairs, int64_t stride);

// The gradients by start and end are those of the first and last valid emissions, added up.
template <typename T>
void AddEnds(const Plan<T>& plan, const T* d_emissions, T* d_start, T* d_end);

// Writes the sum over `groups` of pairs (groups, num_tags, stride), or of their transposes.
template <typename T>
void AddGroups(const Planner<T>& planner, int64_t groups, const T* pairs, bool transposed,
               T* d_transitions);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_GRADIENTS_H_
