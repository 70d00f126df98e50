// Few tags: a vector holds one tag of many sequences, a lane for each, so that a step takes no sum
// or maximum across a vector. The operations on a sequence, and their order, are those of the
// sweeps that keep its tags in a vector, so the results have the same bits. Where the sequences
// fill no more than half of the lanes, or a quarter of 16, each half or quarter holds all of them,
// with a part of their tags (`sections`).

#ifndef FASTKERAS_CRF_SWEEPS_LANES_H_
#define FASTKERAS_CRF_SWEEPS_LANES_H_

#include "crf/kernels.h"
#include "crf/sweeps/products.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kLaneChunk = 16;  // steps that are transposed at once
template <typename T>
constexpr int kSectionsOf = crf::MostSections(Simd<T>::kWidth);  // if not one

// Sequences that go through time together, a lane for each (and section). A step of them has
// `vectors` vectors, of the tags j, and of j + vectors in the second section, and so on.
template <typename T>
struct Lanes {
  static constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;

  int count, sections, num_tags, vectors;
  bool padded;               // the last sections have fewer tags
  int64_t steps, shortest;   // valid steps of the longest, and of the shortest lane
  int64_t sequence[kWidth];  // of each lane; of one that is not used, that of another
  int64_t counts[kWidth];    // valid steps of each lane; 0: not used
  Int lengths;               // counts
  Int first_tag, tags;       // of the section of each lane, and how many

  Lanes(const crf::Plan<T>& plan, int64_t first, int64_t last)
      : count(static_cast<int>(last - first)),
        sections(crf::LaneSections(count, kWidth)),
        num_tags(static_cast<int>(plan.chains.num_tags)),
        vectors((num_tags + sections - 1) / sections),
        padded(vectors * sections > num_tags),
        steps(plan.counts[plan.order[first]]) {
    const int per_section = kWidth / sections;
    shortest = steps;
    for (int lane = 0; lane < kWidth; ++lane) {
      const int place = lane % per_section;
      sequence[lane] = plan.order[first + (place < count ? place : 0)];
      counts[lane] = place < count ? plan.counts[sequence[lane]] : 0;
      lengths[lane] = static_cast<decltype(+lengths[0])>(counts[lane]);
      first_tag[lane] = lane / per_section * vectors;
      const int rest = num_tags - static_cast<int>(first_tag[lane]);
      tags[lane] = rest < 0 ? 0 : rest < vectors ? rest : vectors;
      if (counts[lane] < shortest) shortest = counts[lane];
    }
  }

  // Whether the lanes are all in use, so that the rows of the workspace are whole vectors.
  bool fills_vectors() const { return count * sections == kWidth && !padded; }
  FASTKERAS_INLINE Int Live(int64_t step) const {
    return lengths > static_cast<decltype(+lengths[0])>(step);
  }
  FASTKERAS_INLINE Int EndingAt(int64_t step) const {
    return lengths == static_cast<decltype(+lengths[0])>(step + 1);
  }
  // The first step from `step` on that is the last one of some lane; `steps` if there is none.
  int64_t NextEnd(int64_t step) const {
    int64_t next = steps;
    for (int lane = 0; lane < kWidth; ++lane) {
      if (counts[lane] > step && counts[lane] - 1 < next) next = counts[lane] - 1;
    }
    return next;
  }
  // The last step before `step` that is the last one of some lane; -1 if there is none.
  int64_t EndBefore(int64_t step) const {
    int64_t before = -1;
    for (int lane = 0; lane < kWidth; ++lane) {
      if (counts[lane] <= step && counts[lane] - 1 > before) before = counts[lane] - 1;
    }
    return before;
  }
  // Where the row of a tag begins among the vectors of a step, and its first lane.
  int64_t Place(int tag) const {
    return int64_t{tag % vectors} * kWidth + tag / vectors * (kWidth / sections);
  }
  // `padding` in place of tags that a section lacks.
  FASTKERAS_INLINE Vec<T> Pad(int vector, Vec<T> value, T padding) const {
    if (!padded || vector < tags[kWidth - 1]) return value;
    return tags > vector ? value : Broadcast(padding);
  }
};

// The vector of one tag, or that of one section in all.
template <int kSections, typename T>
FASTKERAS_INLINE Vec<T> LoadTag(const T* from) {
  return LoadRepeated<Simd<T>::kWidth / kSections>(from);
}

// The sum and the maximum of all sections, in all lanes.
template <typename T>
FASTKERAS_INLINE Vec<T> SumOfSections(const Lanes<T>& lanes, Vec<T> v) {
  if (lanes.sections == 1) return v;
  if constexpr (kSectionsOf<T> == 4) v += SwappedQuarters(v);
  return v + SwappedHalves(v);
}
template <typename T>
FASTKERAS_INLINE Vec<T> MaxOfSections(const Lanes<T>& lanes, Vec<T> v) {
  if (lanes.sections == 1) return v;
  if constexpr (kSectionsOf<T> == 4) v = Max(v, SwappedQuarters(v));
  return Max(v, SwappedHalves(v));
}

