// The marginals of a second-order chain's pairs and triples. The pairs of each step are computed
// once more, from those that were kept of every few steps: all of them would not stay in a cache.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_BACKWARD_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_BACKWARD_H_

#include "crf/second_order/sweeps/forward.h"
#include "crf/second_order/sweeps/sums.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
struct TripleSuffixes {
  const TripleGroup<T>& group;
  Vec<T> inverse_totals;
  T* product;  // beta of the step, by rows, of lanes that do not end at it
  T* pairs;    // the sums of p over steps, by rows

  // p = alpha beta of a step: writes its sums over the tags before, and r = beta emission. Of all
  // pairs, or of those that some triple leads to: of others nothing is written.
  template <bool kSumsPairs, bool kEvery>
  FASTKERAS_INLINE void Multiply(int64_t s, const T* alpha, const T* emission, T* unary,
                                 T* r) const {
    const auto ending = group.EndingAt(s);
    for (int64_t k = 0; k < group.row; k += group.kWidth) {
      const Vec<T> e = Load(emission + k);
      Vec<T> sum = {};
      const auto multiply = [&](int64_t i) FASTKERAS_LAMBDA_INLINE {
        const int64_t at = i * group.row + k;
        const Vec<T> prefix = Load(alpha + at);
        Vec<T> suffix = ending ? inverse_totals : Load(product + at);
        // Of a pair that nothing reaches, the other may have grown without bound.
        suffix = prefix > 0 ? suffix : Vec<T>{};
        const Vec<T> p = prefix * suffix;
        sum += p;
        if constexpr (kSumsPairs) Store(pairs + at, Load(pairs + at) + p);
        Store(r + at, suffix * e);
      };
      if constexpr (kEvery) {
        for (int i = 0; i < group.num_tags; ++i) multiply(i);
      } else {
        group.ForReached(k / group.kWidth, multiply);
      }
      Store(unary + k, sum);
    }
  }
};

