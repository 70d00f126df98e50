// The op of a step of a beam search, inside programs that XLA compiles.

#include "xla.h"

#include "seq2seq/tensorflow_kernels.h"

namespace fastkeras::seq2seq {
namespace {

const bool registered = [] {
  xla_call::RegisterCalls<SelectKernel>("Fastkeras>Seq2seqSelect");
  return true;
}();

}  // namespace
}  // namespace fastkeras::seq2seq
