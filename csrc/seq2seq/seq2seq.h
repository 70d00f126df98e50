// A step of a beam search: the best continuations of each sentence's hypotheses. Standard headers
// only; docs/seq2seq.md has the formulas.
//
// Results do not depend on num_threads, bit for bit; num_threads <= 0 means all processors.

#ifndef FASTKERAS_SEQ2SEQ_SEQ2SEQ_H_
#define FASTKERAS_SEQ2SEQ_SEQ2SEQ_H_

#include <cstdint>

namespace fastkeras::seq2seq {

// Every array is contiguous, the last index fastest.
template <typename T>
struct Step {
  int64_t batch;
  int64_t beams;           // >= 1
  int64_t vocabulary;      // >= 1
  int64_t steps;           // of the history
  const T* logits;         // (batch, beams, vocabulary)
  const T* scores;         // (batch, beams)
  const int32_t* history;  // (batch, beams, steps), below vocabulary; null if not needed
  const bool* allowed;     // (batch or 1, beams or 1, vocabulary); null: all
  int64_t allowed_stride;  // from one sentence's to the next, 0 if they share them
  int64_t allowed_stride_of_beam;
  double repetition_penalty;
  int64_t no_repeat_ngram;
};

template <typename T>
struct Candidates {
  int64_t number;  // of each sentence, >= 1
  T* scores;       // (batch, number), as the next two
  int32_t* tokens;
  int32_t* parents;
};

template <typename T>
void Select(const Step<T>& step, const Candidates<T>& candidates, int num_threads);

struct Candidate {
  double score;
  int32_t parent, token;
};

constexpr int64_t kBlock = 64;         // logits whose largest are kept, one for each lane
constexpr int64_t kWidestVector = 64;  // bytes, of any instruction set

// Working memory of the kernel. `marks` has to be zeros, one for each token, and is left as zeros.
template <typename T>
struct Room {
  Candidate* best;  // min(number, beams * vocabulary)
  T* peaks;         // kWidestVector bytes for each block of logits
  uint8_t* marks;   // null without a history
};

// What an instruction set provides: the selection for one sentence.
template <typename T>
struct Kernels {
  void (*select)(const Step<T>& step, int64_t sentence, const Candidates<T>& candidates,
                 const Room<T>& room);
};

// Those of the instruction set that answers now (instruction_set.h).
template <typename T>
const Kernels<T>& CurrentKernels();

}  // namespace fastkeras::seq2seq

#endif  // FASTKERAS_SEQ2SEQ_SEQ2SEQ_H_
