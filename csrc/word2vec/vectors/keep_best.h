// The highest of many scores, block after block: what a search keeps of a product of matrices.

#ifndef FASTKERAS_WORD2VEC_VECTORS_KEEP_BEST_H_
#define FASTKERAS_WORD2VEC_VECTORS_KEEP_BEST_H_

#include <algorithm>
#include <cstdint>

#include "machine/parallel.h"

namespace fastkeras::word2vec {

// Puts the products scores[i] * scales[i] that are among the highest into `best`, which descends,
// and their rows into `best_rows`. Of equal ones that of the lower row comes first, if blocks come
// in the order of their rows. NaN is left out.
template <typename T>
void KeepBest(const T* scores, const T* scales, int64_t columns, int64_t first_row, int64_t topn,
              T* best, int64_t* best_rows) {
  constexpr int64_t kBlock = 64;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, columns);
    const T floor = best[topn - 1];
    int above = 0;  // most blocks have none; compilers vectorize this loop
    for (int64_t i = begin; i < end; ++i) above |= scores[i] * scales[i] > floor;
    if (!above) continue;
    for (int64_t i = begin; i < end; ++i) {
      const T score = scores[i] * scales[i];
      if (!(score > best[topn - 1])) continue;
      int64_t place = topn - 1;
      for (; place > 0 && best[place - 1] < score; --place) {
        best[place] = best[place - 1];
        best_rows[place] = best_rows[place - 1];
      }
      best[place] = score;
      best_rows[place] = first_row + i;
    }
  }
}

// The same for each query: scores (queries, columns), best and best_rows (queries, topn).
template <typename T>
void KeepBest(const T* scores, const T* scales, int64_t queries, int64_t columns, int64_t first_row,
              int64_t topn, T* best, int64_t* best_rows) {
  constexpr double kWork = 0.3;  // nanoseconds for a score
  const double work = kWork * static_cast<double>(queries) * static_cast<double>(columns);
  ParallelFor(queries, ThreadsThatPay(work, 0), [&](int64_t query) {
    KeepBest(scores + query * columns, scales, columns, first_row, topn, best + query * topn,
             best_rows + query * topn);
  });
}

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_VECTORS_KEEP_BEST_H_
