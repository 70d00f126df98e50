// The TensorFlow op of a step of a beam search.

#include "seq2seq/doors/tensorflow_kernels.h"

namespace fastkeras::seq2seq {
namespace {

using tensorflow::ShapeInference;

void SelectShapes(ShapeInference& shapes) {
  int index = 1;
  for (int rank : {2, 3, 3, 0}) shapes.Input(index++, rank);
  shapes.Input(0, 3);
  shapes.SetAllUnknown();
}

const bool registered = [] {
  const char* op = "Fastkeras>Seq2seqSelect";
  tensorflow::RegisterOp<SelectShapes>(
      op,
      {"logits: T", "scores: T", "history: int32", "allowed: bool", "repetition_penalty: double"},
      {"candidate_scores: T", "tokens: int32", "parents: int32"},
      {"T: {float, double}", "num_candidates: int", "no_repeat_ngram: int = 0",
       "num_threads: int = 0"});
  tensorflow::RegisterKernel<SelectKernel, float>(op);
  tensorflow::RegisterKernel<SelectKernel, double>(op);
  return true;
}();

}  // namespace
}  // namespace fastkeras::seq2seq
