// TensorFlow ops of whole paths: the best, and the k best.

#include "crf/tensorflow_inputs.h"

namespace fastkeras::crf {
namespace {

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

template <typename T>
struct KBestKernel {
  explicit KBestKernel(TF_OpKernelConstruction* construction)
      : k(IntAttribute(construction, "k")), num_threads(IntAttribute(construction, "num_threads")) {
    if (k < 1) InvalidArgument("k must be at least 1, got ", k);
  }

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor tags = Output<int32_t>(context, 0, {chains.batch, k, chains.steps});
    const Tensor scores = Output<T>(context, 1, {chains.batch, k});
    KBest(chains, k, tags.data<int32_t>(), scores.data<T>(), num_threads);
  }

  int64_t k;
  int num_threads;
};

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

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<ViterbiShapes>("Fastkeras>CrfViterbi", {FASTKERAS_CHAINS},
                                        {"tags: int32", "score: T"}, {type, threads});
  tensorflow::RegisterOp<KBestShapes>("Fastkeras>CrfKBest", {FASTKERAS_CHAINS},
                                      {"tags: int32", "scores: T"}, {type, "k: int", threads});
  tensorflow::RegisterKernel<ViterbiKernel, float>("Fastkeras>CrfViterbi");
  tensorflow::RegisterKernel<ViterbiKernel, double>("Fastkeras>CrfViterbi");
  tensorflow::RegisterKernel<KBestKernel, float>("Fastkeras>CrfKBest");
  tensorflow::RegisterKernel<KBestKernel, double>("Fastkeras>CrfKBest");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
