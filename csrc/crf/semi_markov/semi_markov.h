// Semi-Markov chains: segments of up to max_length steps, each of one tag. Standard headers only.
//
// docs/crf.md has the mathematics. Everything is computed in log space and double, and rounded
// once. Results do not depend on num_threads, bit for bit; num_threads <= 0 means all processors.

#ifndef FASTKERAS_CRF_SEMI_MARKOV_SEMI_MARKOV_H_
#define FASTKERAS_CRF_SEMI_MARKOV_SEMI_MARKOV_H_

#include <cstdint>

namespace fastkeras::crf {

// A batch of chains; every array is contiguous, the last index fastest.
template <typename T>
struct SemiChains {
  int64_t batch;
  int64_t steps;
  int64_t num_tags;            // >= 1
  int64_t max_length;          // of a segment, >= 1
  const T* emissions;          // (batch, steps, num_tags)
  const T* transitions;        // (num_tags, num_tags), from segment to segment
  const T* durations;          // (max_length, num_tags), [l - 1, j] scores length l
  const T* start_transitions;  // (num_tags)
  const T* end_transitions;    // (num_tags)
  const int32_t* lengths;      // (batch), in 0..steps
};

// Writes value (batch).
template <typename T>
void SemiLogPartition(const SemiChains<T>& chains, T* value, int num_threads);

// Writes unary (batch, steps, num_tags), segments (batch, steps, max_length, num_tags) and counts
// (batch, num_tags, num_tags); zeros past the length and where no segmentation is possible.
template <typename T>
void SemiMarginals(const SemiChains<T>& chains, T* unary, T* segments, T* counts, int num_threads);

// Writes tags (batch, steps), begins (batch, steps) and score (batch); zeros past the length and
// where no segmentation is possible.
template <typename T>
void SemiViterbi(const SemiChains<T>& chains, int32_t* tags, bool* begins, T* score,
                 int num_threads);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SEMI_MARKOV_SEMI_MARKOV_H_
