// The products of a second-order chain's step: for each middle tag, those before it times its
// triples, or those after it.

#ifndef FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
#define FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_

#include "crf/second_order/sweeps/sections.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/products.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// out(targets[n], the sum over sources of from[source] times its entry).
template <typename Semiring, int kSections, typename T, typename Out>
FASTKERAS_INLINE void BlockProduct(const int32_t* sources, int num_sources, const int32_t* targets,
                                   int num_targets, const T* entries, const T* from,
                                   const Out& out) {
  InTiles<crf::TripleTile(kSections)>(
      num_targets, [&](int first, auto tile) FASTKERAS_LAMBDA_INLINE {
        constexpr int kTile = decltype(tile)::value;
        Vec<T> sums[kTile];
#pragma GCC unroll 16
        for (int n = 0; n < kTile; ++n) sums[n] = Semiring::template Zero<Vec<T>>();
        const T* entry = entries + int64_t{first} * num_sources * kSections;
        for (int source = 0; source < num_sources; ++source, entry += kTile * kSections) {
          const Vec<T> pair = Load(from + sources[source]);
#pragma GCC unroll 16
          for (int n = 0; n < kTile; ++n) {
            sums[n] = Semiring::Add(sums[n], pair, LoadRepeated<kSections>(entry + n * kSections));
          }
        }
#pragma GCC unroll 16
        for (int n = 0; n < kTile; ++n) out(targets[first + n], sums[n]);
      });
}

// The pairs of the next step, by columns, from those of one, by rows: finish(sum, k) for each tag k
// that something leads to. Others are not written.
template <typename Semiring, typename T, typename Finish>
FASTKERAS_INLINE void TriplesForward(const crf::TriplePlan<T>& triples, const T* from, T* to,
                                     const Finish& finish) {
  for (int v = 0; v < triples.vectors; ++v) {
    const crf::TripleBlock<T>& block = triples.blocks[v];
    const int64_t first = int64_t{v} * triples.rows * Simd<T>::kWidth;
    const auto out = [&](int64_t target, Vec<T> sum) FASTKERAS_LAMBDA_INLINE {
      Store(to + target, finish(sum, target - first));
    };
    WithSections<T>(triples.sections, [&](auto sections) FASTKERAS_LAMBDA_INLINE {
      BlockProduct<Semiring, decltype(sections)::value>(block.before, block.num_before, block.after,
                                                        block.num_after, block.forward, from, out);
    });
  }
}

// The opposite, from pairs by columns to those of the step before, by rows.
template <typename T>
void TriplesBackward(const crf::TriplePlan<T>& triples, const T* from, T* to) {
  const auto out = [&](int64_t target, Vec<T> sum)
                       FASTKERAS_LAMBDA_INLINE { Store(to + target, sum); };
  for (int v = 0; v < triples.vectors; ++v) {
    const crf::TripleBlock<T>& block = triples.blocks[v];
    WithSections<T>(triples.sections, [&](auto sections) FASTKERAS_LAMBDA_INLINE {
      BlockProduct<SumProduct, decltype(sections)::value>(
          block.after, block.num_after, block.before, block.num_before, block.backward, from, out);
    });
  }
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SECOND_ORDER_SWEEPS_PRODUCTS_H_
