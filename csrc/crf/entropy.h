// Entropy of the distribution over tag sequences, and its gradient. docs/crf.md has the recursions.

#ifndef FASTKERAS_CRF_ENTROPY_H_
#define FASTKERAS_CRF_ENTROPY_H_

#include <cstdint>

#include "crf/crf.h"

namespace fastkeras::crf {

// Elements of T that `Entropy` leaves behind for `EntropyGradient`: about four times the emissions.
template <typename T>
int64_t EntropyWorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags);

// Writes value (batch), in nats: 0 where no step is valid or no sequence is possible. workspace may
// be null when no gradient will be asked for.
template <typename T>
void Entropy(const Chains<T>& chains, T* value, T* workspace, int num_threads);

// Writes the gradients of sum_b weights[b] * value[b], as `Gradient` does. Reads the value and the
// workspace that `Entropy` wrote for the same chains.
template <typename T>
void EntropyGradient(const Chains<T>& chains, const T* value, const T* workspace, const T* weights,
                     T* d_emissions, T* d_transitions, T* d_start, T* d_end, int num_threads);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_ENTROPY_H_
