// The table of the kernels as compiled for one instruction set. Included once by each
// kernels_<set>.cc.

#include "crf/kernels.h"
#include "crf/second_order/sweeps/backward.h"
#include "crf/second_order/sweeps/forward.h"
#include "crf/second_order/sweeps/viterbi.h"
#include "crf/semi_markov/segment_scores.h"
#include "crf/semi_markov/segments.h"
#include "crf/sweeps/backward.h"
#include "crf/sweeps/entropy.h"
#include "crf/sweeps/forward.h"
#include "crf/sweeps/gold.h"
#include "crf/sweeps/k_best.h"
#include "crf/sweeps/lanes.h"
#include "crf/sweeps/lanes_backward.h"
#include "crf/sweeps/lanes_forward.h"
#include "crf/sweeps/lanes_viterbi.h"
#include "crf/sweeps/sample.h"
#include "crf/sweeps/viterbi.h"
#include "crf/varying/backward.h"
#include "crf/varying/forward.h"
#include "crf/varying/paths.h"
#include "machine/math.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// panels = the matrix, or its exponentials below the peak, cut into panels (kernels.h).
template <typename T>
void CutIntoPanels(const T* matrix, int64_t num_tags, bool transpose, bool exponentials, T peak,
                   T* panels) {
  constexpr int64_t kWidth = Simd<T>::kWidth;
  const int64_t vectors = (num_tags + kWidth - 1) / kWidth;
  for (int64_t v = 0; v < vectors; v += 2) {
    const int64_t columns = (v + 2 <= vectors ? 2 : 1) * kWidth;
    T* panel = panels + v * kWidth * num_tags;
    for (int64_t i = 0; i < num_tags; ++i) {
      T* row = panel + i * columns;
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t j = v * kWidth + k;
        row[k] = j >= num_tags ? -std::numeric_limits<T>::infinity()
                               : matrix[transpose ? j * num_tags + i : i * num_tags + j];
      }
      if (!exponentials) continue;
      for (int64_t k = 0; k < columns; k += kWidth) {
        Store(row + k, Exp<T>(Load(row + k) - peak));
      }
    }
  }
}

template <typename T>
void Exponentials(T* scores, int64_t count) {
  constexpr int kWidth = Simd<T>::kWidth;
  for (int64_t k = 0; k < count; k += kWidth) {
    const int left = count - k < kWidth ? static_cast<int>(count - k) : kWidth;
    StoreFirst(scores + k, Exp<T>(LoadFirst(scores + k, left)), left);
  }
}

template <typename T>
constexpr crf::Kernels<T> kKernels = {
    Simd<T>::kWidth,    CutIntoPanels<T>,  CutIntoLanes<T>,     Forward<T>,
    Backward<T>,        Viterbi<T>,        ForwardLanes<T>,     BackwardLanes<T>,
    ViterbiLanes<T>,    KBest<T>,          DealTransitions<T>,  Draw<T>,
    GoldSteps<T>,       EntropyForward<T>, EntropyBackward<T>,  VaryingForward<T>,
    VaryingBackward<T>, VaryingViterbi<T>, VaryingKBest<T>,     AllSound<T>,
    IsSound<T>,         SegmentSweep,      SegmentMarginals<T>, SegmentViterbi,
    Exponentials<T>,    TripleForward<T>,  TripleBackward<T>,   TripleViterbi<T>};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

namespace fastkeras::crf {

FASTKERAS_EXPORT(float, kKernels<float>)
FASTKERAS_EXPORT(double, kKernels<double>)

}  // namespace fastkeras::crf
