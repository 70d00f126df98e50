// Few tags: a vector holds one tag of many sequences, a lane for each, so that a step takes no sum
// or maximum across a vector. The operations on a sequence, and their order, are those of the
// sweeps that keep its tags in a vector, so the results have the same bits. Where the sequences
// fill only half of the lanes, both halves hold them: the lower one with the first half of the
// tags, the upper one with the others (`sections`).

#ifndef FASTKERAS_CRF_SWEEPS_LANES_H_
#define FASTKERAS_CRF_SWEEPS_LANES_H_

#include "crf/kernels.h"
#include "crf/sweeps/products.h"
#include "machine/memory.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kLaneChunk = 16;  // steps that are transposed at once

// Sequences that go through time together, a lane for each (and section). A step of them has
// `vectors` vectors, of the tags j, and of j + vectors in the second section.
template <typename T>
struct Lanes {
  static constexpr int kWidth = Simd<T>::kWidth;
  using Int = typename Simd<T>::Int;

  int count, sections, num_tags, vectors;
  bool padded;               // the second section has a tag less
  int64_t steps, shortest;   // valid steps of the longest, and of the shortest lane
  int64_t sequence[kWidth];  // of each lane; of one that is not used, that of another
  int64_t counts[kWidth];    // valid steps of each lane; 0: not used
  Int lengths;               // counts
  Int second_section;        // -1 in lanes of the second section

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
      second_section[lane] = lane < per_section ? 0 : -1;
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
    return tag < vectors ? int64_t{tag} * kWidth : int64_t{tag - vectors} * kWidth + kWidth / 2;
  }
  // `padding` in place of the tag that the second section lacks.
  FASTKERAS_INLINE Vec<T> Pad(int vector, Vec<T> value, T padding) const {
    if (!padded || vector + 1 < vectors) return value;
    return second_section ? Broadcast(padding) : value;
  }
};

// The vector of one tag, or of kWidth / 2 sequences twice.
template <int kSections, typename T>
FASTKERAS_INLINE Vec<T> LoadTag(const T* from) {
  return kSections == 1 ? Load(from) : LoadTwice(from);
}

// The sum of a row, half by half, whether these are in two sections or in one: where a sequence
// goes does not change its bits.
template <typename T>
FASTKERAS_INLINE Vec<T> SumOfTags(const Lanes<T>& lanes, const T* row) {
  const int half = (lanes.num_tags + 1) / 2;
  Vec<T> low = {}, high = {};
  for (int v = 0; v < half; ++v) low += Load(row + v * lanes.kWidth);
  if (lanes.sections == 2) return low + SwappedHalves(low);
  for (int v = half; v < lanes.num_tags; ++v) high += Load(row + v * lanes.kWidth);
  return low + high;
}

