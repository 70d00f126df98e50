// NumPy arrays as arguments: C-contiguous, aligned, and of the right type, or pybind11 refuses
// them.

#ifndef FASTKERAS_CRF_PYTHON_ARRAYS_H_
#define FASTKERAS_CRF_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "crf/arguments.h"

namespace fastkeras::crf {

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// The number of threads is what `_core.set_num_threads` said.
constexpr int kDefaultNumThreads = 0;

template <typename T>
Argument<T> ArgumentOf(const char* name, const Array<T>& array) {
  if (!(array.flags() & pybind11::detail::npy_api::NPY_ARRAY_ALIGNED_)) {
    throw pybind11::value_error(std::string(name) + " must be aligned");
  }
  return {array.data(), {array.shape(), array.shape() + array.ndim()}};
}

// The six arguments that every function of the linear chain begins with.
template <typename T>
Chains<T> ChainsOf(const Array<T>& emissions, const Array<T>& transitions,
                   const Array<int32_t>& lengths, const std::optional<Array<bool>>& mask,
                   const Array<T>& start, const Array<T>& end) {
  std::optional<Argument<bool>> mask_argument;
  if (mask) mask_argument = ArgumentOf("mask", *mask);
  return CheckedChains<T>(
      ArgumentOf("emissions", emissions), ArgumentOf("transitions", transitions),
      ArgumentOf("start_transitions", start), ArgumentOf("end_transitions", end),
      ArgumentOf("lengths", lengths), mask ? &*mask_argument : nullptr);
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_PYTHON_ARRAYS_H_
