// What the kernels of every instruction set share: the batch sorted and cut into blocks, the
// transitions in the scaled domain, and where the recursions keep their rows. docs/crf.md has the
// mathematics.

#ifndef FASTKERAS_CRF_KERNELS_H_
#define FASTKERAS_CRF_KERNELS_H_

#include <cstdint>

#include "crf/crf.h"

namespace fastkeras::crf {

constexpr int kMaxBlock = 8;  // sequences that go through time together

// Scores this many nats below the best of their kind are taken as forbidden: they count as zero in
// the scaled domain, as long as the loss is too small to be seen.
template <typename T>
constexpr T kForbidden = sizeof(T) == 4 ? 500 : 4000;

// A K x K matrix cut into panels two vectors wide (one, where K is small or a vector is left over):
// panel after panel, each row of a panel contiguous, padded with zeros.
template <typename T>
struct Panels {
  const T* data;
  int64_t num_tags;
  int vectors;  // of a padded row
};

template <typename T>
struct Plan {
  Chains<T> chains;
  const int64_t* order;       // (batch) sequences, most valid steps first
  const int64_t* counts;      // (batch) valid steps of each sequence
  const int32_t* step_index;  // (batch, steps) the valid steps of each sequence, or null: 0, 1, ...

  // The scaled domain: weights[i, j] = exp(transitions[i, j] - peak).
  Panels<T> weights;             // rows i, for the forward sweep
  Panels<T> weights_transposed;  // rows j, for the backward sweep
  T peak;                        // the largest transition
  bool watched;     // underflow may cost accuracy: look for it, and redo those sequences exactly
  int64_t period;   // steps between rescalings
  T forbidden_gap;  // nats below the peak of the best transition whose weight counts as zero
  bool sound_transitions, sound_ends;  // without NaN and +inf (soundness.h)

  // Rows written by the forward sweep and read by the backward sweep; null: not kept.
  T* alpha;          // (batch, steps, num_tags)
  T* emission;       // (batch, steps, num_tags), exp(emissions - row peak)
  T* scale;          // (batch, steps), powers of two
  uint8_t* inexact;  // (batch) not 0 where the scaled domain, or Viterbi's sweep, cannot answer
};

// The row of the input that a sequence's valid step s is in.
template <typename T>
inline __attribute__((always_inline)) int64_t StepAt(const Plan<T>& plan, int64_t sequence,
                                                     int64_t s) {
  return plan.step_index ? plan.step_index[sequence * plan.chains.steps + s] : s;
}

// Outputs of the backward sweep. Pairwise sums go to `pairs`, a padded (num_tags, stride) matrix
// for each group of sequences; group g holds the sorted sequences g * group_size and following, or,
// in groups of one, sequence g.
template <typename T>
struct GradientOutputs {
  const int32_t* tags;    // null: no gold path
  T marginal_sign;        // of the marginals in the gradient: 1 for log Z, -1 for the likelihood
  const double* weights;  // (batch), over the largest magnitude; 0 leaves a sequence out
  double largest_weight;
  T* emissions;  // (batch, steps, num_tags)
  T* pairs;      // (groups, num_tags, stride)
  int64_t group_size;
};

// The same for the sorted sequence k.
template <typename T>
inline __attribute__((always_inline)) int64_t GroupOf(const Plan<T>& plan, int64_t group_size,
                                                      int64_t k) {
  return group_size == 1 ? plan.order[k] : k / group_size;
}

struct SegmentScores;  // semi_markov/segment_scores.h
struct SegmentSweeps;

// The kernels of one instruction set and type.
template <typename T>
struct Kernels {
  int width;  // lanes of a vector
  void (*cut_into_panels)(const T* matrix, int64_t num_tags, bool transpose, bool exponentials,
                          T peak, T* panels);
  // The others take the sorted sequences first..last-1 through time together, at most kMaxBlock.
  // `forward` writes log Z of each to value[sequence], and plan.inexact[sequence].
  void (*forward)(const Plan<T>& plan, int64_t first, int64_t last, double* value);
  void (*backward)(const Plan<T>& plan, const GradientOutputs<T>& out, int64_t first, int64_t last);
  // Reads the transitions themselves in plan.weights, and transposed; writes the valid steps' tags,
  // and plan.inexact of the sequences that are not sound, which have no best path.
  void (*viterbi)(const Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
                  int32_t* tags);
  // Writes the tags (batch, k, steps) of the best paths, best first, and how many were found: fewer
  // than k where fewer are possible. Of a sequence that is not sound it sets plan.inexact instead.
  void (*k_best)(const Plan<T>& plan, const T* transposed, int64_t first, int64_t last, int64_t k,
                 int32_t* tags, int64_t* found);
  // `deal_transitions` writes the transitions in the order that `draw` reads, (num_tags + 1, rows
  // of whole vectors). `draw` samples paths of one sequence after `forward`, and writes their valid
  // steps.
  void (*deal_transitions)(const Plan<T>& plan, T* into);
  void (*draw)(const Plan<T>& plan, const T* into, int64_t sequence, int64_t num_samples,
               const T* uniforms, int32_t* tags);
  // Whether no score is NaN or +inf: of an array, or of those that a sequence uses (soundness.h).
  bool (*all_sound)(const T* scores, int64_t count);
  bool (*is_sound)(const Plan<T>& plan, int64_t sequence);
  // Semi-Markov chains, one sequence each (semi_markov/segments.h).
  double (*segment_sweep)(const SegmentScores& chain, double* ended, double* begun);
  void (*segment_marginals)(const SegmentScores& chain, const SegmentSweeps& sweeps, T* unary,
                            T* segments, T* counts);
  double (*segment_viterbi)(const SegmentScores& chain, int32_t* tags, bool* begins);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_KERNELS_H_
