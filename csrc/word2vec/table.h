// The kernel as compiled for one instruction set. Included once by each kernels_<set>.cc.

#include "word2vec/pass.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

void TrainSlice(const word2vec::Problem& problem, const word2vec::Place& place, int64_t begin,
                int64_t end, word2vec::Tally* tally) {
  Pass pass(problem, place);
  pass.Run(begin, end);
  *tally = pass.tally;
}

constexpr word2vec::Kernels<float> kTrainKernels = {TrainSlice};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::word2vec {

FASTKERAS_EXPORT(float, kTrainKernels)

}  // namespace fastkeras::word2vec