// The sum of a row, part by part, whether these are in sections or in one: where a sequence goes
// does not change its bits.
template <typename T>
FASTKERAS_INLINE Vec<T> SumOfTags(const Lanes<T>& lanes, const T* row) {
  constexpr int kParts = kSectionsOf<T>;
  const int size = (lanes.num_tags + kParts - 1) / kParts;
  Vec<T> parts[kParts] = {};
  for (int v = 0, part = 0; v < lanes.vectors; ++part) {
    for (const int end = v + size < lanes.vectors ? v + size : lanes.vectors; v < end; ++v) {
      parts[part] += Load(row + v * lanes.kWidth);
    }
  }
  if (lanes.sections > 1) return SumOfSections(lanes, parts[0]);
  const Vec<T> low = parts[0] + parts[1];
  return kParts == 2 ? low : low + (parts[kParts - 2] + parts[kParts - 1]);
}

// Calls body(first, constant) for tiles that cover 0..size-1, as even as possible, at most kMost.
template <int kMost, typename Body>
FASTKERAS_INLINE void InTiles(int size, const Body& body) {
  static_assert(kMost <= 12, "no case for it");
  const int tiles = (size + kMost - 1) / kMost;
  for (int first = 0, tile = 0; tile < tiles; ++tile) {
    const int width = (size - first + tiles - tile - 1) / (tiles - tile);
    const auto of_width = [&](auto constant) FASTKERAS_LAMBDA_INLINE {
      constexpr int kTile = decltype(constant)::value;
      if constexpr (kTile <= kMost) {
        if (width == kTile) body(first, constant);
      }
    };
    of_width(std::integral_constant<int, 1>());
    of_width(std::integral_constant<int, 2>());
    of_width(std::integral_constant<int, 3>());
    of_width(std::integral_constant<int, 4>());
    of_width(std::integral_constant<int, 5>());
    of_width(std::integral_constant<int, 6>());
    of_width(std::integral_constant<int, 7>());
    of_width(std::integral_constant<int, 8>());
    of_width(std::integral_constant<int, 9>());
    of_width(std::integral_constant<int, 10>());
    of_width(std::integral_constant<int, 11>());
    of_width(std::integral_constant<int, 12>());
    first += width;
  }
}

// out(j, vector j of row x matrix), where the matrix is cut as by CutIntoLanes.
template <typename Semiring, int kSections, typename T, typename Out>
FASTKERAS_INLINE void LaneProduct(const T* row, const T* matrix, int num_tags, int vectors,
                                  const Out& out) {
  constexpr int kWidth = Simd<T>::kWidth;
  InTiles<8>(vectors, [&](int first, auto tile) FASTKERAS_LAMBDA_INLINE {
    constexpr int kTile = decltype(tile)::value;
    Vec<T> sums[kTile];
#pragma GCC unroll 8
    for (int v = 0; v < kTile; ++v) sums[v] = Semiring::template Zero<Vec<T>>();
    const T* entries = matrix + first * kWidth;
    const int64_t next = int64_t{vectors} * kWidth;
#pragma GCC unroll 4
    for (int section = 0; section < kSections; ++section) {
      const T* tag = row + section * (kWidth / kSections);
      const int rest = num_tags - section * vectors, tags = rest < vectors ? rest : vectors;
      for (int i = 0; i < tags; ++i, tag += kWidth, entries += next) {
        const Vec<T> element = LoadTag<kSections>(tag);
#pragma GCC unroll 8
        for (int v = 0; v < kTile; ++v) {
          sums[v] = Semiring::Add(sums[v], element, Load(entries + v * kWidth));
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kTile; ++v) out(first + v, sums[v]);
  });
}

// A vector for each entry (i, j) of a matrix: (num_tags, vectors, kWidth), with column j + vectors
// in the lanes of the second section, and so on.
template <typename T>
void CutIntoLanes(const crf::Panels<T>& matrix, int sections, T padding, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int num_tags = static_cast<int>(matrix.num_tags);
  const int vectors = (num_tags + sections - 1) / sections;
  const int per_section = kWidth / sections;
  for (int i = 0; i < num_tags; ++i) {
    for (int v = 0; v < vectors; ++v, into += kWidth) {
      for (int section = 0; section < sections; ++section) {
        const int j = section * vectors + v;
        const T entry = j < num_tags ? crf::EntryOf(matrix, kWidth, i, j) : padding;
        for (int lane = 0; lane < per_section; ++lane) into[section * per_section + lane] = entry;
      }
    }
  }
}

// Scores of tags, such as those of a start, as the vectors of one step.
template <typename T>
void SpreadOverLanes(const Lanes<T>& lanes, const T* scores, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int k = 0; k < lanes.vectors * kWidth; ++k) into[k] = 0;
  for (int j = 0; j < lanes.num_tags; ++j) {
    for (int lane = 0; lane < kWidth / lanes.sections; ++lane) {
      into[lanes.Place(j) + lane] = scores[j];
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_H_
