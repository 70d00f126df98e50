// The products of a second-order chain's step: for each middle tag, those before it times its
// triples, or those after it; and the sums of the triples' probabilities.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_

#include "crf/second_order/sweeps/sections.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/products.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kTripleTile = 8;  // sums that are kept in registers

// out(targets[n], the sum over sources of from[source] times its entry).
template <typename Semiring, bool kSpread, typename T, typename Out>
FASTKERAS_INLINE void BlockProduct(const int32_t* sources, int num_sources, const int32_t* targets,
                                   int num_targets, const T* entries, const T* from,
                                   const Out& out) {
  constexpr int kEntry = kSpread ? 1 : Simd<T>::kWidth;
  InTiles<kTripleTile>(num_targets, [&](int first, auto tile) FASTKERAS_LAMBDA_INLINE {
    constexpr int kTile = decltype(tile)::value;
    Vec<T> sums[kTile];
#pragma GCC unroll 8
    for (int n = 0; n < kTile; ++n) sums[n] = Semiring::template Zero<Vec<T>>();
    const T* entry = entries + int64_t{first} * num_sources * kEntry;
    for (int source = 0; source < num_sources; ++source, entry += kTile * kEntry) {
      const Vec<T> pair = Load(from + sources[source]);
#pragma GCC unroll 8
      for (int n = 0; n < kTile; ++n) {
        if constexpr (kSpread) {
          sums[n] = Semiring::Add(sums[n], pair, Broadcast(entry[n]));
        } else {
          sums[n] = Semiring::Add(sums[n], pair, Load(entry + n * kEntry));
        }
      }
    }
#pragma GCC unroll 8
    for (int n = 0; n < kTile; ++n) out(targets[first + n], sums[n]);
  });
}

// The pairs of the next step, by columns, from those of one, by rows: finish(sum, k) for each tag k
// that something leads to. Others are not written.
template <typename Semiring, typename T, typename Finish>
FASTKERAS_INLINE void TriplesForward(const crf::TriplePlan<T>& triples, const T* from, T* to,
                                     const Finish& finish) {
  for (int v = 0; v < triples.vectors; ++v) {
    const auto& [before, after, num_before, num_after, forward, backward, counts] =
        triples.blocks[v];
    const int64_t first = int64_t{v} * triples.rows * Simd<T>::kWidth;
    const auto out = [&](int64_t target, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
      Store(to + target, finish(sum, target - first));
    };
    if (triples.sections == 1) {
      BlockProduct<Semiring, true>(before, num_before, after, num_after, forward, from, out);
    } else {
      BlockProduct<Semiring, false>(before, num_before, after, num_after, forward, from, out);
    }
  }
}

// The opposite, from pairs by columns to those of the step before, by rows.
template <typename T>
void TriplesBackward(const crf::TriplePlan<T>& triples, const T* from, T* to) {
  const auto out = [&](int64_t target, Vec<T> sum)
                       FASTKERAS_LAMBDA_INLINE { Store(to + target, sum); };
  for (int v = 0; v < triples.vectors; ++v) {
    const auto& [before, after, num_before, num_after, forward, backward, counts] =
        triples.blocks[v];
    if (triples.sections == 1) {
      BlockProduct<SumProduct, true>(after, num_after, before, num_before, backward, from, out);
    } else {
      BlockProduct<SumProduct, false>(after, num_after, before, num_before, backward, from, out);
    }
  }
}

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

// Few tags: the sums of each lane, (blocks: before, after), fit in a cache, and take less time than
// transpositions.
constexpr int kMostTagsForLanes = 12;

