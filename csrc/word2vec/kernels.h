// What training asks of an instruction set: one pass over a slice, in order, on one thread.

#ifndef FASTKERAS_WORD2VEC_KERNELS_H_
#define FASTKERAS_WORD2VEC_KERNELS_H_

#include <cstdint>
#include <cstring>

#include "word2vec/word2vec.h"

namespace fastkeras::word2vec {

// Copies of the rows of a matrix that one block touches, so that blocks do not see each other's
// changes.
struct Overlay {
  const float* origin;
  float* copies;
  int32_t* rows;   // the row of each copy
  int32_t* slots;  // the copy of each row, or -1
  int64_t stride;
  int32_t count;
};

// Where a pass finds its rows: the matrices themselves, or overlays of them.
struct Place {
  float* input;
  float* output;
  float* documents;
  Overlay* input_overlay;  // all null for the matrices themselves
  Overlay* output_overlay;
  Overlay* document_overlay;
};

template <typename T>
struct Kernels {
  void (*train)(const Problem& problem, const Place& place, int64_t begin, int64_t end,
                Tally* tally);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_KERNELS_H_
