// Owns what a TriplePlan points to, and decides how many sequences share a vector.

#ifndef FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_
#define FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "crf/planner.h"
#include "crf/second_order/scores.h"
#include "crf/second_order/triples.h"
#include "machine/memory.h"

namespace fastkeras::crf {

enum class TripleUse { kViterbi, kValue, kMarginals, kGradient };

template <typename T>
struct TripleLayout {
  TriplePlan<T> plan;
  int64_t sums;  // how many numbers TripleOutputs has for all triples

  // Sequences that the kernels cannot answer are marked in `inexact` (batch), the others taken up
  // in the order.
  TripleLayout(const Planner<T>& planner, const T* triples, TripleUse use, T* workspace,
               uint8_t* inexact);

  int64_t groups() const { return (num_sequences() + plan.lanes - 1) / plan.lanes; }
  int64_t num_sequences() const { return static_cast<int64_t>(order_.size()); }
  int64_t last(int64_t group) const;  // of its sequences, plus one

  bool sound_triples;  // without NaN and +inf

 private:
  void ChooseSections(int threads);
  void CutIntoBlocks(bool for_way_back);
  void ListReached();
  void CutByRows(const std::vector<T>& matrix, T padding, Buffer<T>& into) const;
  // The tags that may stand before, or after, any of the middle tags of a vector.
  std::vector<int32_t> Beside(bool before, int vectors, int vector) const;
  int64_t Work(int vectors) const;

  const Planner<T>& planner_;
  const int64_t num_tags_;
  const TripleScores<T> scores_;
  std::vector<int64_t> order_;
  std::vector<int32_t> offsets_, reached_, reached_from_;
  std::vector<TripleBlock<T>> blocks_;
  std::unique_ptr<Buffer<T>> entries_, first_rows_, first_floor_rows_, floor_rows_;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_LAYOUT_H_
