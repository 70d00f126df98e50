// Sequences in lanes and tags in sections (triples.h): where their rows lie, and the transposition
// of sections.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SECTIONS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SECTIONS_H_

#include "crf/second_order/triples.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
struct TripleGroup {
  static constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;

  const crf::TriplePlan<T>& triples;
  const crf::Plan<T>& plan;
  const int num_tags, sections, lanes, vectors, rows, count;
  const int64_t area, row;  // elements of a matrix over pairs, and of a row over tags
  int64_t steps = 0;        // of the longest
  int64_t sequence[kWidth], counts[kWidth];
  int places[kWidth], first_tag[kWidth], tags_in[kWidth];  // of each lane, and of its section
  Int first_lane;                                          // of each lane's place
  Int lengths;                                             // of each lane; 0: not used

  TripleGroup(const crf::TriplePlan<T>& given, int64_t first, int64_t last)
      : triples(given),
        plan(*given.plan),
        num_tags(given.num_tags),
        sections(given.sections),
        lanes(given.lanes),
        vectors(given.vectors),
        rows(given.rows),
        count(static_cast<int>(last - first)),
        area(crf::AreaOf(given, kWidth)),
        row(int64_t{given.vectors} * kWidth) {
    for (int place = 0; place < count; ++place) {
      sequence[place] = given.order[first + place];
      counts[place] = plan.counts[sequence[place]];
      if (counts[place] > steps) steps = counts[place];
    }
    for (int lane = 0; lane < kWidth; ++lane) {
      places[lane] = lane / sections;
      first_lane[lane] = lane - lane % sections;
      lengths[lane] =
          places[lane] < count ? static_cast<decltype(+lengths[0])>(counts[places[lane]]) : 0;
      first_tag[lane] = lane % sections * vectors;
      const int left = num_tags - first_tag[lane];
      tags_in[lane] = left < 0 ? 0 : left < vectors ? left : vectors;
    }
  }

  int LaneOf(int place) const { return place * sections; }  // its first
  // Where the tag of a place is in a row.
  int64_t At(int tag, int place) const {
    if (sections == 1) return int64_t{tag} * kWidth + place;  // divisions take longer
    return int64_t{tag % vectors} * kWidth + LaneOf(place) + tag / vectors;
  }
  FASTKERAS_INLINE Int EndingAt(int64_t step) const {
    return lengths == static_cast<decltype(+lengths[0])>(step + 1);
  }
  bool AnyEndsAt(int64_t step) const {
    bool any = false;
    for (int place = 0; place < count; ++place) any |= counts[place] == step + 1;
    return any;
  }
  // One tag of a row, in all sections.
  FASTKERAS_INLINE Vec<T> Spread(const T* from, int tag) const {
    if (sections == 1) return Load(from + int64_t{tag} * kWidth);
    from += tag % vectors * kWidth;
    const Int lanes_of_tag = first_lane + tag / vectors;
    if constexpr (kLooksUp) {
      const Vec<T> tags = Load(from);
      return LookUp(tags, tags, lanes_of_tag);
    } else {
      T spread[kWidth];
      for (int lane = 0; lane < kWidth; ++lane) spread[lane] = from[lanes_of_tag[lane]];
      return Load(spread);
    }
  }
  // Calls fn(row) for the rows of a matrix where some triple leads to a pair of this vector.
  template <typename Function>
  FASTKERAS_INLINE void ForReached(int64_t vector, const Function& fn) const {
    const int32_t* const from = triples.reached_from;
    for (int32_t n = from[vector]; n < from[vector + 1]; ++n) fn(int64_t{triples.reached[n]});
  }
  // The sum of a row in all lanes, tag after tag: where a sequence goes does not change its bits.
  FASTKERAS_INLINE Vec<T> SumOf(const T* from) const {
    Vec<T> sum = {};
    for (int tag = 0; tag < num_tags; ++tag) sum += Spread(from, tag);
    return sum;
  }
  // One number for each place, in all sections.
  FASTKERAS_INLINE Vec<T> OfPlaces(const T* from) const {
    T spread[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      spread[lane] = places[lane] < count ? from[places[lane]] : T(0);
    }
    return Load(spread);
  }
};

template <int kDistance>
struct OtherSection {
  static constexpr int At(int lane) { return lane ^ kDistance; }
};
// The even, or the odd, pieces of two vectors: a 2 x 2 transposition of pieces.
template <int kWidth, int kPiece, int kOdd>
struct OfBoth {
  static constexpr int At(int lane) {
    const bool odd = lane / kPiece % 2 == 1;
    return kOdd ? (odd ? kWidth + lane : lane + kPiece) : (odd ? kWidth + lane - kPiece : lane);
  }
};

// The maximum over all sections, in all of them.
template <typename T, int kDistance = Simd<T>::kWidth / 2>
FASTKERAS_INLINE Vec<T> MaxOverSections(Vec<T> v, int sections) {
  if constexpr (kDistance > 0) {
    if (kDistance < sections) v = Max(v, Shuffled<OtherSection<kDistance>>(v, v));
    return MaxOverSections<T, kDistance / 2>(v, sections);
  }
  return v;
}

template <typename T, int kSections, int kDistance = 1>
FASTKERAS_INLINE void TransposeSections(Vec<T>* square) {
  if constexpr (kDistance < kSections) {
    constexpr int kWidth = Simd<T>::kWidth;
#pragma GCC unroll 16
    for (int i = 0; i < kSections; ++i) {
      if (i & kDistance) continue;
      const Vec<T> a = square[i], b = square[i + kDistance];
      square[i] = Shuffled<OfBoth<kWidth, kDistance, 0>>(a, b);
      square[i + kDistance] = Shuffled<OfBoth<kWidth, kDistance, 1>>(a, b);
    }
    TransposeSections<T, kSections, 2 * kDistance>(square);
  }
}

// Calls fn(constant) for the number of sections.
template <typename T, int kSections = Simd<T>::kWidth, typename Function>
FASTKERAS_INLINE void WithSections(int sections, const Function& fn) {
  if constexpr (kSections > 1) {
    if (sections < kSections) return WithSections<T, kSections / 2>(sections, fn);
  }
  fn(std::integral_constant<int, kSections>());
}

// Makes a matrix by rows of one by columns, or the opposite, with fn(vector, v) of each vector v of
// a row.
template <bool kToRows, typename T, typename Function>
FASTKERAS_INLINE void ChangeOrder(const TripleGroup<T>& group, const T* from, T* to,
                                  const Function& fn) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int vectors = group.vectors;
  WithSections<T>(group.sections, [&](auto sections) FASTKERAS_LAMBDA_INLINE {
    constexpr int kSections = decltype(sections)::value;
    const int64_t columns = int64_t{vectors} * kSections;
    for (int v = 0; v < vectors; ++v) {
      for (int w = 0; w < vectors; ++w) {
        Vec<T> square[kSections];
        const auto by_column = [&](int s) { return (v * columns + s * vectors + w) * kWidth; };
        const auto by_row = [&](int s) {
          return (int64_t{s * vectors + v} * vectors + w) * kWidth;
        };
#pragma GCC unroll 16
        for (int s = 0; s < kSections; ++s) {
          square[s] = Load(from + (kToRows ? by_column(s) : by_row(s)));
        }
        TransposeSections<T, kSections>(square);
#pragma GCC unroll 16
        for (int s = 0; s < kSections; ++s) {
          Store(to + (kToRows ? by_row(s) : by_column(s)), fn(square[s], w));
        }
      }
    }
  });
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SECTIONS_H_
