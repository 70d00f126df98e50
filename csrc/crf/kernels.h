// What the kernels of every instruction set share: the batch sorted and cut into blocks, the
// transitions in the scaled domain, and where the recursions keep their rows. docs/crf.md has the
// mathematics.

#ifndef FASTKERAS_CRF_KERNELS_H_
#define FASTKERAS_CRF_KERNELS_H_

#include <cmath>
#include <cstdint>

#include "crf/crf.h"

namespace fastkeras::crf {

constexpr int kMaxBlock = 8;       // sequences that go through time together
constexpr int kMostLaneTags = 16;  // tags of sequences that may share vectors (sweeps/lanes.h)

// Scores this many nats below the best of their kind are taken as forbidden: they count as zero in
// the scaled domain, as long as the loss is too small to be seen.
template <typename T>
constexpr T kForbidden = sizeof(T) == 4 ? 500 : 4000;

// Where transitions vary, those of steps that have none beyond this are exponentiated as they are.
constexpr int kSmallScore = 10;

// A K x K matrix cut into panels two vectors wide (one, where K is small or a vector is left over):
// panel after panel, each row of a panel contiguous, padded with zeros.
template <typename T>
struct Panels {
  const T* data;
  int64_t num_tags;
  int vectors;  // of a padded row
};

// Where the entry (i, j) of a matrix is that was cut into panels of vectors `width` wide.
template <typename T>
inline __attribute__((always_inline)) int64_t PlaceOf(const Panels<T>& panels, int width, int64_t i,
                                                      int64_t j) {
  const int64_t v = j / (2 * width) * 2;
  const int64_t columns = (v + 2 <= panels.vectors ? 2 : 1) * width;
  return v * width * panels.num_tags + i * columns + j - v * width;
}
template <typename T>
inline __attribute__((always_inline)) T EntryOf(const Panels<T>& panels, int width, int64_t i,
                                                int64_t j) {
  return panels.data[PlaceOf(panels, width, i, j)];
}

// In how many sections the tags of a step are split where few sequences share vectors of `width`
// lanes (sweeps/lanes.h), and where `count` do.
constexpr int MostSections(int width) { return width >= 16 ? 4 : 2; }
inline __attribute__((always_inline)) int LaneSections(int64_t count, int width) {
  return MostSections(width) * count <= width ? MostSections(width) : 1;
}

template <typename T>
struct Plan {
  Chains<T> chains;
  const int64_t* order;       // (batch) sequences, most valid steps first
  const int64_t* counts;      // (batch) valid steps of each sequence
  const int32_t* step_index;  // (batch, steps) the valid steps of each sequence, or null: 0, 1, ...
  bool reversed;              // these are n - 1, ..., 1, 0

  // The scaled domain: weights[i, j] = exp(transitions[i, j] - peak).
  Panels<T> weights;             // rows i, for the forward sweep
  Panels<T> weights_transposed;  // rows j, for the backward sweep
  T peak;                        // the largest transition
  bool watched;      // underflow may cost accuracy: look for it, and redo those sequences exactly
  int64_t period;    // steps between rescalings, and looks
  T safe;            // elements above this lost no digits since the last look
  T harmless_range;  // where transitions vary: if those into a step and those out of it together
                     // have this range at most, what underflows there cannot be seen
  const uint64_t* allowed_into;  // (num_tags, words) where watched: the tags that may precede each
  int64_t words;                 // numbers that hold a set of tags
  T forbidden_gap;  // nats below the peak of the best transition whose weight counts as zero
  bool sound_transitions, sound_ends;  // without NaN and +inf (soundness.h)

  // The same for sequences that share vectors, without sections and with; null: not used.
  const T* lane_weights[2];
  const T* lane_weights_transposed[2];

  // Rows written by the forward sweep and read by the backward sweep, workspace_area elements for
  // each of the sorted sequences; null: not kept.
  T* workspace;
  int64_t workspace_area;
  uint8_t* inexact;  // (batch) not 0 where the scaled domain, or Viterbi's sweep, cannot answer
};

// What is in the area of a sorted sequence k: alpha (steps, num_tags), exp(emissions - row peak)
// of that shape, and (steps) scales, powers of two. Sequences that share vectors mix their areas.
template <typename T>
struct KeptRows {
  T *alpha, *emission, *scale;