template <bool kSumsPairs, typename T>
void TripleBackwardOf(const crf::TriplePlan<T>& triples, const crf::TripleOutputs<T>& out,
                      int64_t first, int64_t last) {
  constexpr int kWidth = Simd<T>::kWidth, kChunk = crf::kTripleChunk;
  const TripleGroup<T> group(triples, first, last);
  const int64_t area = group.area, row = group.row, num_tags = group.num_tags;
  const int64_t lane_sums = kSumsPairs ? 0 : TriplesInLanes(triples) * kWidth;
  const int64_t transposed =
      kSumsPairs ? 0 : kChunk * crf::TilesOf(num_tags, kWidth) * kWidth * kWidth;
  const Buffer<T> room((2 * kChunk + 6) * area + (2 * kChunk + 4) * row + lane_sums + transposed);
  T *const alphas = room.data, *const r = alphas + (kChunk + 1) * area;
  T *const by_columns = r + (kChunk + 1) * area, *const by_rows = by_columns + area;
  T *const product = by_rows + area, *const pairs = product + area;
  T *const emissions = pairs + area, *const unary = emissions + (kChunk + 2) * row;
  T *const in_lanes = unary + (kChunk + 2) * row, *const for_tiles = in_lanes + lane_sums;
  for (int64_t k = 0; k < (kChunk + 1) * area; k += kWidth) Store(alphas + k, Vec<T>{});
  for (int64_t k = 0; k < 4 * area; k += kWidth) Store(by_columns + k, Vec<T>{});
  for (int64_t k = 0; k < lane_sums; k += kWidth) Store(in_lanes + k, Vec<T>{});
  const crf::KeptTriples kept(group.plan.chains.steps, num_tags);
  const auto workspace = [&](int place) {
    return triples.workspace + group.sequence[place] * kept.size;
  };
  T of_places[kWidth];
  for (int place = 0; place < group.count; ++place) {
    const T total = workspace(place)[kept.total];
    of_places[place] = total > 0 ? 1 / total : 0;
  }
  const TripleSuffixes<T> suffixes{group, group.OfPlaces(of_places), product, pairs};
  Vec<T> correction = Broadcast(T(1));
  for (int64_t chunk = (group.steps - 3 + kChunk) / kChunk - 1; chunk >= 0; --chunk) {
    const int64_t begin = 2 + chunk * kChunk;
    const int64_t end = begin + kChunk < group.steps ? begin + kChunk : group.steps;
    const int64_t at = kept.pairs + chunk * num_tags * num_tags;
    GatherPairs(
        group,
        [&](int place) -> const T* {
          return begin < group.counts[place] ? workspace(place) + at : nullptr;
        },
        alphas);
    ReadScores(group, begin, end, emissions);
    for (int64_t s = begin; s < end; ++s) {
      T* const emission = emissions + (s - begin) * row;
      ExpOfScores(group, emission);
      for (int place = 0; place < group.count; ++place) {
        of_places[place] = s < group.counts[place] ? workspace(place)[kept.scales + s] : 0;
      }
      const Vec<T> scale = group.OfPlaces(of_places);
      for (int64_t k = 0; k < row; k += kWidth) Store(emission + k, Load(emission + k) * scale);
      T* const alpha = alphas + (s - begin) * area;
      NextPairs(group, alpha, emission, by_columns, alpha + area);
    }
    for (int64_t s = end - 1; s >= begin; --s) {
      const int64_t n = s - begin;
      T *const emission = emissions + n * row, *const to = r + n * area;
      for (int64_t k = 0; k < row && s != end - 1; k += kWidth) {
        Store(emission + k, Load(emission + k) * correction);
      }
      suffixes.template Multiply<kSumsPairs, false>(s, alphas + (n + 1) * area, emission,
                                                    unary + n * row,
                                                    group.sections == 1 ? to : by_rows);
      if (group.sections > 1) {
        ChangeOrder<false>(group, by_rows, to,
                           [&](Vec<T> x, int) FASTKERAS_LAMBDA_INLINE { return x; });
      }
      TriplesBackward(triples, to, product);
      correction = Broadcast(T(1));
      // The errors of many steps must not add up. Not at the end of a group, which is no property
      // of a sequence: its bits must not depend on the others.
      if (n == kChunk - 1) {
        const Vec<T> sum = group.SumOf(unary + n * row);
        correction = (sum > T(0.5)) & (sum < T(2)) ? 1 / sum : correction;
      }
    }
    if constexpr (!kSumsPairs) {
      SumTriplesOfLanes(group, end - begin, alphas, r, in_lanes);
      SumTriplesInTiles(group, out, end - begin, alphas, r, for_tiles);
    }
    WriteMarginals(group, out, begin, end, unary);
  }
  if constexpr (!kSumsPairs) AddLanes(group, out, in_lanes);
  ReadScores(group, 0, 2, emissions);
  ExpOfScores(group, emissions);
  ExpOfScores(group, emissions + row);
  Vec<T> lift = Broadcast(T(1));
  for (int n = 0; n < kTripleLift<T>; n += 20) lift *= T(1 << 20);
  FirstPairs(group, emissions, emissions + row, lift, alphas);
  T* const first_pairs = by_columns;
  for (int64_t k = 0; k < area; k += kWidth) Store(first_pairs + k, Vec<T>{});
  const TripleSuffixes<T> of_first{group, suffixes.inverse_totals, product, first_pairs};
  of_first.template Multiply<true, true>(1, alphas, emissions + row, unary + row, by_rows);
  for (int i = 0; i < group.num_tags; ++i) {
    const Vec<T> sum = group.SumOf(first_pairs + i * row);
    for (int place = 0; place < group.count; ++place) {
      unary[group.At(i, place)] = sum[group.LaneOf(place)];
    }
  }
  WriteMarginals(group, out, 0, 2, unary);
  for (int64_t k = 0; k < area; k += kWidth)
    Store(pairs + k, Load(pairs + k) + Load(first_pairs + k));
  ScatterPairs(group, pairs,
               [&](int place) { return out.pairs + group.sequence[place] * num_tags * num_tags; });
}

template <typename T>
void TripleBackward(const crf::TriplePlan<T>& triples, const crf::TripleOutputs<T>& out,
                    int64_t first, int64_t last) {
  out.triples ? TripleBackwardOf<false>(triples, out, first, last)
              : TripleBackwardOf<true>(triples, out, first, last);
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_BACKWARD_H_
