// The sums of the triples' probabilities over steps and sequences.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SUMS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SUMS_H_

#include "crf/second_order/sweeps/sections.h"
#include "crf/sweeps/lanes.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The sums of `rows` times `columns` products, over sequences and steps: left[before[m] + lefts[n]]
// times the vectors right[rights[n] ...], added to `sums`, (rows, vectors of tags after).
template <int kRows, int kColumns, typename T>
FASTKERAS_INLINE void SumOfProducts(const T* left, const int32_t* before, const T* right,
                                    const int64_t* lefts, const int64_t* rights, int number,
                                    int64_t next_column, int64_t next_row, T* sums) {
  constexpr int kWidth = Simd<T>::kWidth;
#if defined(FASTKERAS_AVX512)
  constexpr int kBanks = kColumns == 1 ? 2 : 1;  // so that enough sums are on their way
#else
  constexpr int kBanks = 1;
#endif
  Vec<T> sum[kBanks][kRows][kColumns];
#pragma GCC unroll 2
  for (int bank = 0; bank < kBanks; ++bank) {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
      for (int c = 0; c < kColumns; ++c) sum[bank][m][c] = Vec<T>{};
    }
  }
  const auto add = [&](int n, int bank) FASTKERAS_LAMBDA_INLINE {
    const T *const of_left = left + lefts[n], *const of_right = right + rights[n];
    Vec<T> columns[kColumns];
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) columns[c] = Load(of_right + c * next_column);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const Vec<T> element = Broadcast(of_left[before[m]]);
#pragma GCC unroll 2
      for (int c = 0; c < kColumns; ++c) sum[bank][m][c] += element * columns[c];
    }
  };
  int n = 0;
  for (; n + kBanks <= number; n += kBanks) {
#pragma GCC unroll 2
    for (int bank = 0; bank < kBanks; ++bank) add(n + bank, bank);
  }
  for (; n < number; ++n) add(n, 0);
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int c = 0; c < kColumns; ++c) {
      T* const to = sums + m * next_row + c * kWidth;
      Vec<T> total = sum[0][m][c];
      if constexpr (kBanks == 2) total += sum[kBanks - 1][m][c];
      Store(to, Load(to) + total);
    }
  }
}

// How many of a block's tags after have their triples summed in tiles, vectors of such tags, which
// takes transpositions, and pays off where the tags fill them. A vector for each of the others'
// triples has the sums of all lanes, which fit in a cache where there are few.
constexpr int kMostTagsForLanes = 12;

template <typename T>
FASTKERAS_INLINE int TagsInTiles(const crf::TripleBlock<T>& block) {
  const int others = block.num_after % Simd<T>::kWidth;
  if (block.num_after <= kMostTagsForLanes) return 0;
  return others <= 4 ? block.num_after - others : block.num_after;
}

// The vectors that the sums in lanes take.
template <typename T>
int64_t TriplesInLanes(const crf::TriplePlan<T>& triples) {
  int64_t number = 0;
  for (int v = 0; v < triples.vectors; ++v) {
    const crf::TripleBlock<T>& block = triples.blocks[v];
    number += int64_t{block.num_before} * (block.num_after - TagsInTiles(block));
  }
  return number;
}

// Tags before and after whose triples are summed in registers at once: each loaded vector is then
// multiplied as often as possible.
#if defined(FASTKERAS_AVX512)
constexpr int kMostLaneSums = 5;
#else
constexpr int kMostLaneSums = 3;
#endif

// of_lanes += alpha (by rows) of each of the steps, times r (by columns) of the next, for the
// triples that are summed in lanes, (blocks: before, after).
template <typename T>
void SumTriplesOfLanes(const TripleGroup<T>& group, int64_t steps, const T* alpha, const T* r,
                       T* of_lanes) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int v = 0; v < group.vectors; ++v) {
    const crf::TripleBlock<T>& block = group.triples.blocks[v];
    const int tiled = TagsInTiles(block), others = block.num_after - tiled;
    InTiles<kMostLaneSums>(others, [&](int k, auto breadth) FASTKERAS_LAMBDA_INLINE {
      constexpr int kBreadth = decltype(breadth)::value;
      constexpr int kMost = kBreadth == 1 ? 8 : kMostLaneSums;
      InTiles<kMost>(block.num_before, [&](int i, auto height) FASTKERAS_LAMBDA_INLINE {
        constexpr int kHeight = decltype(height)::value;
        const auto place = [&](int m, int n) FASTKERAS_LAMBDA_INLINE {
          return of_lanes + (int64_t{i + m} * others + k + n) * kWidth;
        };
        Vec<T> sum[kHeight][kBreadth];
#pragma GCC unroll 8
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 8
          for (int n = 0; n < kBreadth; ++n) sum[m][n] = Load(place(m, n));
        }
        for (int64_t s = 0; s < steps; ++s) {
          Vec<T> right[kBreadth];
#pragma GCC unroll 8
          for (int n = 0; n < kBreadth; ++n) {
            right[n] = Load(r + s * group.area + block.after[tiled + k + n]);
            KeepInRegister(right[n]);
          }
#pragma GCC unroll 8
          for (int m = 0; m < kHeight; ++m) {
            Vec<T> left = Load(alpha + s * group.area + block.before[i + m]);
            KeepInRegister(left);
#pragma GCC unroll 8
            for (int n = 0; n < kBreadth; ++n) sum[m][n] += left * right[n];
          }
        }
#pragma GCC unroll 8
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 8
          for (int n = 0; n < kBreadth; ++n) Store(place(m, n), sum[m][n]);
        }
      });
    });
    of_lanes += int64_t{block.num_before} * others * kWidth;
  }
}

