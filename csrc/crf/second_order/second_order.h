// Second-order chains: to the scores of a linear chain come those of three tags in a row. Standard
// headers only.
//
// docs/crf.md has the mathematics. Results do not depend on num_threads, bit for bit; num_threads
// <= 0 means all processors.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SECOND_ORDER_H_
#define FASTKERAS_CRF_SECOND_ORDER_SECOND_ORDER_H_

#include <cstdint>

#include "crf/crf.h"

namespace fastkeras::crf {

template <typename T>
struct SecondOrderChains {
  Chains<T> chains;  // whose transitions do not vary
  const T* triples;  // (num_tags, num_tags, num_tags), [i, j, k] scores i -> j -> k
};

template <typename T>
struct SecondOrderGradients {
  T *emissions, *transitions, *triples, *start, *end;  // each of the shape of its scores
};

// Elements of T that the value leaves behind for the gradient.
int64_t SecondOrderWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags);

// All that crf.h says about the functions of these names holds here too.
template <typename T>
void SecondOrderValue(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                      T* value, T* workspace, int num_threads);
template <typename T>
void SecondOrderGradient(const SecondOrderChains<T>& given, const int32_t* tags, Quantity quantity,
                         const T* value, const T* workspace, const T* weights,
                         const SecondOrderGradients<T>& gradients, int num_threads);
template <typename T>
void SecondOrderMarginals(const SecondOrderChains<T>& given, T* unary, T* counts, int num_threads);
template <typename T>
void SecondOrderViterbi(const SecondOrderChains<T>& given, int32_t* tags, T* score,
                        int num_threads);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_SECOND_ORDER_H_
