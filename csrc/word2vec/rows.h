// Finds rows: in a matrix or in copies, one by one or as the bag of a word. Compiled once for each
// instruction set.

#ifndef FASTKERAS_WORD2VEC_ROWS_H_
#define FASTKERAS_WORD2VEC_ROWS_H_

#include "machine/memory.h"
#include "word2vec/kernels.h"
// After the standard headers:
#include "word2vec/products.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

using word2vec::Overlay;

FASTKERAS_INLINE void Fetch(const float* row, int64_t stride) {
  for (int64_t s = 0; s < stride; s += 16) __builtin_prefetch(row + s, 0, 2);
}

// The copy of a row, made if there is none yet.
FASTKERAS_INLINE int32_t CopyOf(int32_t row, Overlay* overlay) {
  int32_t& slot = overlay->slots[row];
  if (slot < 0) {
    slot = overlay->count++;
    overlay->rows[slot] = row;
    std::memcpy(overlay->copies + slot * overlay->stride, overlay->origin + row * overlay->stride,
                static_cast<size_t>(overlay->stride) * sizeof(float));
  }
  return slot;
}

FASTKERAS_INLINE void ReplaceByCopies(int32_t* rows, int count, Overlay* overlay) {
  for (int i = 0; i < count; ++i) rows[i] = CopyOf(rows[i], overlay);
}

// The bags of a window's inputs, their means, and room for the changes of these. With subwords, a
// word's vector is the mean of a bag of rows: its own and those of its n-grams.
struct Bags {
  const word2vec::Problem& problem;
  const word2vec::Place place;
  const int64_t stride;
  Buffer<float> memory;
  Buffer<float*> pointers;
  Buffer<int> sizes;
  float **means, **zeros, **rows;

  Bags(const word2vec::Problem& of, const word2vec::Place& at, int max_inputs)
      : problem(of),
        place(at),
        stride(of.model.stride),
        memory((max_inputs + 1) * stride),
        pointers(max_inputs * (2 + of.tables.longest_bag)),
        sizes(max_inputs) {
    means = pointers.data;
    zeros = means + max_inputs;
    rows = zeros + max_inputs;
    float* const zero = memory.data + max_inputs * stride;
    std::memset(zero, 0, static_cast<size_t>(stride) * sizeof(float));
    for (int i = 0; i < max_inputs; ++i) {
      means[i] = memory.data + i * stride;
      zeros[i] = zero;
    }
  }

  FASTKERAS_INLINE bool Exist() const { return problem.tables.bag_starts != nullptr; }

  FASTKERAS_INLINE void FetchRows(int32_t word) const {
    const word2vec::Tables& tables = problem.tables;
    for (int64_t k = tables.bag_starts[word]; k < tables.bag_starts[word + 1]; ++k) {
      Fetch(place.input + tables.bag_rows[k] * stride, stride);
    }
  }

  // Finds the rows of input number i, a word, and their mean.
  FASTKERAS_INLINE void Gather(int i, int32_t word) {
    const word2vec::Tables& tables = problem.tables;
    const int32_t* const bag = tables.bag_rows + tables.bag_starts[word];
    const int size = static_cast<int>(tables.bag_starts[word + 1] - tables.bag_starts[word]);
    float** const to = rows + i * tables.longest_bag;
    for (int k = 0; k < size; ++k) {
      const int64_t row = place.input_overlay ? CopyOf(bag[k], place.input_overlay) : bag[k];
      to[k] = place.input + row * stride;
    }
    sizes.data[i] = size;
    Mean(to, size, stride, 1.0f / static_cast<float>(size), means[i]);
  }

  // Adds to each row of a bag the change of its mean times a factor, or its share of that.
  FASTKERAS_INLINE void Scatter(int i, const float* change, float factor) const {
    const int size = sizes.data[i];
    if (problem.settings.exact_subwords) factor /= static_cast<float>(size);
    AddToEach(change, factor, stride, rows + i * problem.tables.longest_bag, size);
  }
};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_WORD2VEC_ROWS_H_
