// What the kernels of second-order chains get: how the pairs of tags lie in vectors, and the
// triples in the order in which they are read.
//
// A vector has `lanes` sequences, each in `sections` neighbouring lanes: lane s of them in vector v
// is of the tag s * vectors + v, so that few sequences fill the vectors too. A matrix over pairs of
// tags comes in two orders: by rows, (rows, vectors), where the second tag is in a section, and by
// columns, (vectors, rows), where the first is. A step multiplies a matrix by rows with the
// triples, and gets the next one by columns: transposing the sections' squares makes it one by
// rows.

#ifndef FASTKERAS_CRF_SECOND_ORDER_TRIPLES_H_
#define FASTKERAS_CRF_SECOND_ORDER_TRIPLES_H_

#include <cstdint>

#include "crf/kernels.h"

namespace fastkeras::crf {

constexpr int kTripleChunk = 8;  // steps between the pairs that are kept for the way back

// Sums that are kept in registers. There are fewer where entries take registers too.
constexpr int TripleTile(int sections) { return sections == 1 ? 12 : 8; }

// The triples around the middle tags of one vector: all that may stand before them meet all that
// may stand after them. Offsets are those of whole vectors in the matrices over pairs.
template <typename T>
struct TripleBlock {
  const int32_t *before, *after;
  int32_t num_before, num_after;
  const T* forward;   // by tiles of tags after: (before, tile), an entry for each section
  const T* backward;  // by tiles of tags before: (after, tile)
  int64_t counts;     // where the sums of its triples begin (TripleOutputs)
};

// Vectors for so many tags.
inline __attribute__((always_inline)) int64_t TilesOf(int64_t tags, int64_t width) {
  return (tags + width - 1) / width;
}

template <typename T>
struct TriplePlan {
  const Plan<T>* plan;
  int num_tags, sections, lanes, vectors, rows;  // rows: the tags in whole sections
  const int64_t* order;                          // the sequences of at least two valid steps
  const TripleBlock<T>* blocks;                  // (vectors)
  const T* first;                                // by rows: of the first two tags
  const int32_t* reached;  // the rows in which some triple leads to a pair of a vector, by vector:
  const int32_t* reached_from;  // (vectors + 1) where those of each begin
  const T* scores;  // all of them, (num_tags, num_tags, num_tags): exponentials, or as they are
  double first_peak, peak;  // what was subtracted from the scores

  // Where underflow may cost accuracy; else null.
  const T* first_floors;  // by rows: pairs below these have lost digits
  const T* floors;
  T forbidden_gap;

  T* workspace;
  uint8_t* inexact;  // (batch)
};

template <typename T>
inline __attribute__((always_inline)) int64_t AreaOf(const TriplePlan<T>& triples, int width) {
  return int64_t{triples.rows} * triples.vectors * width;
}

// What is kept of a sequence: the pairs at the steps 1, 1 + kTripleChunk, ..., the scale of each
// step, and the sum of the last pairs.
struct KeptTriples {
  int64_t pairs, scales, total, size;  // where each begins

  inline __attribute__((always_inline)) KeptTriples(int64_t steps, int64_t num_tags)
      : pairs(0),
        scales(steps > 2 ? (steps - 3 + kTripleChunk) / kTripleChunk * num_tags * num_tags : 0),
        total(scales + steps),
        size(total + 1) {}
};

template <typename T>
struct TripleOutputs {
  const T* factors;  // (batch) of the marginals in the gradient; 0 leaves a sequence out
  T* emissions;      // (batch, steps, num_tags), of which valid steps are written
  T* pairs;          // (batch, num_tags, num_tags): p of the first pair, or the sums over all steps
  // Null: all pairs are summed. Or the sums over all sequences of a block's triples, block after
  // block, (sections, before, tiles of tags after); `shares` (batch) are the factors over the
  // largest of them.
  const T* shares;
  T* triples;
};

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_SECOND_ORDER_TRIPLES_H_
