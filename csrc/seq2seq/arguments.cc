#include "seq2seq/arguments.h"

#include <limits>

namespace fastkeras::seq2seq {
namespace {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

}  // namespace

int64_t CheckedBatch(const Shape& logits) {
  if (logits.size() != 3 || logits[1] < 1 || logits[2] < 1) {
    Refuse("logits must have shape (batch, beams >= 1, vocabulary >= 1), got ", Text(logits));
  }
  if (logits[1] > kMost / logits[2]) {
    Refuse("logits must have at most ", kMost, " tokens a sentence, got ", Text(logits));
  }
  return logits[0];
}

int64_t CheckedNumCandidates(int64_t num_candidates) {
  if (num_candidates < 1 || num_candidates > kMost) {
    Refuse("num_candidates must be in 1..", kMost, ", got ", num_candidates);
  }
  return num_candidates;
}

template <typename T>
Step<T> CheckedStep(const Argument<T>& logits, const Argument<T>& scores,
                    const Argument<int32_t>* history, const Argument<bool>* allowed,
                    double repetition_penalty, int64_t no_repeat_ngram) {
  const int64_t batch = CheckedBatch(logits.shape);
  const int64_t beams = logits.shape[1], vocabulary = logits.shape[2];
  ExpectShape("scores", scores.shape, {batch, beams});
  int64_t steps = 0;
  if (history) {
    steps = history->shape.size() == 3 ? history->shape[2] : 0;
    ExpectShape("history", history->shape, {batch, beams, steps});
    for (int64_t i = 0; i < batch * beams * steps; ++i) {
      if (history->data[i] >= vocabulary) {
        Refuse("history must be tokens in 0..", vocabulary - 1, ", or negative, got ",
               history->data[i]);
      }
    }
  }
  int64_t allowed_rows = batch, allowed_beams = beams;  // 1 if all have the same
  if (allowed) {
    const bool has_axes = allowed->shape.size() == 3;
    if (has_axes && allowed->shape[0] == 1) allowed_rows = 1;
    if (has_axes && allowed->shape[1] == 1) allowed_beams = 1;
    ExpectShape("allowed", allowed->shape, {allowed_rows, allowed_beams, vocabulary});
  }
  if (!(repetition_penalty > 0) || repetition_penalty > std::numeric_limits<double>::max()) {
    Refuse("repetition_penalty must be a finite number above 0, got ", repetition_penalty);
  }
  if (no_repeat_ngram < 0 || no_repeat_ngram > kMost) {
    Refuse("no_repeat_ngram must be in 0..", kMost, ", got ", no_repeat_ngram);
  }
  return {batch,
          beams,
          vocabulary,
          steps,
          logits.data,
          scores.data,
          history ? history->data : nullptr,
          allowed ? allowed->data : nullptr,
          allowed_rows == 1 ? 0 : allowed_beams * vocabulary,
          allowed_beams == 1 ? 0 : vocabulary,
          repetition_penalty,
          no_repeat_ngram};
}

template Step<float> CheckedStep(const Argument<float>&, const Argument<float>&,
                                 const Argument<int32_t>*, const Argument<bool>*, double, int64_t);
template Step<double> CheckedStep(const Argument<double>&, const Argument<double>&,
                                  const Argument<int32_t>*, const Argument<bool>*, double, int64_t);

}  // namespace fastkeras::seq2seq
