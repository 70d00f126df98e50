// The sums of a second-order chain's prefixes in the scaled domain.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_FORWARD_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_FORWARD_H_

#include "crf/second_order/sweeps/products.h"
#include "crf/second_order/sweeps/rows.h"
#include "crf/sweeps/lanes_forward.h"
#include "machine/math.h"
#include "machine/memory.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The largest sum of a row is scaled to this power of two: since pairs of tags may be as far below
// the best as two emissions, they get more of the type's range than its lower half.
template <typename T>
constexpr int kTripleLift = sizeof(T) == 4 ? 60 : 400;

// An emission further below the best of its step than this is as good as lost, unless forbidden.
template <typename T>
constexpr T kTripleSoft = sizeof(T) == 4 ? 70 : 600;

// Scores of steps become exp(scores - peak); returns the peaks, 0 of a step without scores.
template <typename T>
FASTKERAS_INLINE Vec<T> ExpOfScores(const TripleGroup<T>& group, T* row) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Vec<T> peak = Broadcast(-kInfinity);
  for (int64_t k = 0; k < group.row; k += group.kWidth) peak = Max(Load(row + k), peak);
  peak = MaxOverSections<T>(peak, group.sections);
  peak = peak == -kInfinity ? Vec<T>{} : peak;
  for (int64_t k = 0; k < group.row; k += group.kWidth) {
    Store(row + k, Exp<T>(Load(row + k) - peak));
  }
  return peak;
}

// alpha of the first two tags, by rows, from the emissions of the first two steps.
template <typename T>
FASTKERAS_INLINE void FirstPairs(const TripleGroup<T>& group, const T* first, const T* second,
                                 Vec<T> scale, T* alpha) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int64_t k = 0; k < group.area; k += kWidth) Store(alpha + k, Vec<T>{});
  for (int i = 0; i < group.num_tags; ++i) {
    const Vec<T> before = group.Spread(first, i) * scale;
    for (int64_t k = 0; k < group.row; k += kWidth) {
      const Vec<T> way = Load(group.triples.first + i * group.row + k);
      Store(alpha + i * group.row + k, before * way * Load(second + k));
    }
  }
}

// One step: alpha by rows, from that of the step before. Pairs that nothing leads to stay as they
// are, 0, in alpha, or in by_columns if there is more than one section: with one, both orders are
// the same.
template <typename T>
void NextPairs(const TripleGroup<T>& group, const T* before, const T* emission, T* by_columns,
               T* alpha) {
  if (group.sections == 1) {
    return TriplesForward<SumProduct>(
        group.triples, before, alpha,
        [&](Vec<T> sum, int64_t k) FASTKERAS_LAMBDA_INLINE { return sum * Load(emission + k); });
  }
  TriplesForward<SumProduct>(group.triples, before, by_columns,
                             [&](Vec<T> sum, int64_t) FASTKERAS_LAMBDA_INLINE { return sum; });
  ChangeOrder<true>(group, by_columns, alpha, [&](Vec<T> sum, int v) FASTKERAS_LAMBDA_INLINE {
    return sum * Load(emission + v * group.kWidth);
  });
}

// The sums over the tags before, a row: of every pair, or of those that some triple leads to.
template <bool kEvery, typename T>
FASTKERAS_INLINE void SumOfRows(const TripleGroup<T>& group, const T* matrix, T* sums) {
  for (int64_t k = 0; k < group.row; k += group.kWidth) {
    Vec<T> sum = {};
    const auto add = [&](int64_t i)
                         FASTKERAS_LAMBDA_INLINE { sum += Load(matrix + i * group.row + k); };
    if constexpr (kEvery) {
      for (int i = 0; i < group.num_tags; ++i) add(i);
    } else {
      group.ForReached(k / group.kWidth, add);
    }
    Store(sums + k, sum);
  }
}

// Looks for pairs below their floors, which have lost digits unless they are impossible.
template <typename T>
struct TripleWatch {
  const TripleGroup<T>& group;
  T gap[Simd<T>::kWidth];         // of what counted as zero, by place
  bool inexact[Simd<T>::kWidth];  // by place
  const Buffer<T> reached;        // (num_tags) the sums of a step, each tag's in all sections

  explicit TripleWatch(const TripleGroup<T>& given)
      : group(given), reached(given.triples.floors ? given.num_tags * given.kWidth : 0) {
    for (int place = 0; place < group.count; ++place) {
      gap[place] = group.triples.forbidden_gap;
      inexact[place] = false;
    }
  }

