// What the Keras layers compute for a batch, forward and backward: sums of the rows of words, and
// the loss over a word and words drawn. docs/word2vec.md derives the gradients.

#ifndef FASTKERAS_WORD2VEC_LAYERS_LAYERS_H_
#define FASTKERAS_WORD2VEC_LAYERS_LAYERS_H_

#include <cstdint>

namespace fastkeras::word2vec::layers {

// Sums of rows: out[i] = sum_c weights[i, c] rows[places[i, c]], without negative places.
template <typename T>
struct Pool {
  const T* rows;  // (num_rows, size)
  const int32_t* places;
  const T* weights;  // null: all are 1
  int64_t size, contexts;
  T* out;
};

// The gradient of such sums, gathered row by row, so that no two threads add to the same row:
// out[r] = sum_p factors[p] upstream[p / columns] over the p = order[starts[r]..starts[r + 1] - 1].
template <typename T>
struct Spread {
  const T* upstream;  // (examples, size)
  const T* factors;   // null: all are 1
  const int32_t* order;
  const int32_t* starts;
  int64_t size, columns;
  T* out;   // (rows, size)
  T* sums;  // of the factors, for each row
};

enum class Loss { kSampledSoftmax, kNegativeSampling };

// The loss of examples whose target is the first of `candidates` places. Words drawn that equal the
// target do not count.
template <typename T>
struct Examples {
  Loss loss;
  const T* hidden;  // (examples, size)
  const T* rows;    // (num_rows, size)
  const T* bias;    // of each row, or null
  const T* offset;  // added to the logit of a row that was drawn, or null
  const int32_t* places;
  int64_t size, candidates;
  T* losses;
  T* hits;      // 1 where the target's logit is the highest
  T* errors;    // (examples, candidates), of the loss by the logits
  T* d_hidden;  // (examples, size)
};

// Returns how many different ids there are, and writes to `counts` how often each occurs. Negative
// ids do not count.
int64_t Count(const int32_t* ids, int64_t size, int64_t num_ids, int32_t* counts);

// Writes to `rows` which ids there are, ascending; to `places` where in that list each of `ids`
// stands; and to `order`, row by row from starts[row] on, the positions of each, then a -1 for each
// negative id. Destroys the counts.
void Group(const int32_t* ids, int64_t size, int64_t num_ids, int32_t* counts, int32_t* rows,
           int32_t* places, int32_t* order, int32_t* starts);

// Run(spread) for the words of a batch, `examples` rows of `spread.columns` ids: sorts them, and
// writes a row for each of `num_words`, zeros if it does not occur. Negative ids do not count.
template <typename T>
void Scatter(const Spread<T>& spread, const int32_t* ids, int64_t examples, int64_t num_words,
             int num_threads);

template <typename T>
void Run(const Pool<T>& pool, int64_t examples, int num_threads);
template <typename T>
void Run(const Spread<T>& spread, int64_t rows, int num_threads);
template <typename T>
void Run(const Examples<T>& batch, int64_t examples, int num_threads);

// The same for a part, on one thread: what an instruction set provides.
template <typename T>
struct Kernels {
  void (*pool)(const Pool<T>& pool, int64_t begin, int64_t end);
  void (*spread)(const Spread<T>& spread, int64_t begin, int64_t end);
  void (*loss)(const Examples<T>& batch, int64_t begin, int64_t end, T* logits);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::word2vec::layers

#endif  // FASTKERAS_WORD2VEC_LAYERS_LAYERS_H_
