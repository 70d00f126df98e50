// The check of the arguments of decoding, for calls from Python, TensorFlow and XLA alike, as for
// the CRF (crf/arguments.h): whatever does not fit raises std::invalid_argument.

#ifndef FASTKERAS_SEQ2SEQ_ARGUMENTS_H_
#define FASTKERAS_SEQ2SEQ_ARGUMENTS_H_

#include <cstdint>

#include "crf/arguments.h"
#include "seq2seq/seq2seq.h"

namespace fastkeras::seq2seq {

using crf::Argument;
using crf::Shape;

// Checks the tokens of the history too. It and `allowed` may be null.
template <typename T>
Step<T> CheckedStep(const Argument<T>& logits, const Argument<T>& scores,
                    const Argument<int32_t>* history, const Argument<bool>* allowed,
                    double repetition_penalty, int64_t no_repeat_ngram);

int64_t CheckedBatch(const Shape& logits);
int64_t CheckedNumCandidates(int64_t num_candidates);

}  // namespace fastkeras::seq2seq

#endif  // FASTKERAS_SEQ2SEQ_ARGUMENTS_H_
