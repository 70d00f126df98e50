// The scores of second-order chains as a sweep takes them, before they are cut into blocks.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SCORES_H_
#define FASTKERAS_CRF_SECOND_ORDER_SCORES_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "crf/planner.h"

namespace fastkeras::crf {

template <typename T>
struct TripleScores {
  // `exponentials`: in the scaled domain; otherwise the scores as they are, for Viterbi.
  TripleScores(const Planner<T>& planner, const T* triples, bool exponentials);

  int64_t num_tags;
  T nothing;                  // the entry of what is not possible
  std::vector<T> first, all;  // of the first two tags, and of three with those of the last two
  double first_peak, peak;    // what was subtracted from them
  bool spread_first, spread;  // more than the scaled domain holds
  T forbidden_gap = std::numeric_limits<T>::infinity();  // of the best that counts as zero
  // (num_tags, num_tags): the tags that may stand before each, and after each, in a triple.
  std::vector<uint8_t> may_precede, may_follow;
  // Where underflow may cost accuracy, else empty: pairs below these have lost digits.
  std::vector<T> first_floors, floors;

 private:
  struct Row {
    const T *scores, *more;  // added to these, in double; may be null
    T* into;
  };
  double TakeExponentials(const Planner<T>& planner, const std::vector<Row>& rows, double* below,
                          bool* is_spread);
  void FindPairs(const std::vector<Row>& rows);
  void ChooseFloors(double range, int64_t most_steps);
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_SCORES_H_
