// TensorFlow ops of semi-Markov chains. Every op begins with the same six inputs.

#include "crf/semi_markov.h"
#include "crf/tensorflow_inputs.h"

namespace fastkeras::crf {
namespace {

template <typename T>
struct SemiInputs {
  explicit SemiInputs(TF_OpKernelContext* context) : context(context) {
    const std::vector<int64_t>& shape = emissions.shape;
    if (shape.size() != 3 || shape[2] < 1) {
      InvalidArgument("emissions must have shape (batch, steps, num_tags >= 1), got ", Text(shape));
    }
    const int64_t batch = shape[0], steps = shape[1], num_tags = shape[2];
    if (durations.shape.size() != 2 || durations.shape[0] < 1 || durations.shape[1] != num_tags) {
      InvalidArgument("durations must have shape (max_length >= 1, ", num_tags, "), got ",
                      Text(durations.shape));
    }
    ExpectShape("transitions", transitions, {num_tags, num_tags});
    ExpectShape("start_transitions", start_transitions, {num_tags});
    ExpectShape("end_transitions", end_transitions, {num_tags});
    chains = {batch,
              steps,
              num_tags,
              durations.shape[0],
              emissions.template data<T>(),
              transitions.template data<T>(),
              durations.template data<T>(),
              start_transitions.template data<T>(),
              end_transitions.template data<T>(),
              Lengths(lengths, batch, steps)};
  }

  TF_OpKernelContext* context;
  Tensor emissions = Input(context, 0);
  Tensor transitions = Input(context, 1);
  Tensor durations = Input(context, 2);
  Tensor lengths = Input(context, 3);
  Tensor start_transitions = Input(context, 4);
  Tensor end_transitions = Input(context, 5);
  SemiChains<T> chains;
};

template <typename T>
struct SemiLogPartitionKernel {
  explicit SemiLogPartitionKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const SemiInputs<T> inputs(context);
    const Tensor value = Output<T>(context, 0, {inputs.chains.batch});
    SemiLogPartition(inputs.chains, value.data<T>(), num_threads);
  }

  int num_threads;
};

template <typename T>
struct SemiMarginalsKernel {
  explicit SemiMarginalsKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const SemiInputs<T> inputs(context);
    const SemiChains<T>& chains = inputs.chains;
    const Tensor unary = Output<T>(context, 0, inputs.emissions.shape);
    const Tensor segments =
        Output<T>(context, 1, {chains.batch, chains.steps, chains.max_length, chains.num_tags});
    const Tensor counts = Output<T>(context, 2, {chains.batch, chains.num_tags, chains.num_tags});
    SemiMarginals(chains, unary.data<T>(), segments.data<T>(), counts.data<T>(), num_threads);
  }

  int num_threads;
};

template <typename T>
struct SemiViterbiKernel {
  explicit SemiViterbiKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const SemiInputs<T> inputs(context);
    const SemiChains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, chains.steps});
    const Tensor begins = Output<bool>(context, 1, {chains.batch, chains.steps});
    const Tensor score = Output<T>(context, 2, {chains.batch});
    SemiViterbi(chains, tags.data<int32_t>(), begins.data<bool>(), score.data<T>(), num_threads);
  }

  int num_threads;
};

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
