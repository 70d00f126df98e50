// TensorFlow ops of the CRF: values, gradients, marginals.

#include "crf/tensorflow_inputs.h"

namespace fastkeras::crf {
namespace {

using tensorflow::BoolAttribute;

Quantity QuantityAttribute(TF_OpKernelConstruction* construction) {
  const int32_t quantity = IntAttribute(construction, "quantity");
  if (quantity < 0 || quantity > 2) InvalidArgument("quantity must be in 0..2, got ", quantity);
  return static_cast<Quantity>(quantity);
}

template <typename T>
struct ValueKernel {
  explicit ValueKernel(TF_OpKernelConstruction* construction)
      : quantity(QuantityAttribute(construction)),
        keep_workspace(BoolAttribute(construction, "keep_workspace")),
        num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, quantity);
    const Tensor value = Output<T>(context, 0, {chains.batch});
    const int64_t size =
        keep_workspace ? WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags) : 0;
    const Tensor workspace = Output<T>(context, 1, {size});
    Value(chains, checked_tags, quantity, value.data<T>(),
          keep_workspace ? workspace.data<T>() : nullptr, num_threads);
  }

  Quantity quantity;
  bool keep_workspace;
  int num_threads;
};

template <typename T>
struct GradientKernel {
  explicit GradientKernel(TF_OpKernelConstruction* construction)
      : quantity(QuantityAttribute(construction)),
        num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const int64_t batch = chains.batch, steps = chains.steps, num_tags = chains.num_tags;
    const Tensor tags = Input(context, 6);
    const int32_t* checked_tags = inputs.Tags(tags, quantity);
    const Tensor value = Input(context, 7);
    const Tensor workspace = Input(context, 8);
    const Tensor weights = Input(context, 9);
    ExpectShape("value", value, {batch});
    ExpectShape("workspace", workspace, {WorkspaceSize<T>(batch, steps, num_tags)});
    ExpectShape("weights", weights, {batch});
    const Tensor d_emissions = Output<T>(context, 0, {batch, steps, num_tags});
    const Tensor d_transitions = Output<T>(context, 1, {num_tags, num_tags});
    const Tensor d_start = Output<T>(context, 2, {num_tags});
    const Tensor d_end = Output<T>(context, 3, {num_tags});
    Gradient(chains, checked_tags, quantity, value.data<const T>(), workspace.data<const T>(),
             weights.data<const T>(), d_emissions.data<T>(), d_transitions.data<T>(),
             d_start.data<T>(), d_end.data<T>(), num_threads);
  }

  Quantity quantity;
  int num_threads;
};

template <typename T>
struct MarginalsKernel {
  explicit MarginalsKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor unary = Output<T>(context, 0, inputs.emissions.shape);
    const Tensor counts = Output<T>(context, 1, {chains.batch, chains.num_tags, chains.num_tags});
    Marginals(chains, unary.data<T>(), counts.data<T>(), num_threads);
  }

  int num_threads;
};

void ValueShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2});
  shapes.SetAllUnknown();  // the size of the workspace is the kernel's business
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 1));
}

void GradientShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {2, 1, 1, 1});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Concatenate(num_tags, num_tags));
  shapes.SetOutput(2, num_tags);
  shapes.SetOutput(3, num_tags);
}

void MarginalsShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {});
  const auto num_tags = shapes.Slice(emissions, 2, 3);
  const auto pairs = shapes.Concatenate(num_tags, num_tags);
  shapes.SetOutput(0, emissions);
  shapes.SetOutput(1, shapes.Concatenate(shapes.Slice(emissions, 0, 1), pairs));
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
  tensorflow::RegisterOp<MarginalsShapes>("Fastkeras>CrfMarginals", {FASTKERAS_CHAINS},
                                          {"unary: T", "counts: T"}, {type, threads});
  tensorflow::RegisterKernel<ValueKernel, float>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<ValueKernel, double>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<GradientKernel, float>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<GradientKernel, double>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<MarginalsKernel, float>("Fastkeras>CrfMarginals");
  tensorflow::RegisterKernel<MarginalsKernel, double>("Fastkeras>CrfMarginals");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