// out.triples += the share of each sequence times its sums in lanes.
template <typename T>
void AddLanes(const TripleGroup<T>& group, const crf::TripleOutputs<T>& out, const T* of_lanes) {
  constexpr int kWidth = Simd<T>::kWidth;
  T shares[kWidth];
  for (int place = 0; place < group.count; ++place) {
    shares[place] = out.shares[group.sequence[place]];
  }
  const Vec<T> share = group.OfPlaces(shares);
  for (int v = 0; v < group.vectors; ++v) {
    const crf::TripleBlock<T>& block = group.triples.blocks[v];
    const int tiled = TagsInTiles(block), others = block.num_after - tiled;
    const int64_t number = int64_t{block.num_before} * others;
    const int64_t row = crf::TilesOf(block.num_after, kWidth) * kWidth;
    int64_t to = block.counts + tiled;
    int n = 0;  // of the others
    for (int64_t first = 0; first < number; first += kWidth) {
      Vec<T> square[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        square[i] = first + i < number ? Load(of_lanes + (first + i) * kWidth) * share : Vec<T>{};
      }
      Transpose<T>(square);
      T sums[kWidth][kWidth];
      for (int section = 0; section < group.sections; ++section) {
        Vec<T> sum = {};
        for (int place = 0; place < group.count; ++place) {
          if (shares[place] != 0) sum += square[group.LaneOf(place) + section];
        }
        Store(sums[section], sum);
      }
      for (int i = 0; i < kWidth && first + i < number; ++i) {
        for (int section = 0; section < group.sections; ++section) {
          out.triples[to + n + section * block.num_before * row] += sums[section][i];
        }
        if (++n < others) continue;
        n = 0;
        to += row;
      }
    }
    of_lanes += number * kWidth;
  }
}

// out.triples += the share of each sequence times alpha (by rows) of each of the steps, times r (by
// columns) of the next, for the triples in tiles. A vector of these sums has tags after, not
// sequences: so r is transposed, into `transposed` (steps, tiles of tags, lanes, tags of a tile).
template <typename T>
void SumTriplesInTiles(const TripleGroup<T>& group, const crf::TripleOutputs<T>& out, int64_t steps,
                       const T* alpha, const T* r, T* transposed) {
  constexpr int kWidth = Simd<T>::kWidth, kMost = crf::kTripleChunk * kWidth;
  T shares[kWidth];
  int lanes[kWidth], used = 0;  // of the others, scores may be no numbers
  for (int place = 0; place < group.count; ++place) {
    shares[place] = out.shares[group.sequence[place]];
    if (shares[place] != 0) lanes[used++] = group.LaneOf(place);
  }
  if (used == 0) return;
  const Vec<T> share = group.OfPlaces(shares);
  int64_t lefts[kMost], rights[kMost], tiles_before = 0;
  int number = 0;
  for (int64_t s = 0; s < steps; ++s) {
    for (int n = 0; n < used; ++n) lefts[number++] = s * group.area + lanes[n];
  }
  for (int v = 0; v < group.vectors; ++v) {
    const crf::TripleBlock<T>& block = group.triples.blocks[v];
    const int64_t tiled = TagsInTiles(block), tiles = crf::TilesOf(tiled, kWidth);
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int32_t* const after = block.after + tile * kWidth;
        const int64_t left = tiled - tile * kWidth;
        Vec<T> square[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          square[i] = i < left ? Load(r + s * group.area + after[i]) * share : Vec<T>{};
        }
        Transpose<T>(square);
        T* const to = transposed + (s * tiles + tile) * kWidth * kWidth;
#pragma GCC unroll 16
        for (int lane = 0; lane < kWidth; ++lane) Store(to + lane * kWidth, square[lane]);
      }
    }
    number = 0;
    for (int64_t s = 0; tiles != tiles_before && s < steps; ++s) {
      for (int n = 0; n < used; ++n) rights[number++] = (s * tiles * kWidth + lanes[n]) * kWidth;
    }
    tiles_before = tiles;
    number = static_cast<int>(steps) * used;
    T* sums = out.triples + block.counts;
    const int64_t next_row = crf::TilesOf(block.num_after, kWidth) * kWidth;
    for (int section = 0; section * group.vectors + v < group.num_tags; ++section) {
      const auto columns = [&](int64_t tile, auto most, auto breadth) FASTKERAS_LAMBDA_INLINE {
        const T* const right = transposed + (tile * kWidth + section) * kWidth;
        InTiles<decltype(most)::value>(
            block.num_before, [&](int m, auto height) FASTKERAS_LAMBDA_INLINE {
              SumOfProducts<decltype(height)::value, decltype(breadth)::value>(
                  alpha + section, block.before + m, right, lefts, rights, number, kWidth * kWidth,
                  next_row, sums + m * next_row + tile * kWidth);
            });
      };
      int64_t tile = 0;
      for (; tile + 2 <= tiles; tile += 2) {
        columns(tile, std::integral_constant<int, 6>(), std::integral_constant<int, 2>());
      }
      if (tile < tiles) {
        columns(tile, std::integral_constant<int, 8>(), std::integral_constant<int, 1>());
      }
      sums += block.num_before * next_row;
    }
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_SUMS_H_
