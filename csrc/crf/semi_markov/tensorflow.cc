// TensorFlow ops of semi-Markov chains.

#include "crf/semi_markov/tensorflow_kernels.h"

namespace fastkeras::crf {
namespace {

// The shape of emissions; the other inputs' ranks are checked on the way.
ShapeInference::Shape CheckSemiRanks(ShapeInference& shapes) {
  int index = 1;
  for (int rank : {2, 2, 1, 1, 1}) shapes.Input(index++, rank);
  return shapes.Input(0, 3);
}

void SemiLogPartitionShapes(ShapeInference& shapes) {
  shapes.SetOutput(0, shapes.Slice(CheckSemiRanks(shapes), 0, 1));
}

void SemiMarginalsShapes(ShapeInference& shapes) {
  const auto emissions = CheckSemiRanks(shapes);
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  const auto pairs = shapes.Concatenate(num_tags, num_tags);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Concatenate(shapes.Slice(emissions, 0, 2), shapes.Input(2, 2)));
  shapes.SetOutput(2, shapes.Concatenate(shapes.Slice(emissions, 0, 1), pairs));
}

void SemiViterbiShapes(ShapeInference& shapes) {
  const auto emissions = CheckSemiRanks(shapes);
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 2));
  shapes.SetOutput(1, shapes.Slice(emissions, 0, 2));
  shapes.SetOutput(2, shapes.Slice(emissions, 0, 1));
}

#define FASTKERAS_SEMI_CHAINS                                \
  {"emissions: T",   "transitions: T",       "durations: T", \
   "lengths: int32", "start_transitions: T", "end_transitions: T"}

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<SemiLogPartitionShapes>(
      "Fastkeras>SemiMarkovLogPartition", FASTKERAS_SEMI_CHAINS, {"value: T"}, {type, threads});
  tensorflow::RegisterOp<SemiMarginalsShapes>(
      "Fastkeras>SemiMarkovMarginals", FASTKERAS_SEMI_CHAINS,
      {"unary: T", "segments: T", "counts: T"}, {type, threads});
  tensorflow::RegisterOp<SemiViterbiShapes>("Fastkeras>SemiMarkovViterbi", FASTKERAS_SEMI_CHAINS,
                                            {"tags: int32", "begins: bool", "score: T"},
                                            {type, threads});
  tensorflow::RegisterKernel<SemiLogPartitionKernel, float>("Fastkeras>SemiMarkovLogPartition");
  tensorflow::RegisterKernel<SemiLogPartitionKernel, double>("Fastkeras>SemiMarkovLogPartition");
  tensorflow::RegisterKernel<SemiMarginalsKernel, float>("Fastkeras>SemiMarkovMarginals");
  tensorflow::RegisterKernel<SemiMarginalsKernel, double>("Fastkeras>SemiMarkovMarginals");
  tensorflow::RegisterKernel<SemiViterbiKernel, float>("Fastkeras>SemiMarkovViterbi");
  tensorflow::RegisterKernel<SemiViterbiKernel, double>("Fastkeras>SemiMarkovViterbi");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
