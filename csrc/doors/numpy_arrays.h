// NumPy arrays as arguments: C-contiguous, aligned, and of the right type, or pybind11 refuses
// them.

#ifndef FASTKERAS_DOORS_NUMPY_ARRAYS_H_
#define FASTKERAS_DOORS_NUMPY_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "doors/argument_checks.h"

namespace fastkeras {

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

template <typename T>
std::optional<Argument<T>> ArgumentIfAny(const char* name, const std::optional<Array<T>>& array) {
  if (!array) return std::nullopt;
  return ArgumentOf(name, *array);
}

// What the functions that check arguments take for one that may be missing.
template <typename T>
const Argument<T>* PointerTo(const std::optional<Argument<T>>& argument) {
  return argument ? &*argument : nullptr;
}

}  // namespace fastkeras

#endif  // FASTKERAS_DOORS_NUMPY_ARRAYS_H_
