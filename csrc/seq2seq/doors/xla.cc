// The op of a step of a beam search, inside programs that XLA compiles.

#include "doors/xla.h"

#include "seq2seq/doors/tensorflow_kernels.h"

namespace fastkeras::seq2seq {
namespace {

const bool registered = [] {
  xla_call::RegisterCalls<SelectKernel>("Fastkeras>Seq2seqSelect");
  return true;
}();

}  // namespace
}  // namespace fastkeras::seq2seq