  inline __attribute__((always_inline)) KeptRows(const Plan<T>& plan, int64_t k)
      : alpha(plan.workspace + k * plan.workspace_area),
        emission(alpha + plan.chains.steps * plan.chains.num_tags),
        scale(emission + plan.chains.steps * plan.chains.num_tags) {}
};

// The row of the input that a sequence's valid step s is in.
template <typename T>
inline __attribute__((always_inline)) int64_t StepAt(const Plan<T>& plan, int64_t sequence,
                                                     int64_t s) {
  return plan.step_index ? plan.step_index[sequence * plan.chains.steps + s] : s;
}

// The transitions into a sequence's valid step s >= 1.
template <typename T>
inline __attribute__((always_inline)) const T* TransitionsInto(const Plan<T>& plan,
                                                               int64_t sequence, int64_t s) {
  const Chains<T>& chains = plan.chains;
  if (!chains.varies) return chains.transitions;
  const int64_t matrix = sequence * (chains.steps - 1) + StepAt(plan, sequence, s) - 1;
  return chains.transitions + matrix * chains.num_tags * chains.num_tags;
}

// Where a sequence's pairs at its valid step s >= 1 are counted: in `pairs`, unless transitions
// vary, of which `pairs` are then those of all steps of the sequence.
template <typename T>
inline __attribute__((always_inline)) T* PairsInto(const Plan<T>& plan, int64_t sequence, int64_t s,
                                                   T* pairs) {
  const int64_t num_tags = plan.chains.num_tags;
  if (!plan.chains.varies) return pairs;
  return pairs + (StepAt(plan, sequence, s) - 1) * num_tags * num_tags;
}

// The log of a sequence's sum in the scaled domain: log Z, unless too much may be lost in it.
template <typename T>
inline __attribute__((always_inline)) void Finish(const Plan<T>& plan, int64_t sequence,
                                                  double log_sum, int64_t exponent, double peaks,
                                                  T gap, bool inexact, double* value) {
  const int64_t steps = plan.counts[sequence];
  const double scaled = log_sum + exponent * 0.693147180559945309417;
  value[sequence] = scaled + peaks + (steps - 1) * static_cast<double>(plan.peak);
  // All paths through something that counted as zero, together, at most:
  const double lost = steps * std::log(static_cast<double>(plan.chains.num_tags)) - gap;
  plan.inexact[sequence] = inexact || !(lost < scaled - 40);
}

// Outputs of the backward sweep. Pairwise sums go to `pairs`, a padded (num_tags, stride) matrix
// for each group of sequences: group g of a call holds the sorted sequences from first + g *
// group_size on, or, with per_sequence, the sequence g of the batch. Sequences that share vectors
// are one group.
template <typename T>
struct GradientOutputs {
  const int32_t* tags;    // null: no gold path
  T marginal_sign;        // of the marginals in the gradient: 1 for log Z, -1 for the likelihood
  const double* weights;  // (batch), over the largest magnitude; 0 leaves a sequence out
  double largest_weight;
  T* emissions;  // (batch, steps, num_tags)
  T* pairs;      // (groups, num_tags, stride)
  int64_t group_size;
  bool per_sequence;
  // Null, or what each step weighs (batch, steps) beside its sequence, and by the number of the
  // valid step what gold_steps left behind.
  const T* step_weights;
  const T* inverses;
};

// What the sweeps of the entropy read and write beside the plan (sweeps/entropy.h).
template <typename T>
struct EntropyRows {
  Panels<T> weighted_logs;             // exp(A - peak) * (A - peak), rows i
  Panels<T> weighted_logs_transposed;  // rows j
  T* rows;                             // two of them for each step of each sorted sequence

