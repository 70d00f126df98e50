// TensorFlow ops of whole paths: the best, the k best, and samples.

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

template <typename T>
struct SampleKernel {
  explicit SampleKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Inputs<T> inputs(context);
    const Chains<T>& chains = inputs.chains;
    const Tensor uniforms = Input(context, 6);
    const int64_t num_samples = uniforms.shape.empty() ? 0 : uniforms.shape[0];
    ExpectShape("uniforms", uniforms, {num_samples, chains.batch, chains.steps});
    const Tensor tags = Output<int32_t>(context, 0, uniforms.shape);
    Sample(chains, num_samples, uniforms.data<const T>(), tags.data<int32_t>(), num_threads);
  }

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

void SampleShapes(ShapeInference& shapes) {
  CheckRanks(shapes, {});
  shapes.SetOutput(0, shapes.Input(6, 3));
}

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<ViterbiShapes>("Fastkeras>CrfViterbi", {FASTKERAS_CHAINS},
                                        {"tags: int32", "score: T"}, {type, threads});
  tensorflow::RegisterOp<KBestShapes>("Fastkeras>CrfKBest", {FASTKERAS_CHAINS},
                                      {"tags: int32", "scores: T"}, {type, "k: int", threads});
  tensorflow::RegisterOp<SampleShapes>("Fastkeras>CrfSample", {FASTKERAS_CHAINS, "uniforms: T"},
                                       {"tags: int32"}, {type, threads});
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
