// Looks for digits that the scaled domain lost, where hard constraints are among the scores
// (docs/crf.md, "When the scaled domain is enough").

#ifndef FASTKERAS_CRF_SWEEPS_WATCH_H_
#define FASTKERAS_CRF_SWEEPS_WATCH_H_

#include "crf/kernels.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// What is known of one sequence.
template <typename T>
struct Watched {
  int64_t sequence;
  int64_t steps;
  int64_t inspected;  // the last step whose row was found sound; -1: none
  T gap;              // nats below its row's peak of the best emission that counts as zero
  bool inexact;       // digits were lost
};

// Looks at a row that has elements below `safe`, and at the steps since the one that was inspected
// before. Zeros are right where every way to the tag is forbidden; any other small element has lost
// digits. `previous(j)` and `row(j)` are elements of the two rows; `sets` has room for three sets
// of tags, plan.words numbers each.
template <typename T, typename Previous, typename Element>
void Inspect(const crf::Plan<T>& plan, int64_t step, const Previous& previous, const Element& row,
             T safe, uint64_t* sets, Watched<T>& watched) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = chains.num_tags, words = plan.words;
  uint64_t *reached = sets, *before = sets + words;
  for (int64_t w = 0; w < words; ++w) reached[w] = 0;
  for (int64_t j = 0; watched.inspected >= 0 && j < num_tags; ++j) {
    if (previous(j) > 0) reached[j / 64] |= uint64_t{1} << j % 64;
  }
  for (int64_t s = watched.inspected + 1; s <= step; ++s) {
    uint64_t* const swapped = reached;
    reached = before, before = swapped;
    const T* x =
        chains.emissions +
        (watched.sequence * chains.steps + crf::StepAt(plan, watched.sequence, s)) * num_tags;
    const auto score = [&](int64_t j) {
      T sum = x[j];
      if (s == 0) sum += chains.start_transitions[j];
      if (s == watched.steps - 1) sum += chains.end_transitions[j];
      return sum;
    };
    T peak = -kInfinity;
    for (int64_t j = 0; j < num_tags; ++j) peak = score(j) > peak ? score(j) : peak;
    for (int64_t w = 0; w < words; ++w) reached[w] = 0;
    for (int64_t j = 0; j < num_tags; ++j) {
      if (score(j) == -kInfinity) continue;
      const T gap = peak - score(j);
      if (gap > crf::kForbidden<T>) {
        watched.gap = gap < watched.gap ? gap : watched.gap;
        continue;
      }
      uint64_t ways = s == 0;
      for (int64_t w = 0; w < words; ++w) ways |= before[w] & plan.allowed_into[j * words + w];
      if (ways) reached[j / 64] |= uint64_t{1} << j % 64;
    }
  }
  for (int64_t j = 0; j < num_tags; ++j) {
    if (row(j) < safe && (reached[j / 64] >> j % 64 & 1)) watched.inexact = true;
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_WATCH_H_
