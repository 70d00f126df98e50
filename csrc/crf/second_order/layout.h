// Owns what a TriplePlan points to, and decides how many sequences share a vector.

#ifndef FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_
#define FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "crf/planner.h"
#include "crf/second_order/triples.h"
#include "machine/memory.h"

namespace fastkeras::crf {

template <typename T>
struct TripleLayout {
  TriplePlan<T> plan;
  int64_t sums;  // how many numbers TripleOutputs has for all triples

  // `exponentials`: in the scaled domain; otherwise the scores as they are, for Viterbi. Sequences
  // that the kernels cannot answer are marked in `inexact` (batch), the others taken up in the
  // order. `for_sums`: over sequences.
  TripleLayout(const Planner<T>& planner, const T* triples, bool exponentials, bool for_sums,
               T* workspace, uint8_t* inexact);

  int64_t groups() const { return (num_sequences() + plan.lanes - 1) / plan.lanes; }
  int64_t num_sequences() const { return static_cast<int64_t>(order_.size()); }
  int64_t last(int64_t group) const;  // of its sequences, plus one

  bool sound_triples;  // without NaN and +inf

 private:
  void TakeExponentials(const T* transitions, const T* triples);
  void TakeScores(const T* transitions, const T* triples);
  void ChooseWatch(double range, double range_of_first);
  void ChooseSections(int threads);
  void CutIntoBlocks();
  void CutByRows(const std::vector<T>& matrix, T padding, Buffer<T>& into) const;
  // The tags that may stand before, or after, any of the middle tags of a vector.
  std::vector<int32_t> Beside(bool before, int vectors, int vector) const;
  int64_t Work(int vectors) const;

  const Planner<T>& planner_;
  const int64_t num_tags_;
  T nothing_;                                   // the entry of what is not possible
  bool spread_first_ = false, spread_ = false;  // more than the scaled domain holds
  bool watched_ = false;
  std::vector<T> first_, scores_, first_floors_, floors_;
  std::vector<uint8_t> may_precede_, may_follow_;  // (num_tags, num_tags), [i, j] for i -> j
  std::vector<int64_t> order_;
  std::vector<int32_t> offsets_;
  std::vector<TripleBlock<T>> blocks_;
  std::unique_ptr<Buffer<T>> entries_, first_rows_, first_floor_rows_, floor_rows_;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_
