// The check of the arguments of decoding (argument_checks.h).

#ifndef FASTKERAS_SEQ2SEQ_ARGUMENTS_H_
#define FASTKERAS_SEQ2SEQ_ARGUMENTS_H_

#include <cstdint>

#include "doors/argument_checks.h"
#include "seq2seq/seq2seq.h"

namespace fastkeras::seq2seq {

// Checks the tokens of the history too. It and `allowed` may be null.
template <typename T>
Step<T> CheckedStep(const Argument<T>& logits, const Argument<T>& scores,
                    const Argument<int32_t>* history, const Argument<bool>* allowed,
                    double repetition_penalty, int64_t no_repeat_ngram);

int64_t CheckedBatch(const Shape& logits);
int64_t CheckedNumCandidates(int64_t num_candidates);

}  // namespace fastkeras::seq2seq

#endif  // FASTKERAS_SEQ2SEQ_ARGUMENTS_H_