  // Emissions that are exponentiated now.
  void Emissions(const T* row) {
    if (!AnyIsLow(row)) return;
    for (int place = 0; place < group.count; ++place) {
      T peak = -std::numeric_limits<T>::infinity();
      for (int tag = 0; tag < group.num_tags; ++tag) {
        const T x = row[group.At(tag, place)];
        peak = x > peak ? x : peak;
      }
      for (int tag = 0; tag < group.num_tags; ++tag) {
        const T below = peak - row[group.At(tag, place)];
        if (!(below > kTripleSoft<T>) || below > std::numeric_limits<T>::max()) continue;
        if (below <= crf::kForbidden<T>) {
          inexact[place] = true;
        } else if (below < gap[place]) {
          gap[place] = below;
        }
      }
    }
  }

  // Whether some tag's score is far below the largest of its step, but not -inf.
  bool AnyIsLow(const T* row) const {
    Vec<T> peak = Load(row);
    for (int64_t k = group.kWidth; k < group.row; k += group.kWidth) {
      peak = Max(Load(row + k), peak);
    }
    peak = MaxOverSections<T>(peak, group.sections);
    typename TripleGroup<T>::Int low = {};
    for (int64_t k = 0; k < group.row; k += group.kWidth) {
      const Vec<T> below = peak - Load(row + k);
      low |= (below > kTripleSoft<T>)&(below <= std::numeric_limits<T>::max());
    }
    bool any = false;
    for (int lane = 0; lane < group.kWidth; ++lane) any |= low[lane] != 0;
    return any;
  }

  // alpha of a step; `before` that of the step before, and its sums over the tags before, or null
  // and the first emissions.
  void Pairs(int64_t s, const T* before, const T* sums_before, const T* emission, const T* alpha) {
    constexpr int kWidth = Simd<T>::kWidth;
    const T* const floors = before ? group.triples.floors : group.triples.first_floors;
    for (int j = 0; j < group.num_tags; ++j) {
      Store(reached.data + j * kWidth, group.Spread(sums_before, j));
    }
    typename TripleGroup<T>::Int low = {};
    for (int64_t k = 0; k < group.row; k += kWidth) {
      typename TripleGroup<T>::Int of_tag = {};
      const auto look = [&](int64_t j) FASTKERAS_LAMBDA_INLINE {
        const int64_t at = j * group.row + k;
        of_tag |= (Load(alpha + at) < Load(floors + at)) & (Load(reached.data + j * kWidth) > 0);
      };
      if (before) {
        group.ForReached(k / kWidth, look);
      } else {
        for (int j = 0; j < group.num_tags; ++j) look(j);
      }
      low |= of_tag & (Load(emission + k) > 0);
    }
    for (int place = 0; place < group.count; ++place) {
      bool any = false;
      for (int section = 0; section < group.sections; ++section) {
        any |= low[group.LaneOf(place) + section] != 0;
      }
      if (any && s < group.counts[place] && !inexact[place]) {
        Inspect(place, before, sums_before, emission, alpha);
      }
    }
  }

  // Unlike its floor tells, a pair may be one that no tag leads to here.
  void Inspect(int place, const T* before, const T* sums_before, const T* emission,
               const T* alpha) {
    const int num_tags = group.num_tags;
    for (int j = 0; j < num_tags; ++j) {
      if (!(sums_before[group.At(j, place)] > 0)) continue;
      for (int k = 0; k < num_tags; ++k) {
        const int64_t at = j * group.row + group.At(k, place);
        const T floor = (before ? group.triples.floors : group.triples.first_floors)[at];
        if (alpha[at] >= floor || emission[group.At(k, place)] == 0) continue;
        if (!before) inexact[place] = true;
        for (int i = 0; before && i < num_tags; ++i) {
          const T way = group.triples.scores[(int64_t{i} * num_tags + j) * num_tags + k];
          if (way > 0 && before[i * group.row + group.At(j, place)] > 0) inexact[place] = true;
        }
      }
    }
  }
};

