// The rare path, as in crf/exact.h: one sequence in log space and double.

#ifndef FASTKERAS_CRF_SECOND_ORDER_EXACT_H_
#define FASTKERAS_CRF_SECOND_ORDER_EXACT_H_

#include "crf/kernels.h"

namespace fastkeras::crf {

template <typename T>
double ExactSecondOrder(const Plan<T>& plan, const T* triples, int64_t sequence);

// Adds factor * marginals to the gradient (steps, num_tags) of the emissions, to that of the first
// two tags (num_tags, num_tags) and of the triples, or, where these are null, of all pairs.
template <typename T>
void ExactSecondOrderGradient(const Plan<T>& plan, const T* triples, int64_t sequence,
                              double factor, T* gradient, double* d_pairs, double* d_triples);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_EXACT_H_
