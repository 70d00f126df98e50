// The table of the kernels as compiled for one instruction set. Included once by each
// kernels_<set>.cc.

#include "seq2seq/select.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

template <typename T>
constexpr seq2seq::Kernels<T> kSelectKernels = {SelectOfSentence<T>};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::seq2seq {

FASTKERAS_EXPORT(float, kSelectKernels<float>)
FASTKERAS_EXPORT(double, kSelectKernels<double>)

}  // namespace fastkeras::seq2seq