  // What a prefix is expected to lack (num_tags), with and without the emission of its last step.
  inline __attribute__((always_inline)) T* After(const Plan<T>& plan, int64_t place,
                                                 int64_t step) const {
    return rows + (2 * place * plan.chains.steps + step) * plan.chains.num_tags;
  }
  inline __attribute__((always_inline)) T* Before(const Plan<T>& plan, int64_t place,
                                                  int64_t step) const {
    return After(plan, place, plan.chains.steps + step);
  }
};

struct SegmentScores;  // semi_markov/segment_scores.h
struct SegmentSweeps;
template <typename T>
struct TriplePlan;  // second_order/triples.h
template <typename T>
struct TripleOutputs;

// The kernels of one instruction set and type.
template <typename T>
struct Kernels {
  int width;  // lanes of a vector
  void (*cut_into_panels)(const T* matrix, int64_t num_tags, bool transpose, bool exponentials,
                          T peak, T* panels);
  void (*cut_into_lanes)(const Panels<T>& matrix, int sections, T padding, T* into);
  // The others take the sorted sequences first..last-1 through time together, at most kMaxBlock.
  // `forward` writes log Z of each to value[sequence], and plan.inexact[sequence].
  void (*forward)(const Plan<T>& plan, int64_t first, int64_t last, double* value);
  void (*backward)(const Plan<T>& plan, const GradientOutputs<T>& out, int64_t first, int64_t last);
  // Reads the transitions themselves in plan.weights, and transposed; writes the valid steps' tags,
  // and plan.inexact of the sequences that are not sound, which have no best path.
  void (*viterbi)(const Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
                  int32_t* tags);
  // The same for as many sequences as a vector has lanes, or fewer, which share vectors. All have
  // valid steps.
  void (*forward_lanes)(const Plan<T>& plan, int64_t first, int64_t last, double* value);
  void (*backward_lanes)(const Plan<T>& plan, const GradientOutputs<T>& out, int64_t first,
                         int64_t last);
  void (*viterbi_lanes)(const Plan<T>& plan, const T* transposed, int64_t first, int64_t last,
                        int32_t* tags);
  // Writes the tags (batch, k, steps) of the best paths, best first, and how many were found: fewer
  // than k where fewer are possible. Of a sequence that is not sound it sets plan.inexact instead.
  void (*k_best)(const Plan<T>& plan, const T* transposed, int64_t first, int64_t last, int64_t k,
                 int32_t* tags, int64_t* found);
  // `deal_transitions` writes the transitions in the order that `draw` reads, (num_tags + 1, rows
  // of whole vectors). `draw` samples paths of one sequence after `forward`, or `forward_lanes` of
  // the sequences first..last-1, and writes their valid steps. `place` is that of the sequence in
  // the order.
  void (*deal_transitions)(const Plan<T>& plan, T* into);
  void (*draw)(const Plan<T>& plan, const T* into, bool in_lanes, int64_t first, int64_t last,
               int64_t place, int64_t num_samples, const T* uniforms, int32_t* tags);
  // After a forward sweep over reversed steps, in lanes or not: log_p (batch, steps) of the tags,
  // given the tag before each, their weighted sum (batch), and by the number of the valid step 1 /
  // (the sum of what may follow its tag); or sets plan.inexact, where digits were lost.
  void (*gold_steps)(const Plan<T>& plan, bool in_lanes, int64_t first, int64_t last,
                     const int32_t* tags, const T* weights, double* value, T* log_p, T* inverses);
  // The entropy of one sorted sequence after `forward`, and its gradient (sweeps/entropy.h).
  void (*entropy_forward)(const Plan<T>& plan, const EntropyRows<T>& entropy, int64_t place,
                          double* value);
  void (*entropy_backward)(const Plan<T>& plan, const EntropyRows<T>& entropy, int64_t place,
                           T weight, T factor, T* gradients, T* pairs, T* plain_pairs);
  // Transitions that vary (varying/). `varying_forward` and `varying_backward` take sequences with
  // valid steps, the longest first, at most kMaxBlock; `factors` are the weights of the marginals
  // in the gradients of their emissions and transitions, of which only those of valid steps are
  // written. The way back takes the matrices' exponentials from d_transitions if the way forward
  // left them there, which it does if `exponentials`, of the same shape, is not null. The others
  // take one sequence, and write what theirs above do.
  void (*varying_forward)(const Plan<T>& plan, const int64_t* sequences, int count, T* exponentials,
                          double* value);
  void (*varying_backward)(const Plan<T>& plan, const int64_t* sequences, const T* factors,
                           int count, bool exponentiated, T* d_emissions, T* d_transitions);
  void (*varying_viterbi)(const Plan<T>& plan, int64_t sequence, int32_t* tags);
  void (*varying_k_best)(const Plan<T>& plan, int64_t sequence, int64_t k, int32_t* tags,
                         int64_t* found);
  // Whether no score is NaN or +inf: of an array, or of those that a sequence uses (soundness.h).
  bool (*all_sound)(const T* scores, int64_t count);
  bool (*is_sound)(const Plan<T>& plan, int64_t sequence);
  // Semi-Markov chains, one sequence each (semi_markov/segments.h).
  double (*segment_sweep)(const SegmentScores& chain, double* ended, double* begun);
  void (*segment_marginals)(const SegmentScores& chain, const SegmentSweeps& sweeps, T* unary,
                            T* segments, T* counts);
  double (*segment_viterbi)(const SegmentScores& chain, int32_t* tags, bool* begins);
  // Second-order chains: groups of sequences from `first` to last - 1 of their order, with at least
  // two valid steps each. The first takes scores that are at most 0 to their exponentials.
  void (*exponentials)(T* scores, int64_t count);
  void (*triple_forward)(const TriplePlan<T>& triples, int64_t first, int64_t last, double* value);
  void (*triple_backward)(const TriplePlan<T>& triples, const TripleOutputs<T>& out, int64_t first,
                          int64_t last);
  void (*triple_viterbi)(const TriplePlan<T>& triples, int64_t first, int64_t last, int32_t* tags);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_KERNELS_H_
