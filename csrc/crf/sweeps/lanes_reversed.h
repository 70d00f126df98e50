// Reads and writes rows of lanes whose steps come from the last to the first, without holes: the
// steps of a chunk are as contiguous as they are in the other direction.

#ifndef FASTKERAS_CRF_SWEEPS_LANES_REVERSED_H_
#define FASTKERAS_CRF_SWEEPS_LANES_REVERSED_H_

#include "crf/kernels.h"
#include "crf/sweeps/lanes.h"
#include "machine/simd.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// Whether the steps begin..end-1 of all lanes are contiguous, in reverse. Those that a lane lacks
// are read from the end of the sequence before it in the batch, which the first one has not.
template <typename T>
FASTKERAS_INLINE bool IsReversedBlock(const crf::Plan<T>& plan, const Lanes<T>& lanes,
                                      int64_t end) {
  if (!plan.reversed || lanes.sections > 1 || lanes.count < lanes.kWidth) return false;
  for (int lane = 0; lane < lanes.kWidth && lanes.shortest < end; ++lane) {
    if (lanes.sequence[lane] == 0 && lanes.counts[lane] < end) return false;
  }
  return true;
}

// Calls body(first element, how many, places) for the elements of `steps` steps, a vector's width
// at a time: each is at the place of its tag in the step as it is counted from the other end.
template <typename T, typename Body>
FASTKERAS_INLINE void OverReversedSteps(const Lanes<T>& lanes, int64_t steps, const Body& body) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = lanes.num_tags, size = steps * num_tags;
  int64_t places[kWidth], row = (steps - 1) * num_tags, tag = 0;
  for (int64_t k = 0; k < size; k += kWidth) {
    const int here = size - k < kWidth ? static_cast<int>(size - k) : kWidth;
    for (int i = 0; i < here; ++i) {
      places[i] = (row + tag) * kWidth;
      if (++tag == num_tags) tag = 0, row -= num_tags;
    }
    body(k, here, places);
  }
}

template <typename T>
FASTKERAS_SHARED void ReadReversed(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                   int64_t end, T* into) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = lanes.num_tags, steps = plan.chains.steps;
  const T* rows[kWidth];
  for (int lane = 0; lane < kWidth; ++lane) {
    rows[lane] = plan.chains.emissions +
                 (lanes.sequence[lane] * steps + lanes.counts[lane] - end) * num_tags;
  }
  Vec<T> square[kWidth];
  OverReversedSteps(lanes, end - begin,
                    [&](int64_t k, int here, const int64_t* places) FASTKERAS_LAMBDA_INLINE {
                      if (here == kWidth) {
#pragma GCC unroll 16
                        for (int lane = 0; lane < kWidth; ++lane)
                          square[lane] = Load(rows[lane] + k);
                      } else {
                        for (int lane = 0; lane < kWidth; ++lane)
                          square[lane] = LoadFirst(rows[lane] + k, here);
                      }
                      Transpose<T>(square);
#pragma GCC unroll 16
                      for (int i = 0; i < kWidth; ++i) {
                        if (i < here) Store(into + places[i], square[i]);
                      }
                    });
}

template <typename T>
FASTKERAS_SHARED void WriteReversed(const crf::Plan<T>& plan, const Lanes<T>& lanes, int64_t begin,
                                    int64_t end, const T* from, T* emissions) {
  constexpr int kWidth = Simd<T>::kWidth;
  const int64_t num_tags = lanes.num_tags, steps = plan.chains.steps;
  T* rows[kWidth];
  int64_t lacking[kWidth];  // elements, before those of the lane
  for (int lane = 0; lane < kWidth; ++lane) {
    rows[lane] = emissions + (lanes.sequence[lane] * steps + lanes.counts[lane] - end) * num_tags;
    const int64_t rest = end - lanes.counts[lane];
    lacking[lane] = rest > 0 ? rest * num_tags : 0;
  }
  Vec<T> square[kWidth];
  OverReversedSteps(lanes, end - begin,
                    [&](int64_t k, int here, const int64_t* places) FASTKERAS_LAMBDA_INLINE {
#pragma GCC unroll 16
                      for (int i = 0; i < kWidth; ++i) {
                        square[i] = i < here ? Load(from + places[i]) : Vec<T>{};
                      }
                      Transpose<T>(square);
                      if (here == kWidth && lanes.shortest >= end) {
#pragma GCC unroll 16
                        for (int lane = 0; lane < kWidth; ++lane)
                          Store(rows[lane] + k, square[lane]);
                        return;
                      }
                      for (int lane = 0; lane < kWidth; ++lane) {
                        if (k >= lacking[lane]) {
                          StoreFirst(rows[lane] + k, square[lane], here);
                        } else if (k + here > lacking[lane]) {
                          T last[kWidth];
                          Store(last, square[lane]);
                          for (int64_t i = lacking[lane] - k; i < here; ++i)
                            rows[lane][k + i] = last[i];
                        }
                      }
                    });
}

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_CRF_SWEEPS_LANES_REVERSED_H_
