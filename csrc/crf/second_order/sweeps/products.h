// The products of a second-order chain's step: for each middle tag, those before it times its
// triples, or those after it; and the sums of the triples' probabilities.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_

#include "crf/second_order/triples.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/products.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

constexpr int kTripleTile = 8;  // sums that are kept in registers

// to[targets[n]] = the sum over sources of from[source] times its entry.
template <typename Semiring, bool kSpread, typename T>
FASTKERAS_INLINE void BlockProduct(const int32_t* sources, int num_sources, const int32_t* targets,
                                   int num_targets, const T* entries, const T* from, T* to) {
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
    for (int n = 0; n < kTile; ++n) Store(to + targets[first + n], sums[n]);
  });
}

// The pairs of the next step, by columns, from those of one, by rows.
template <typename Semiring, typename T>
void TriplesForward(const crf::TriplePlan<T>& triples, const T* from, T* to) {
  for (int v = 0; v < triples.vectors; ++v) {
    const auto& [before, after, num_before, num_after, forward, backward, counts] =
        triples.blocks[v];
    if (triples.sections == 1) {
      BlockProduct<Semiring, true>(before, num_before, after, num_after, forward, from, to);
    } else {
      BlockProduct<Semiring, false>(before, num_before, after, num_after, forward, from, to);
    }
  }
}

// The opposite, from pairs by columns to those of the step before, by rows.
template <typename T>
void TriplesBackward(const crf::TriplePlan<T>& triples, const T* from, T* to) {
  for (int v = 0; v < triples.vectors; ++v) {
    const auto& [before, after, num_before, num_after, forward, backward, counts] =
        triples.blocks[v];
    if (triples.sections == 1) {
      BlockProduct<SumProduct, true>(after, num_after, before, num_before, backward, from, to);
    } else {
      BlockProduct<SumProduct, false>(after, num_after, before, num_before, backward, from, to);
    }
  }
}

// sums += alpha (by rows) of each of the steps, times r (by columns) of the next, for all triples.
template <typename T>
void SumTriples(const crf::TriplePlan<T>& triples, int64_t steps, const T* alpha, const T* r,
                T* sums) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t area = crf::AreaOf(triples, kWidth);
  for (int v = 0; v < triples.vectors; ++v) {
    const crf::TripleBlock<T>& block = triples.blocks[v];
    T* const of_block = sums + block.counts * kWidth;
    InTiles<3>(block.num_before, [&](int i, auto height) FASTKERAS_LAMBDA_INLINE {
      InTiles<4>(block.num_after, [&](int k, auto breadth) FASTKERAS_LAMBDA_INLINE {
        constexpr int kHeight = decltype(height)::value, kBreadth = decltype(breadth)::value;
        const auto place = [&](int m, int n) FASTKERAS_LAMBDA_INLINE {
          return of_block + (int64_t{i + m} * block.num_after + k + n) * kWidth;
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
          for (int n = 0; n < kBreadth; ++n) right[n] = Load(r + s * area + block.after[k + n]);
#pragma GCC unroll 4
          for (int m = 0; m < kHeight; ++m) {
            const Vec<T> left = Load(alpha + s * area + block.before[i + m]);
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
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
