// NumPy arrays as the arguments of the linear chain.

#ifndef FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_
#define FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_

#include <optional>

#include "crf/arguments.h"
#include "doors/numpy_arrays.h"

namespace fastkeras::crf {

// The six arguments that every function of the linear chain begins with.
template <typename T>
Chains<T> ChainsOf(const Array<T>& emissions, const Array<T>& transitions,
                   const Array<int32_t>& lengths, const std::optional<Array<bool>>& mask,
                   const Array<T>& start, const Array<T>& end) {
  const auto mask_argument = ArgumentIfAny("mask", mask);
  return CheckedChains<T>(
      ArgumentOf("emissions", emissions), ArgumentOf("transitions", transitions),
      ArgumentOf("start_transitions", start), ArgumentOf("end_transitions", end),
      ArgumentOf("lengths", lengths), PointerTo(mask_argument));
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_
