// Word2Vec's training pass over a slice of an encoded corpus, which updates the matrices in place.
// docs/word2vec.md derives the gradients; the engine `reference` is the same in plain Python.

#ifndef FASTKERAS_WORD2VEC_WORD2VEC_H_
#define FASTKERAS_WORD2VEC_WORD2VEC_H_

#include <cstdint>

namespace fastkeras::word2vec {

enum class Objective { kSkipGram, kCbow };
enum class Loss { kNegativeSampling, kHierarchicalSoftmax, kSampledSoftmax, kBoth };

// kBoth is the sum of the first two: rows of words come first in the output matrix, then those of
// inner nodes.
inline bool HasTree(Loss loss) { return loss == Loss::kHierarchicalSoftmax || loss == Loss::kBoth; }
inline bool HasNoise(Loss loss) { return loss != Loss::kHierarchicalSoftmax; }

// What is drawn at a position depends on (key, position) only, not on the number of threads or on
// where slices are cut.
struct Settings {
  Objective objective;
  Loss loss;
  bool shared_negatives;  // one set for a window of skip-gram; gradients of the values before
  bool exact_cbow;        // a context row gets its share of the error, not all of it
  bool exact_subwords;    // and so does a row of a bag
  bool shrink_windows;
  int window;
  int negative;
  uint64_t key;                               // of seed and epoch
  double learning_rate, learning_rate_slope;  // at position 0, and what each position adds
  bool documents_alone = false;  // predict a word from its document, not from its neighbours
  bool frozen = false;           // update documents only
};

// Tables of the vocabulary, as fastkeras/word2vec/training/sampling.py makes them; null where the
// loss does not need one.
struct Tables {
  const uint32_t* keep;        // a word stays if 32 random bits are not above
  const uint32_t* noise;       // the alias method: threshold and alias of each word
  const float* logit_offsets;  // added to the logit of a word drawn
  const int64_t* path_starts;  // hierarchical softmax: where a word's path begins in ...
  const int32_t* path_nodes;   // ... the rows of inner nodes ...
  const float* path_signs;     // ... and the signs that their logits take in the loss
  const int64_t* bag_starts;   // subwords: where a word's bag begins in ...
  const int32_t* bag_rows;     // ... the rows of the input matrix whose mean is its vector
  int64_t num_words;
  int longest_path, longest_bag;
};

// Both matrices have rows of `stride` floats, a multiple of 16 whose last ones are zeros.
struct Model {
  float* input;
  float* output;
  int64_t stride, input_rows, output_rows;
  float* documents = nullptr;  // a vector for each, an input like those of words
  int64_t document_rows = 0;
};

struct Corpus {
  const int32_t* ids;  // words, each sentence ended by -1
  int64_t size;
  const int32_t* documents = nullptr;  // the row of each position's document
};

struct Problem {
  Settings settings;
  Tables tables;
  Model model;
  Corpus corpus;
  int reach;  // set by `Train`: no window of the slice has more words to one side

  bool HasDocuments() const { return corpus.documents != nullptr; }
  int64_t MaxInputs() const { return 2 * int64_t{reach} + HasDocuments(); }

  // Outputs of so many sets of one window.
  int64_t MaxOutputs(int64_t sets = 1) const {
    return (HasNoise(settings.loss) ? 1 + sets * settings.negative : 0) +
           (HasTree(settings.loss) ? tables.longest_path : 0);
  }
};

struct Tally {
  double loss = 0;
  int64_t predictions = 0, words = 0;  // `words` were kept
};

// Learning rates change and slices should be cut at multiples of these, counted in positions.
constexpr int64_t kChunk = 1024;
constexpr int64_t kDeterministicBlock = 64;
constexpr int64_t kBlocksInRound = 8;

// How far the windows of a slice reach: `settings.window`, or less if its sentences are shorter.
// Memory is sized by it, so that `window` may be any int.
int Reach(const Problem& problem, int64_t begin, int64_t end);

// Trains the positions begin..end-1, whose ids have been checked. Contexts may lie outside, where
// an id that is no word counts as the end of a sentence. Threads update rows without locks unless
// `deterministic`: then the blocks of a round all start from the same values, their changes are
// added in order, and the result is the same, bit for bit, for any number of threads.
Tally Train(const Problem& problem, int64_t begin, int64_t end, int num_threads,
            bool deterministic);

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_WORD2VEC_H_
