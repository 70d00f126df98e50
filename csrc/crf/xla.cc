// The ops of the CRF and of the decoding of sequences, inside programs that XLA compiles.

#include "xla.h"

#include "crf/semi_markov/tensorflow_kernels.h"
#include "crf/tensorflow_kernels.h"
#include "seq2seq/tensorflow_kernels.h"

namespace fastkeras::crf {
namespace {

template <template <typename> class Kernel>
void RegisterCalls(const char* op) {
  xla_call::RegisterCall<Kernel, float>(op);
  xla_call::RegisterCall<Kernel, double>(op);
}

const bool registered = [] {
  RegisterCalls<ValueKernel>("Fastkeras>CrfValue");
  RegisterCalls<GradientKernel>("Fastkeras>CrfGradient");
  RegisterCalls<MarginalsKernel>("Fastkeras>CrfMarginals");
  RegisterCalls<ViterbiKernel>("Fastkeras>CrfViterbi");
  RegisterCalls<KBestKernel>("Fastkeras>CrfKBest");
  RegisterCalls<SampleKernel>("Fastkeras>CrfSample");
  RegisterCalls<SemiLogPartitionKernel>("Fastkeras>SemiMarkovLogPartition");
  RegisterCalls<SemiMarginalsKernel>("Fastkeras>SemiMarkovMarginals");
  RegisterCalls<SemiViterbiKernel>("Fastkeras>SemiMarkovViterbi");
  RegisterCalls<seq2seq::SelectKernel>("Fastkeras>Seq2seqSelect");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