// The maximum of both sections in all lanes.
template <typename T>
FASTKERAS_INLINE Vec<T> MaxOfSections(const Lanes<T>& lanes, Vec<T> v) {
  return lanes.sections == 1 ? v : Max(v, SwappedHalves(v));
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
#pragma GCC unroll 2
    for (int section = 0; section < kSections; ++section) {
      const T* tag = row + section * (kWidth / 2);
      const int tags = section == 0 ? (kSections == 1 ? num_tags : vectors) : num_tags - vectors;
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
// in the lanes of the second section.
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

// Whether two steps fill the square that is transposed: each lane has half of its vector for
// either.
template <typename T>
bool CanPair(const crf::Plan<T>& plan, const Lanes<T>& lanes) {
  return lanes.sections == 2 && lanes.num_tags > 1 && !plan.step_index &&
         2 * lanes.vectors <= lanes.kWidth;
}

// Reads the emissions of the steps begin..end-1, transposed, into (end - begin, vectors, kWidth).
// What a lane has after its last step, and in place of a tag that it lacks, is no score.
template <typename T>
FASTKERAS_SHARED void ReadEmissions(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                    int64_t end, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const crf::Chains<T>& chains = plan.chains;
  const int64_t num_tags = lanes.num_tags;
  Vec<T> square[kWidth];
  const T* rows[kWidth];
  if (lanes.sections == 1 && !plan.step_index) {  // the steps of a sequence as one long row
    for (int lane = 0; lane < kWidth; ++lane) {
      rows[lane] = chains.emissions + (lanes.sequence[lane] * chains.steps + begin) * num_tags;
    }
    const int64_t size = (end - begin) * num_tags;
    for (int64_t k = 0; k < size; k += kWidth) {
      const int left = size - k < kWidth ? static_cast<int>(size - k) : kWidth;
      if (left == kWidth) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) square[lane] = Load(rows[lane] + k);
      } else {
        for (int lane = 0; lane < kWidth; ++lane) square[lane] = LoadFirst(rows[lane] + k, left);
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (i < left) Store(into + (k + i) * kWidth, square[i]);
      }
    }
    return;
  }
  int64_t s = begin;
#if defined(FASTKERAS_AVX512)
  for (; CanPair(plan, lanes) && s + 2 <= end; s += 2) {
    const int tags[2] = {lanes.vectors, lanes.vectors - lanes.padded};
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      const int section = lane / (kWidth / 2);
      const T* const row = chains.emissions + section * lanes.vectors +
                           (lanes.sequence[lane] * chains.steps + s) * num_tags;
      square[lane] = LoadPair(row, row + num_tags, tags[section]);
    }
    Transpose<T>(square);
    T* const to = into + (s - begin) * lanes.vectors * kWidth;
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      if (i >= lanes.vectors) continue;
      Store(to + i * kWidth, square[i]);
      Store(to + (lanes.vectors + i) * kWidth, square[kWidth / 2 + i]);
    }
  }
#endif
  for (; s < end; ++s) {
    T* const to = into + (s - begin) * lanes.vectors * kWidth;
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t step = s < lanes.counts[lane] ? s : 0, b = lanes.sequence[lane];
      const int64_t t = crf::StepAt(plan, b, step);
      rows[lane] = chains.emissions + (b * chains.steps + t) * num_tags +
                   (lanes.second_section[lane] ? lanes.vectors : 0);
    }
    for (int j = 0; j < lanes.vectors; j += kWidth) {
      const int here = lanes.vectors - j < kWidth ? lanes.vectors - j : kWidth;
      const int less = lanes.padded && j + here == lanes.vectors;
#pragma GCC unroll 16
      for (int lane = 0; lane < kWidth; ++lane) {
        const int tags = here - (lane >= kWidth / 2 ? less : 0);
        square[lane] = tags > 0 ? LoadFirst(rows[lane] + j, tags) : Vec<T>{};
      }
      Transpose<T>(square);
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (i < here) Store(to + (j + i) * kWidth, square[i]);
      }
    }
  }
}

// The opposite: writes (end - begin, vectors, kWidth) to the rows of the steps begin..end-1, where
// they are steps of a lane.
template <typename T>
FASTKERAS_SHARED void WriteRows(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                int64_t end, const T* from, T* emissions) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = lanes.num_tags, steps = plan.chains.steps;
  Vec<T> square[kWidth];
  T* rows[kWidth];
  if (lanes.sections == 1 && !plan.step_index) {
    const int64_t size = (end - begin) * num_tags;
    const bool all = lanes.shortest >= end;
    int64_t sizes[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) {
      const int64_t left = lanes.counts[lane] - begin;
      rows[lane] = emissions + (lanes.sequence[lane] * steps + begin) * num_tags;
      sizes[lane] = left < 0 ? 0 : left * num_tags < size ? left * num_tags : size;
    }
    for (int64_t k = 0; k < size; k += kWidth) {
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        if (k + i < size) square[i] = Load(from + (k + i) * kWidth);
      }
      Transpose<T>(square);
      if (all && k + kWidth <= size) {
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) Store(rows[lane] + k, square[lane]);
        continue;
      }
      for (int lane = 0; lane < kWidth; ++lane) {
        const int64_t left = sizes[lane] - k;
        if (left >= kWidth) {
          Store(rows[lane] + k, square[lane]);
        } else if (left > 0) {
          StoreFirst(rows[lane] + k, square[lane], static_cast<int>(left));
        }
      }
    }
    return;
  }
  int64_t s = begin;
