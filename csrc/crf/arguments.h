// The check of the CRF's arguments (argument_checks.h).

#ifndef FASTKERAS_CRF_ARGUMENTS_H_
#define FASTKERAS_CRF_ARGUMENTS_H_

#include <cstdint>

#include "crf/crf.h"
#include "crf/second_order/second_order.h"
#include "crf/semi_markov/semi_markov.h"
#include "doors/argument_checks.h"

namespace fastkeras::crf {

struct Sizes {
  int64_t batch, steps, num_tags;
};
Sizes CheckedSizes(const Shape& emissions);

// Checks the values of the lengths too. `mask` may be null; with `may_vary` there may be
// transitions for each step.
template <typename T>
Chains<T> CheckedChains(const Argument<T>& emissions, const Argument<T>& transitions,
                        const Argument<T>& start_transitions, const Argument<T>& end_transitions,
                        const Argument<int32_t>& lengths, const Argument<bool>* mask,
                        bool may_vary = true);

const int32_t* CheckedLengths(const Argument<int32_t>& lengths, int64_t batch, int64_t steps);

// Checks the tags of valid steps.
template <typename T>
const int32_t* CheckedTags(const Chains<T>& chains, const Argument<int32_t>& tags);

template <typename T>
SemiChains<T> CheckedSemiChains(const Argument<T>& emissions, const Argument<T>& transitions,
                                const Argument<T>& durations, const Argument<int32_t>& lengths,
                                const Argument<T>& start_transitions,
                                const Argument<T>& end_transitions);
int64_t CheckedMaxLength(const Shape& durations, int64_t num_tags);

// The chains are checked already, except that their transitions may vary.
template <typename T>
SecondOrderChains<T> CheckedSecondOrder(const Chains<T>& chains, const Argument<T>& transitions,
                                        const Argument<T>& triples);

Quantity CheckedQuantity(int64_t quantity);
int64_t CheckedK(int64_t k);

// (num_samples, batch, steps); any num_samples will do, and is returned.
int64_t CheckedNumSamples(const Shape& uniforms, int64_t batch, int64_t steps);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_ARGUMENTS_H_
