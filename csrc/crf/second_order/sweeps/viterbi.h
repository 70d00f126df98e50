// The best paths of second-order chains.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_VITERBI_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_VITERBI_H_

#include "crf/second_order/sweeps/products.h"
#include "crf/second_order/sweeps/rows.h"
#include "machine/memory.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Subtracts a whole number from each lane's scores, so that those of long sequences keep their
// digits. What is compared, are scores of the same step.
template <typename T>
FASTKERAS_INLINE void Centre(const TripleGroup<T>& group, T* best) {
  Vec<T> peak = Load(best);
  for (int64_t k = group.kWidth; k < group.area; k += group.kWidth) {
    peak = Max(Load(best + k), peak);
  }
  peak = MaxOverSections<T>(peak, group.sections);
  for (int lane = 0; lane < group.kWidth; ++lane) {
    peak[lane] = peak[lane] - peak[lane] == 0 ? std::rint(peak[lane]) : 0;
  }
  for (int64_t k = 0; k < group.area; k += group.kWidth) Store(best + k, Load(best + k) - peak);
}

template <typename T>
void TripleViterbi(const crf::TriplePlan<T>& triples, int64_t first, int64_t last, int32_t* tags) {
  constexpr int kWidth = Simd<T>::kWidth, kChunk = crf::kTripleChunk;
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  const TripleGroup<T> group(triples, first, last);
  const int64_t area = group.area, row = group.row, num_tags = group.num_tags;
  const Buffer<T> room(group.steps * area + (kChunk + 2) * row);  // step 0 has no pairs
  T *const by_columns = room.data, *const scores = by_columns + group.steps * area;
  const auto best_at = [&](int64_t s) { return room.data + s * area; };
  for (int64_t k = 0; k < 2 * area; k += kWidth) Store(by_columns + k, Broadcast(kNothing));
  ReadScores(group, 0, 2, scores);
  for (int i = 0; i < group.num_tags; ++i) {
    const Vec<T> before = group.Spread(scores, i);
    for (int64_t k = 0; k < row; k += kWidth) {
      const int64_t at = i * row + k;
      Store(best_at(1) + at, before + Load(triples.first + at) + Load(scores + row + k));
    }
  }
  bool leads_everywhere = true;  // so that every pair is written at each step
  for (int v = 0; v < group.vectors; ++v) {
    leads_everywhere &= triples.blocks[v].num_after == num_tags;
  }
  for (int64_t s = 2; s < group.steps; ++s) {
    const int64_t in_chunk = (s - 2) % kChunk;
    if (in_chunk == 0) {
      ReadScores(group, s, s + kChunk < group.steps ? s + kChunk : group.steps, scores);
      Centre(group, best_at(s - 1));
    }
    const T* const x = scores + in_chunk * row;
    if (group.sections == 1) {  // both orders are the same
      for (int64_t k = 0; !leads_everywhere && k < area; k += kWidth) {
        Store(best_at(s) + k, Broadcast(kNothing));
      }
      TriplesForward<MaxPlus>(triples, best_at(s - 1), best_at(s),
                              [&](Vec<T> best, int64_t k)
                                  FASTKERAS_LAMBDA_INLINE { return best + Load(x + k); });
      continue;
    }
    TriplesForward<MaxPlus>(triples, best_at(s - 1), by_columns,
                            [&](Vec<T> best, int64_t) FASTKERAS_LAMBDA_INLINE { return best; });
    ChangeOrder<true>(group, by_columns, best_at(s),
                      [&](Vec<T> best, int v)
                          FASTKERAS_LAMBDA_INLINE { return best + Load(x + v * kWidth); });
  }
  for (int place = 0; place < group.count; ++place) {
    const int64_t b = group.sequence[place], steps = group.counts[place];
    const T* best = best_at(steps - 1);
    int64_t at_last = 0, at_before = 0;  // the lowest last tag, and then the lowest before it
    T largest = kNothing;
    for (int k = 0; k < num_tags; ++k) {
      for (int j = 0; j < num_tags; ++j) {
        const T score = best[j * row + group.At(k, place)];
        if (score > largest) largest = score, at_last = k, at_before = j;
      }
    }
    int32_t* const path = tags + b * group.plan.chains.steps;
    for (int64_t s = steps - 1; s > 0; --s) {
      path[crf::StepAt(group.plan, b, s)] = static_cast<int32_t>(at_last);
      int64_t from = 0;
      largest = kNothing;
      for (int i = 0; s > 1 && i < num_tags; ++i) {
        const T way = triples.scores[(i * num_tags + at_before) * num_tags + at_last];
        const T score = best_at(s - 1)[i * row + group.At(at_before, place)] + way;
        if (score > largest) largest = score, from = i;
      }
      at_last = at_before;
      at_before = from;
    }
    path[crf::StepAt(group.plan, b, 0)] = static_cast<int32_t>(at_last);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_VITERBI_H_
