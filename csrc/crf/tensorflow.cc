// TensorFlow ops of the CRF. Every op begins with the same six inputs, checked in `Inputs`.

#include "tensorflow.h"

#include <cstdint>
#include <string>
#include <vector>

#include "crf/crf.h"

namespace fastkeras::crf {
namespace {

using tensorflow::BoolAttribute;
using tensorflow::Input;
using tensorflow::IntAttribute;
using tensorflow::InvalidArgument;
using tensorflow::Output;
using tensorflow::ShapeInference;
using tensorflow::Tensor;

std::string Text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

void ExpectShape(const char* name, const Tensor& tensor, const std::vector<int64_t>& expected) {
  if (tensor.shape != expected) {
    InvalidArgument(name, " must have shape ", Text(expected), ", got ", Text(tensor.shape));
  }
}

bool IsEmptyMatrix(const Tensor& tensor) { return tensor.shape == std::vector<int64_t>{0, 0}; }

// emissions, transitions, start_transitions, end_transitions, lengths and mask. A mask of shape
// (0, 0) stands for none.
template <typename T>
struct Inputs {
  explicit Inputs(TF_OpKernelContext* context) : context(context) {
    const std::vector<int64_t>& shape = emissions.shape;
    if (shape.size() != 3) {
      InvalidArgument("emissions must have shape (batch, steps, num_tags), got ", Text(shape));
    }
    const int64_t batch = shape[0], steps = shape[1], num_tags = shape[2];
    if (num_tags < 1) InvalidArgument("emissions must have num_tags >= 1, got shape ", Text(shape));
    ExpectShape("transitions", transitions, {num_tags, num_tags});
    ExpectShape("start_transitions", start_transitions, {num_tags});
    ExpectShape("end_transitions", end_transitions, {num_tags});
    ExpectShape("lengths", lengths, {batch});
    if (!IsEmptyMatrix(mask)) ExpectShape("mask", mask, {batch, steps});
    const int32_t* length = lengths.template data<int32_t>();
    for (int64_t b = 0; b < batch; ++b) {
      if (length[b] < 0 || length[b] > steps) {
        InvalidArgument("lengths must be in 0..", steps, " (the steps of emissions), got ",
                        length[b], " at [", b, "]");
      }
    }
    chains = {batch,
              steps,
              num_tags,
              emissions.template data<T>(),
              transitions.template data<T>(),
              start_transitions.template data<T>(),
              end_transitions.template data<T>(),
              length,
              IsEmptyMatrix(mask) ? nullptr : mask.template data<bool>()};
  }

  // Checks the tags, which a quantity without any gold sequence does not read.
  const int32_t* Tags(const Tensor& tags, Quantity quantity) const {
    if (quantity == Quantity::kLogPartition && IsEmptyMatrix(tags)) return nullptr;
    ExpectShape("tags", tags, {chains.batch, chains.steps});
    const int32_t* data = tags.data<int32_t>();
    const int64_t wrong = FirstTagOutOfRange(chains.batch, chains.steps, chains.num_tags, data,
                                             chains.lengths, chains.mask);
    if (wrong >= 0) {
      InvalidArgument("tags must be in 0..", chains.num_tags - 1, " at valid steps, got ",
                      data[wrong], " at [", wrong / chains.steps, ", ", wrong % chains.steps, "]");
    }
    return data;
  }

  TF_OpKernelContext* context;
  Tensor emissions = Input(context, 0);
  Tensor transitions = Input(context, 1);
  Tensor start_transitions = Input(context, 2);
  Tensor end_transitions = Input(context, 3);
  Tensor lengths = Input(context, 4);
  Tensor mask = Input(context, 5);
  Chains<T> chains;
};

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

template <typename T>
struct ViterbiKernel {
  explicit ViterbiKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, chains.steps});
    const Tensor score = Output<T>(context, 1, {chains.batch});
    Viterbi(chains, tags.data<int32_t>(), score.data<T>(), num_threads);
  }

  int num_threads;
};

// The shape of emissions; the other inputs' ranks are checked on the way.
ShapeInference::Shape CheckRanks(ShapeInference& shapes, std::initializer_list<int> more_ranks) {
  int index = 1;
  for (int rank : {2, 1, 1, 1, 2}) shapes.Input(index++, rank);
  for (int rank : more_ranks) shapes.Input(index++, rank);
  return shapes.Input(0, 3);
}

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

void ViterbiShapes(ShapeInference& shapes) {
  const auto emissions = CheckRanks(shapes, {});
  shapes.SetOutput(0, shapes.Slice(emissions, 0, 2));
  shapes.SetOutput(1, shapes.Slice(emissions, 0, 1));
}

#define FASTKERAS_CHAINS                                                          \
  "emissions: T", "transitions: T", "start_transitions: T", "end_transitions: T", \
      "lengths: int32", "mask: bool"

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
  tensorflow::RegisterOp<ViterbiShapes>("Fastkeras>CrfViterbi", {FASTKERAS_CHAINS},
                                        {"tags: int32", "score: T"}, {type, threads});
  tensorflow::RegisterKernel<ValueKernel, float>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<ValueKernel, double>("Fastkeras>CrfValue");
  tensorflow::RegisterKernel<GradientKernel, float>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<GradientKernel, double>("Fastkeras>CrfGradient");
  tensorflow::RegisterKernel<MarginalsKernel, float>("Fastkeras>CrfMarginals");
  tensorflow::RegisterKernel<MarginalsKernel, double>("Fastkeras>CrfMarginals");
  tensorflow::RegisterKernel<ViterbiKernel, float>("Fastkeras>CrfViterbi");
  tensorflow::RegisterKernel<ViterbiKernel, double>("Fastkeras>CrfViterbi");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
