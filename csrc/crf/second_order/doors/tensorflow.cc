// TensorFlow ops of second-order chains.

#include "crf/second_order/doors/tensorflow_kernels.h"

namespace fastkeras::crf {
namespace {

void SecondOrderValueShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {3, 2});
  shapes.SetAllUnknown();  // the size of the workspace is the kernel's business
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
}

void SecondOrderGradientShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {3, 2, 1, 1, 1});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Input(1));
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
  shapes.SetOutput(4, shapes.Input(6));
}

void SecondOrderMarginalsShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {3});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  const auto pairs = shapes.Concatenate(num_tags, num_tags);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Concatenate(shapes.Slice(emissions, 0, 1), pairs));
}

void SecondOrderViterbiShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {3});
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 2));
  shapes.SetOutput(1, shapes.Slice(emissions, 0, 1));
}

template <template <typename> typename Kernel>
void Register(const char* op) {
  tensorflow::RegisterKernel<Kernel, float>(op);
  tensorflow::RegisterKernel<Kernel, double>(op);
}

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<SecondOrderValueShapes>(
      "Fastkeras>SecondOrderValue", {FASTKERAS_CHAINS, "triples: T", "tags: int32"},
      {"value: T", "workspace: T"},
      {type, "quantity: int", "keep_workspace: bool = true", threads});
  tensorflow::RegisterOp<SecondOrderGradientShapes>(
      "Fastkeras>SecondOrderGradient",
      {FASTKERAS_CHAINS, "triples: T", "tags: int32", "value: T", "workspace: T", "weights: T"},
      {"d_emissions: T", "d_transitions: T", "d_start_transitions: T", "d_end_transitions: T",
       "d_triples: T"},
      {type, "quantity: int", threads});
  tensorflow::RegisterOp<SecondOrderMarginalsShapes>("Fastkeras>SecondOrderMarginals",
                                                     {FASTKERAS_CHAINS, "triples: T"},
                                                     {"unary: T", "counts: T"}, {type, threads});
  tensorflow::RegisterOp<SecondOrderViterbiShapes>("Fastkeras>SecondOrderViterbi",
                                                   {FASTKERAS_CHAINS, "triples: T"},
                                                   {"tags: int32", "score: T"}, {type, threads});
  Register<SecondOrderValueKernel>("Fastkeras>SecondOrderValue");
  Register<SecondOrderGradientKernel>("Fastkeras>SecondOrderGradient");
  Register<SecondOrderMarginalsKernel>("Fastkeras>SecondOrderMarginals");
  Register<SecondOrderViterbiKernel>("Fastkeras>SecondOrderViterbi");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