#if defined(FASTKERAS_AVX512)
  for (; CanPair(plan, lanes) && s + 2 <= end; s += 2) {
    const int tags[2] = {lanes.vectors, lanes.vectors - lanes.padded};
    const T* const step = from + (s - begin) * lanes.vectors * kWidth;
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      if (i >= lanes.vectors) continue;
      square[i] = Load(step + i * kWidth);
      square[kWidth / 2 + i] = Load(step + (lanes.vectors + i) * kWidth);
    }
    Transpose<T>(square);
#pragma GCC unroll 16
    for (int lane = 0; lane < kWidth; ++lane) {
      const int section = lane / (kWidth / 2);
      const int64_t left = lanes.counts[lane] - s;
      T* const row =
          emissions + section * lanes.vectors + (lanes.sequence[lane] * steps + s) * num_tags;
      if (left >= 2) {
        StorePair(row, row + num_tags, square[lane], tags[section]);
      } else if (left == 1) {
        StoreFirst(row, square[lane], tags[section]);
      }
    }
  }
#endif
  for (; s < end; ++s) {
    const T* const step = from + (s - begin) * lanes.vectors * kWidth;
    for (int j = 0; j < lanes.vectors; j += kWidth) {
      const int here = lanes.vectors - j < kWidth ? lanes.vectors - j : kWidth;
      const int less = lanes.padded && j + here == lanes.vectors;
      for (int i = 0; i < here; ++i) square[i] = Load(step + (j + i) * kWidth);
      Transpose<T>(square);
      for (int lane = 0; lane < kWidth; ++lane) {
        const int tags = here - (lanes.second_section[lane] ? less : 0);
        if (s >= lanes.counts[lane] || tags == 0) continue;
        const int64_t b = lanes.sequence[lane];
        T* row = emissions + (b * steps + crf::StepAt(plan, b, s)) * num_tags;
        StoreFirst(row + j + (lanes.second_section[lane] ? lanes.vectors : 0), square[lane], tags);
      }
    }
  }
}

// Rows of the workspace of lanes that do not fill the vectors: (num_tags, count) for each step.
template <typename T>
FASTKERAS_INLINE void StoreNarrow(const Lanes<T>& lanes, const T* vectors, T* row) {
  const int64_t count = lanes.count;
  for (int v = 0; v < lanes.vectors; ++v) {
    const Vec<T> both = Load(vectors + v * lanes.kWidth);
    StoreFirst(row + v * count, both, lanes.count);
    if (lanes.sections == 2 && v + lanes.vectors < lanes.num_tags) {
      StoreFirst(row + (v + lanes.vectors) * count, SwappedHalves(both), lanes.count);
    }
  }
}
// One number for each sequence, in the lanes of all its sections.
template <typename T>
FASTKERAS_INLINE Vec<T> LoadOfLanes(const Lanes<T>& lanes, const T* from) {
  const Vec<T> once = LoadFirst(from, lanes.count);
  return lanes.sections == 1 ? once : once + SwappedHalves(once);
}
template <typename T>
FASTKERAS_INLINE void LoadNarrow(const Lanes<T>& lanes, const T* row, T* vectors) {
  const int64_t count = lanes.count;
  for (int v = 0; v < lanes.vectors; ++v) {
    Vec<T> both = LoadFirst(row + v * count, lanes.count);
    if (lanes.sections == 2 && v + lanes.vectors < lanes.num_tags) {
      both += SwappedHalves(LoadFirst(row + (v + lanes.vectors) * count, lanes.count));
    }
    Store(vectors + v * lanes.kWidth, both);
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_H_
