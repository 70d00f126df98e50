// Linear-chain CRF: values, gradients, marginals, decoding. Standard headers only, no framework.
//
// docs/crf.md derives the recursions. T is float or double everywhere. Results do not depend on
// num_threads, bit for bit; num_threads <= 0 means all processors.

#ifndef FASTKERAS_CRF_CRF_H_
#define FASTKERAS_CRF_CRF_H_

#include <cstdint>

namespace fastkeras::crf {

// A batch of chains; every array is contiguous, the last index fastest.
template <typename T>
struct Chains {
  int64_t batch;
  int64_t steps;
  int64_t num_tags;            // >= 1
  const T* emissions;          // (batch, steps, num_tags)
  const T* transitions;        // (num_tags, num_tags), [i, j] scores i -> j; or one for each step
  const T* start_transitions;  // (num_tags)
  const T* end_transitions;    // (num_tags)
  const int32_t* lengths;      // (batch), in 0..steps
  const bool* mask;            // (batch, steps) or null; given, it alone tells the valid steps
  bool varies = false;         // transitions are (batch, steps - 1, num_tags, num_tags): [b, t - 1]
                               // into step t, from the valid step before

  // How many transitions there are.
  int64_t NumTransitions() const {
    return num_tags * num_tags * (varies ? batch * (steps > 1 ? steps - 1 : 0) : 1);
  }
};

// What `Value` computes and `Gradient` differentiates.
enum class Quantity : int32_t { kLogPartition = 0, kSequenceScore = 1, kLogLikelihood = 2 };

// Their names, each at its number: Python asks for the numbers by these.
inline constexpr const char* kQuantities[] = {"log_partition", "sequence_score", "log_likelihood"};
constexpr int kNumQuantities = sizeof(kQuantities) / sizeof(*kQuantities);

// Elements of T that `Value` leaves behind for `Gradient`: about twice the emissions.
template <typename T>
int64_t WorkspaceSize(int64_t batch, int64_t steps, int64_t num_tags);

// Writes value (batch). Reads tags (batch, steps), in range at valid steps, unless the quantity is
// kLogPartition. workspace may be null when no gradient will be asked for.
template <typename T>
void Value(const Chains<T>& chains, const int32_t* tags, Quantity quantity, T* value, T* workspace,
           int num_threads);

// Writes the gradients of sum_b weights[b] * value[b]: d_emissions (batch, steps, num_tags),
// d_transitions of the shape of the transitions, d_start and d_end (num_tags). Reads the value and
// the workspace that `Value` wrote for the same chains, tags and quantity. A sequence whose value
// is -inf, or its weight 0, gets zeros; where its value is NaN they are NaN (soundness.h).
template <typename T>
void Gradient(const Chains<T>& chains, const int32_t* tags, Quantity quantity, const T* value,
              const T* workspace, const T* weights, T* d_emissions, T* d_transitions, T* d_start,
              T* d_end, int num_threads);

// Writes what `Value` and then `Gradient` would, bit for bit, in one pass: each thread has a
// sequence's rows still in its caches when it goes back through them.
template <typename T>
void ValueAndGradient(const Chains<T>& chains, const int32_t* tags, Quantity quantity, T* value,
                      const T* weights, T* d_emissions, T* d_transitions, T* d_start, T* d_end,
                      int num_threads);

// Writes unary (batch, steps, num_tags) and counts (batch, num_tags, num_tags); or, for transitions
// that vary, the probabilities of the pairs, of the shape of the transitions.
template <typename T>
void Marginals(const Chains<T>& chains, T* unary, T* counts, int num_threads);

// Writes tags (batch, steps), 0 where a step is not valid, and score (batch).
template <typename T>
void Viterbi(const Chains<T>& chains, int32_t* tags, T* score, int num_threads);

// Writes tags (batch, k, steps), 0 where a step is not valid, and scores (batch, k), best first;
// where there are fewer paths, their tags are 0 and their score -inf. k >= 1.
template <typename T>
void KBest(const Chains<T>& chains, int64_t k, int32_t* tags, T* scores, int num_threads);

// Writes tags (num_samples, batch, steps) drawn from the distribution, 0 where a step is not valid
// or no path is possible: each the first tag at which the cumulated probability is above its number
// of uniforms (num_samples, batch, steps), all in 0 <= u < 1.
template <typename T>
void Sample(const Chains<T>& chains, int64_t num_samples, const T* uniforms, int32_t* tags,
            int num_threads);

// The flat index of the first tag that is out of range at a valid step, or -1.
int64_t FirstTagOutOfRange(int64_t batch, int64_t steps, int64_t num_tags, const int32_t* tags,
                           const int32_t* lengths, const bool* mask);

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_CRF_H_