// of_lanes += alpha (by rows) of each of the steps, times r (by columns) of the next, for all
// triples.
template <typename T>
void SumTriplesOfLanes(const TripleGroup<T>& group, int64_t steps, const T* alpha, const T* r,
                       T* of_lanes) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int v = 0; v < group.vectors; ++v) {
    const crf::TripleBlock<T>& block = group.triples.blocks[v];
    InTiles<3>(block.num_before, [&](int i, auto height) FASTKERAS_LAMBDA_INLINE {
      InTiles<4>(block.num_after, [&](int k, auto breadth) FASTKERAS_LAMBDA_INLINE {
        constexpr int kHeight = decltype(height)::value, kBreadth = decltype(breadth)::value;
        const auto place = [&](int m, int n) FASTKERAS_LAMBDA_INLINE {
          return of_lanes + (int64_t{i + m} * block.num_after + k + n) * kWidth;
        };
        Vec<T> sum[kHeight][kBreadth];
#pragma GCC unroll 4
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 4
          for (int n = 0; n < kBreadth; ++n) sum[m][n] = Load(place(m, n));
        }
        for (int64_t s = 0; s < steps; ++s) {
          Vec<T> right[kBreadth];
#pragma GCC unroll 4
          for (int n = 0; n < kBreadth; ++n) {
            right[n] = Load(r + s * group.area + block.after[k + n]);
          }
#pragma GCC unroll 4
          for (int m = 0; m < kHeight; ++m) {
            const Vec<T> left = Load(alpha + s * group.area + block.before[i + m]);
#pragma GCC unroll 4
            for (int n = 0; n < kBreadth; ++n) sum[m][n] += left * right[n];
          }
        }
#pragma GCC unroll 4
        for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 4
          for (int n = 0; n < kBreadth; ++n) Store(place(m, n), sum[m][n]);
        }
      });
    });
    of_lanes += int64_t{block.num_before} * block.num_after * kWidth;
  }
}

// out.triples += the share of each sequence times its sums.
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
    const int64_t row = crf::TilesOf(block.num_after, kWidth) * kWidth;
    for (int m = 0; m < block.num_before; ++m) {
      for (int64_t tile = 0; tile < row; tile += kWidth) {
        Vec<T> square[kWidth];
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          square[i] = tile + i < block.num_after ? Load(of_lanes + i * kWidth) * share : Vec<T>{};
        }
        Transpose<T>(square);
        T* to = out.triples + block.counts + m * row + tile;
        for (int section = 0; section < group.sections; ++section, to += block.num_before * row) {
          Vec<T> sum = Load(to);
          for (int place = 0; place < group.count; ++place) {
            if (shares[place] != 0) sum += square[section * group.lanes + place];
          }
          Store(to, sum);
        }
        const int64_t left = block.num_after - tile;
        of_lanes += (left < kWidth ? left : kWidth) * kWidth;
      }
    }
  }
}

// out.triples += the share of each sequence times alpha (by rows) of each of the steps, times r (by
// columns) of the next, for all triples. A vector of these sums has tags after, not sequences: so
// r is transposed, into `transposed` (steps, tiles of tags, lanes, tags of a tile).
template <typename T>
void SumTriples(const TripleGroup<T>& group, const crf::TripleOutputs<T>& out, int64_t steps,
                const T* alpha, const T* r, T* transposed) {
  constexpr int kWidth = Simd<T>::kWidth, kMost = crf::kTripleChunk * kWidth;
  T shares[kWidth];
  int places[kWidth], used = 0;  // of the others, scores may be no numbers
  for (int place = 0; place < group.count; ++place) {
    shares[place] = out.shares[group.sequence[place]];
    if (shares[place] != 0) places[used++] = place;
  }
  if (used == 0) return;
  const Vec<T> share = group.OfPlaces(shares);
  int64_t lefts[kMost], rights[kMost], tiles_before = 0;
  int number = 0;
  for (int64_t s = 0; s < steps; ++s) {
    for (int n = 0; n < used; ++n) lefts[number++] = s * group.area + places[n];
  }
  for (int v = 0; v < group.vectors; ++v) {
    const crf::TripleBlock<T>& block = group.triples.blocks[v];
    const int64_t tiles = crf::TilesOf(block.num_after, kWidth);
    for (int64_t s = 0; s < steps; ++s) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int32_t* const after = block.after + tile * kWidth;
        const int64_t left = block.num_after - tile * kWidth;
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
      for (int n = 0; n < used; ++n) rights[number++] = (s * tiles * kWidth + places[n]) * kWidth;
    }
    tiles_before = tiles;
    number = static_cast<int>(steps) * used;
    T* sums = out.triples + block.counts;
    const int64_t next_row = tiles * kWidth;
    for (int section = 0; section * group.vectors + v < group.num_tags; ++section) {
      const int64_t lane = int64_t{section} * group.lanes;
      const auto columns = [&](int64_t tile, auto most, auto breadth) FASTKERAS_LAMBDA_INLINE {
        const T* const right = transposed + (tile * kWidth + lane) * kWidth;
        InTiles<decltype(most)::value>(
            block.num_before, [&](int m, auto height) FASTKERAS_LAMBDA_INLINE {
              SumOfProducts<decltype(height)::value, decltype(breadth)::value>(
                  alpha + lane, block.before + m, right, lefts, rights, number, kWidth * kWidth,
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

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
