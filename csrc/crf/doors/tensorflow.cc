// TensorFlow ops of the linear-chain CRF.

#include "crf/doors/tensorflow_kernels.h"

namespace fastkeras::crf {
namespace {

void ValueShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2});
  shapes.SetAllUnknown();  // the size of the workspace is the kernel's business
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
}

void GradientShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2, 1, 1, 1});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Input(1));
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
}

void VaryingValueShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2});
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
  shapes.SetOutput(1, emissions);
  shapes.SetOutput(2, shapes.Input(1, 4));
}

void WeighShapes(ShapeInference& shapes) {
  const auto emissions = shapes.Input(0, 3), transitions = shapes.Input(1, 4);
  int index = 2;
  for (int rank : {1, 1, 2, 1}) shapes.Input(index++, rank);
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, transitions);
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
}

void WeightedValueShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2, 2});
  shapes.SetAllUnknown();
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
  shapes.SetOutput(1, shapes.Slice(emissions, 0, 2));
}

void WeightedGradientShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2, 2, 1, 1, 1});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Input(1));
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
}

void EntropyShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {});
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
}

void EntropyGradientShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {1, 1, 1});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Input(1));
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
}

void MarginalsShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {});
  const auto transitions = shapes.Input(1);
  const int64_t rank = shapes.Rank(transitions);
  if (rank < 0) shapes.SetAllUnknown();
  shapes.SetOutput(0, emissions);
  if (rank == 4) shapes.SetOutput(1, transitions);
  if (rank == 2) {
    const auto num_tags = shapes.Slice(emissions, 2, 3);
    const auto pairs = shapes.Concatenate(num_tags, num_tags);
    shapes.SetOutput(1, shapes.Concatenate(shapes.Slice(emissions, 0, 1), pairs));
  }
}

void ViterbiShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {});
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 2));
  shapes.SetOutput(1, shapes.Slice(emissions, 0, 1));
}

// The shape functions of C see no attributes: Python sets the shapes with k in them.
void KBestShapes(ShapeInference& shapes) {
  CheckRanks(shapes, {});
  shapes.SetAllUnknown();
}

