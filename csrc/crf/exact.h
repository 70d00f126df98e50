// The rare path, for scores that the scaled domain cannot hold: one sequence in log space and
// double, every element as exact as its own sum. Slower, because of its exponentials and
// logarithms.

#ifndef FASTKERAS_CRF_EXACT_H_
#define FASTKERAS_CRF_EXACT_H_

#include <cstdint>

#include "crf/kernels.h"

namespace fastkeras::crf {

template <typename T>
double ExactLogPartition(const Plan<T>& plan, int64_t sequence);

// Adds factor * marginals to the gradient (steps, num_tags) of the sequence's emissions and factor
// * expected counts to pairs (num_tags, stride), or, for transitions that vary, (steps - 1,
// num_tags, stride). Nothing is added if no sequence is possible.
template <typename T>
void ExactGradient(const Plan<T>& plan, int64_t sequence, double factor, T* gradient, T* pairs,
                   int64_t stride);

// Draws paths of one sequence, as `Sample` does (crf.h); writes nothing if none is possible.
template <typename T>
void ExactSample(const Plan<T>& plan, int64_t sequence, int64_t num_samples, const T* uniforms,
                 int32_t* tags);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_EXACT_H_
