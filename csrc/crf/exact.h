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

// log p of each valid step of the tags (steps) of one sequence, given the tag before it.
template <typename T>
void ExactSteps(const Plan<T>& plan, int64_t sequence, const int32_t* tags, double* log_p);

// Adds the gradient of the sum of weights[s] * log_p[s] to that of the emissions (steps, num_tags),
// and to pairs, where those from i to j are at i * from + j * to; or, for transitions that vary,
// each step's at its own (num_tags, num_tags).
template <typename T>
void ExactStepsGradient(const Plan<T>& plan, int64_t sequence, const int32_t* tags,
                        const double* weights, T* gradient, T* pairs, int64_t from, int64_t to);

// The entropy of one sequence, 0 if none is possible. If gradient is not null, adds factor * its
// derivatives as ExactGradient does.
template <typename T>
double ExactEntropy(const Plan<T>& plan, int64_t sequence, double factor, T* gradient, T* pairs,
                    int64_t stride);

// Draws paths of one sequence, as `Sample` does (crf.h); writes nothing if none is possible.
template <typename T>
void ExactSample(const Plan<T>& plan, int64_t sequence, int64_t num_samples, const T* uniforms,
                 int32_t* tags);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_EXACT_H_
