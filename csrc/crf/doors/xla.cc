// The ops of the CRF, inside programs that XLA compiles.

#include "doors/xla.h"

#include "crf/doors/tensorflow_kernels.h"
#include "crf/second_order/doors/tensorflow_kernels.h"
#include "crf/semi_markov/tensorflow_kernels.h"

namespace fastkeras::crf {
namespace {

using xla_call::RegisterCalls;

const bool registered = [] {
  RegisterCalls<ValueKernel>("Fastkeras>CrfValue");
  RegisterCalls<GradientKernel>("Fastkeras>CrfGradient");
  RegisterCalls<VaryingValueKernel>("Fastkeras>CrfVaryingValue");
  RegisterCalls<WeighKernel>("Fastkeras>CrfWeigh");
  RegisterCalls<WeightedValueKernel>("Fastkeras>CrfWeightedValue");
  RegisterCalls<WeightedGradientKernel>("Fastkeras>CrfWeightedGradient");
  RegisterCalls<EntropyKernel>("Fastkeras>CrfEntropy");
  RegisterCalls<EntropyGradientKernel>("Fastkeras>CrfEntropyGradient");
  RegisterCalls<MarginalsKernel>("Fastkeras>CrfMarginals");
  RegisterCalls<ViterbiKernel>("Fastkeras>CrfViterbi");
  RegisterCalls<KBestKernel>("Fastkeras>CrfKBest");
  RegisterCalls<SampleKernel>("Fastkeras>CrfSample");
  RegisterCalls<SecondOrderValueKernel>("Fastkeras>SecondOrderValue");
  RegisterCalls<SecondOrderGradientKernel>("Fastkeras>SecondOrderGradient");
  RegisterCalls<SecondOrderMarginalsKernel>("Fastkeras>SecondOrderMarginals");
  RegisterCalls<SecondOrderViterbiKernel>("Fastkeras>SecondOrderViterbi");
  RegisterCalls<SemiLogPartitionKernel>("Fastkeras>SemiMarkovLogPartition");
  RegisterCalls<SemiMarginalsKernel>("Fastkeras>SemiMarkovMarginals");
  RegisterCalls<SemiViterbiKernel>("Fastkeras>SemiMarkovViterbi");
  return true;
}();

}  // namespace
}  // namespace fastkeras::crf
