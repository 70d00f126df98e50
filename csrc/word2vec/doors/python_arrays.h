// NumPy arrays in the form that the kernels need; any other array is refused by its name.

#ifndef FASTKERAS_WORD2VEC_DOORS_PYTHON_ARRAYS_H_
#define FASTKERAS_WORD2VEC_DOORS_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <sstream>
#include <string>

namespace fastkeras::word2vec {

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw pybind11::value_error(message.str());
}

// An array of T with so many dimensions, C-contiguous and aligned. Nothing is converted, since a
// copy would be updated in place of the caller's array.
template <typename T>
pybind11::array_t<T> Checked(const char* name, const pybind11::object& object, int dimensions) {
  namespace py = pybind11;
  if (!py::isinstance<py::array>(object)) {
    Refuse(name, " must be an array of NumPy, got ", std::string(py::str(py::type::of(object))));
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (!py::isinstance<py::array_t<T>>(object)) {
    Refuse(name, " must have dtype ", std::string(py::str(py::dtype::of<T>())), ", got ",
           std::string(py::str(array.dtype())));
  }
  if (array.ndim() != dimensions) {
    Refuse(name, " must have ", dimensions, " dimensions, got ", array.ndim());
  }
  constexpr int kNeeded =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  if ((array.flags() & kNeeded) != kNeeded) Refuse(name, " must be contiguous and aligned");
  return py::reinterpret_borrow<py::array_t<T>>(object);
}

inline void ExpectSize(const char* name, int64_t size, int64_t expected) {
  if (size != expected) Refuse(name, " must have ", expected, " rows, got ", size);
}

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_DOORS_PYTHON_ARRAYS_H_