template <typename T>
void TripleForward(const crf::TriplePlan<T>& triples, int64_t first, int64_t last, double* value) {
  constexpr int kWidth = Simd<T>::kWidth, kChunk = crf::kTripleChunk;
  using Int = typename Simd<T>::Int;
  const TripleGroup<T> group(triples, first, last);
  const int64_t area = group.area, row = group.row, num_tags = group.num_tags;
  const Buffer<T> room(4 * area + (kChunk + 2) * row + 2 * row);
  T *alpha = room.data, *next = alpha + area, *after_next = next + area;  // alpha: of step 1 alone
  T *const by_columns = after_next + area, *const emissions = by_columns + area;
  T *sums = emissions + (kChunk + 2) * row, *next_sums = sums + row;
  for (int64_t k = 0; k < 3 * area; k += kWidth) Store(next + k, Vec<T>{});
  TripleWatch<T> watch(group);
  const crf::KeptTriples kept(group.plan.chains.steps, num_tags);
  const auto workspace = [&](int place) {
    return triples.workspace + group.sequence[place] * kept.size;
  };
  double peaks[kWidth] = {};
  int64_t exponents[kWidth] = {};
  const auto read = [&](int64_t begin, int64_t end) {
    ReadScores(group, begin, end, emissions);
    for (int64_t s = begin; s < end; ++s) {
      T* const of_step = emissions + (s - begin) * row;
      if (triples.floors) watch.Emissions(of_step);
      const Vec<T> peak = ExpOfScores(group, of_step);
      for (int place = 0; place < group.count; ++place) peaks[place] += peak[group.LaneOf(place)];
    }
  };
  const auto finish = [&](int64_t s) {
    if (!group.AnyEndsAt(s)) return;
    const Vec<T> total = group.SumOf(sums);
    for (int place = 0; place < group.count; ++place) {
      if (group.counts[place] != s + 1) continue;
      const int64_t b = group.sequence[place], steps = s + 1;
      const double scaled = std::log(static_cast<double>(total[group.LaneOf(place)])) +
                            exponents[place] * 0.693147180559945309417;
      value[b] = scaled + peaks[place] + triples.first_peak +
                 static_cast<double>(steps - 2) * triples.peak;
      // All paths through something that counted as zero, together, at most:
      const double lost = steps * std::log(static_cast<double>(num_tags)) - watch.gap[place];
      triples.inexact[b] = watch.inexact[place] || !(lost < scaled - 40);
      if (triples.workspace) workspace(place)[kept.total] = total[group.LaneOf(place)];
    }
  };

  read(0, 2);
  Vec<T> lift = Broadcast(T(1));
  for (int n = 0; n < kTripleLift<T>; n += 20) lift *= T(1 << 20);
  for (int place = 0; place < group.count; ++place) exponents[place] = -kTripleLift<T>;
  FirstPairs(group, emissions, emissions + row, lift, alpha);
  if (triples.floors) watch.Pairs(1, nullptr, emissions, emissions + row, alpha);
  SumOfRows<true>(group, alpha, sums);
  finish(1);
  for (int64_t s = 2; s < group.steps; ++s) {
    const int64_t in_chunk = (s - 2) % kChunk;
    if (in_chunk == 0) {
      const int64_t end = s + kChunk < group.steps ? s + kChunk : group.steps;
      read(s, end);
      if (triples.workspace) {
        const int64_t at = kept.pairs + (s - 2) / kChunk * num_tags * num_tags;
        ScatterPairs(group, alpha, [&](int place) -> T* {
          return s < group.counts[place] ? workspace(place) + at : nullptr;
        });
      }
    }
    Vec<T> largest = Load(sums);
    for (int64_t k = kWidth; k < row; k += kWidth) largest = Max(Load(sums + k), largest);
    largest = MaxOverSections<T>(largest, group.sections);
    const Vec<T> least = 1 / lift;
    Vec<T> scale;
    const Int exponent = ExponentOf<T>(Max(largest, least), scale);
    scale *= lift;
    for (int place = 0; place < group.count; ++place) {
      exponents[place] += exponent[group.LaneOf(place)] - kTripleLift<T>;
      if (triples.workspace && s < group.counts[place]) {
        workspace(place)[kept.scales + s] = scale[group.LaneOf(place)];
      }
    }
    T* const emission = emissions + in_chunk * row;
    for (int64_t k = 0; k < row; k += kWidth) Store(emission + k, Load(emission + k) * scale);
    NextPairs(group, alpha, emission, by_columns, next);
    SumOfRows<false>(group, next, next_sums);
    if (triples.floors) watch.Pairs(s, alpha, sums, emission, next);
    alpha = next;
    next = after_next;
    after_next = alpha;
    T* const old_sums = sums;
    sums = next_sums;
    next_sums = old_sums;
    finish(s);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_FORWARD_H_