void SampleShapes(ShapeInference& shapes) {
  CheckRanks(shapes, {});
  shapes.SetOutput(0, shapes.Input(6, 3));
}

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<ValueShapes>(
      "Fastkeras>CrfValue", {FASTKERAS_CHAINS, "tags: int32"}, {"value: T", "workspace: T"},
      {type, "quantity: int", "keep_workspace: bool = true", threads});
  tensorflow::RegisterOp<GradientShapes>(
      "Fastkeras>CrfGradient",
      {FASTKERAS_CHAINS, "tags: int32", "value: T", "workspace: T", "weights: T"},
      {"d_emissions: T", "d_transitions: T", "d_start_transitions: T", "d_end_transitions: T"},
      {type, "quantity: int", threads});
  tensorflow::RegisterOp<VaryingValueShapes>(
      "Fastkeras>CrfVaryingValue", {FASTKERAS_CHAINS, "tags: int32"},
      {"value: T", "d_emissions: T", "d_transitions: T"}, {type, "quantity: int", threads});
  tensorflow::RegisterOp<WeighShapes>("Fastkeras>CrfWeigh",
                                      {"d_emissions: T", "d_transitions: T", "value: T",
                                       "lengths: int32", "mask: bool", "weights: T"},
                                      {"weighted_d_emissions: T", "weighted_d_transitions: T",
                                       "d_start_transitions: T", "d_end_transitions: T"},
                                      {type, threads});
  tensorflow::RegisterOp<WeightedValueShapes>(
      "Fastkeras>CrfWeightedValue", {FASTKERAS_CHAINS, "tags: int32", "weights: T"},
      {"value: T", "log_p: T", "workspace: T"}, {type, "keep_workspace: bool = true", threads});
  tensorflow::RegisterOp<WeightedGradientShapes>(
      "Fastkeras>CrfWeightedGradient",
      {FASTKERAS_CHAINS, "tags: int32", "weights: T", "value: T", "workspace: T", "factors: T"},
      {"d_emissions: T", "d_transitions: T", "d_start_transitions: T", "d_end_transitions: T"},
      {type, threads});
  tensorflow::RegisterOp<EntropyShapes>("Fastkeras>CrfEntropy", {FASTKERAS_CHAINS},
                                        {"value: T", "workspace: T"},
                                        {type, "keep_workspace: bool = true", threads});
  tensorflow::RegisterOp<EntropyGradientShapes>(
      "Fastkeras>CrfEntropyGradient", {FASTKERAS_CHAINS, "value: T", "workspace: T", "weights: T"},
      {"d_emissions: T", "d_transitions: T", "d_start_transitions: T", "d_end_transitions: T"},
      {type, threads});
  tensorflow::RegisterOp<MarginalsShapes>("Fastkeras>CrfMarginals", {FASTKERAS_CHAINS},
                                          {"unary: T", "counts: T"}, {type, threads});
  tensorflow::RegisterOp<ViterbiShapes>("Fastkeras>CrfViterbi", {FASTKERAS_CHAINS},
                                        {"tags: int32", "score: T"}, {type, threads});
  tensorflow::RegisterOp<KBestShapes>("Fastkeras>CrfKBest", {FASTKERAS_CHAINS},
                                      {"tags: int32", "scores: T"}, {type, "k: int", threads});
  tensorflow::RegisterOp<SampleShapes>("Fastkeras>CrfSample", {FASTKERAS_CHAINS, "uniforms: T"},
                                       {"tags: int32"}, {type, threads});
  tensorflow::RegisterKernel<ValueKernel, float>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<ValueKernel, double>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<GradientKernel, float>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<GradientKernel, double>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<VaryingValueKernel, float>("Fastkeras>CrfVaryingValue");
  tensorflow::RegisterKernel<VaryingValueKernel, double>("Fastkeras>CrfVaryingValue");
  tensorflow::RegisterKernel<WeighKernel, float>("Fastkeras>CrfWeigh");
  tensorflow::RegisterKernel<WeighKernel, double>("Fastkeras>CrfWeigh");
  tensorflow::RegisterKernel<WeightedValueKernel, float>("Fastkeras>CrfWeightedValue");
  tensorflow::RegisterKernel<WeightedValueKernel, double>("Fastkeras>CrfWeightedValue");
  tensorflow::RegisterKernel<WeightedGradientKernel, float>("Fastkeras>CrfWeightedGradient");
  tensorflow::RegisterKernel<WeightedGradientKernel, double>("Fastkeras>CrfWeightedGradient");
  tensorflow::RegisterKernel<EntropyKernel, float>("Fastkeras>CrfEntropy");
  tensorflow::RegisterKernel<EntropyKernel, double>("Fastkeras>CrfEntropy");
  tensorflow::RegisterKernel<EntropyGradientKernel, float>("Fastkeras>CrfEntropyGradient");
  tensorflow::RegisterKernel<EntropyGradientKernel, double>("Fastkeras>CrfEntropyGradient");
  tensorflow::RegisterKernel<MarginalsKernel, float>("Fastkeras>CrfMarginals");
  tensorflow::RegisterKernel<MarginalsKernel, double>("Fastkeras>CrfMarginals");
  tensorflow::RegisterKernel<ViterbiKernel, float>("Fastkeras>CrfViterbi");
  tensorflow::RegisterKernel<ViterbiKernel, double>("Fastkeras>CrfViterbi");
  tensorflow::RegisterKernel<KBestKernel, float>("Fastkeras>CrfKBest");
  tensorflow::RegisterKernel<KBestKernel, double>("Fastkeras>CrfKBest");
  tensorflow::RegisterKernel<SampleKernel, float>("Fastkeras>CrfSample");
  tensorflow::RegisterKernel<SampleKernel, double>("Fastkeras>CrfSample");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf

// The name of a quantity, or null, for fastkeras/crf/_engines/tensorflow_native.py.
extern "C" __attribute__((visibility("default"))) const char* fastkeras_crf_quantity(int number) {
  using namespace fastkeras::crf;
  return number >= 0 && number < kNumQuantities ? kQuantities[number] : nullptr;
}
