// Arrays as users have them most often, in the form in which the kernels take them. What has to be
// converted, or refused with a message, is left to Python.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <limits>

#include "crf/doors/python_arrays.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

template <typename T>
bool IsReady(const py::object& array) {
  const auto& api = py::detail::npy_api::get();
  if (Py_TYPE(array.ptr()) != reinterpret_cast<PyTypeObject*>(api.PyArray_Type_)) return false;
  return py::isinstance<Array<T>>(array) &&
         (py::detail::array_proxy(array.ptr())->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_);
}

template <typename T>
bool HasShape(const Array<T>& array, std::initializer_list<int64_t> shape) {
  return array.ndim() == static_cast<int64_t>(shape.size()) &&
         std::equal(shape.begin(), shape.end(), array.shape());
}

// Integers of which `takes` tells whether each is in range, as int32; or nothing.
template <typename From, typename Takes>
bool Narrow(const py::object& given, int64_t size, const Takes& takes, int32_t* out) {
  const From* const values = py::reinterpret_borrow<Array<From>>(given).data();
  for (int64_t k = 0; k < size; ++k) {
    if (!takes(k, values[k])) return false;
    out[k] = static_cast<int32_t>(values[k]);
  }
  return true;
}

// (emissions, transitions, lengths, mask, start_transitions, end_transitions), or None.
template <typename T>
py::object ReadyChainOf(const py::object& emissions, const py::object& transitions,
                        const py::object& lengths, const py::object& mask, const py::object& start,
                        const py::object& end) {
  if (!IsReady<T>(transitions) || !(lengths.is_none() || mask.is_none())) return py::none();
  const auto scores = py::reinterpret_borrow<Array<T>>(emissions);
  if (scores.ndim() != 3 || scores.shape(2) < 1) return py::none();
  const int64_t batch = scores.shape(0), steps = scores.shape(1), num_tags = scores.shape(2);
  if (steps > std::numeric_limits<int32_t>::max()) return py::none();
  const auto pairs = py::reinterpret_borrow<Array<T>>(transitions);
  if (!HasShape(pairs, {num_tags, num_tags}) &&
      !HasShape(pairs, {batch, std::max<int64_t>(steps - 1, 0), num_tags, num_tags})) {
    return py::none();
  }
  py::object ends[2] = {start, end};
  for (py::object& scores_of_end : ends) {
    if (scores_of_end.is_none()) {
      Array<T> zeros(num_tags);
      std::fill_n(zeros.mutable_data(), num_tags, T(0));
      scores_of_end = zeros;
    } else if (!IsReady<T>(scores_of_end) ||
               !HasShape(py::reinterpret_borrow<Array<T>>(scores_of_end), {num_tags})) {
      return py::none();
    }
  }
  if (!mask.is_none() && (!IsReady<bool>(mask) ||
                          !HasShape(py::reinterpret_borrow<Array<bool>>(mask), {batch, steps}))) {
    return py::none();
  }
  Array<int32_t> counts(batch);
  int32_t* const out = counts.mutable_data();
  const auto is_length = [&](int64_t, int64_t count) { return count >= 0 && count <= steps; };
  if (lengths.is_none()) {
    std::fill_n(out, batch, static_cast<int32_t>(steps));
  } else if (IsReady<int32_t>(lengths)) {
    if (!HasShape(py::reinterpret_borrow<Array<int32_t>>(lengths), {batch}) ||
        !Narrow<int32_t>(lengths, batch, is_length, out)) {
      return py::none();
    }
  } else if (!IsReady<int64_t>(lengths) ||
             !HasShape(py::reinterpret_borrow<Array<int64_t>>(lengths), {batch}) ||
             !Narrow<int64_t>(lengths, batch, is_length, out)) {
    return py::none();
  }
  return py::make_tuple(emissions, transitions, counts, mask, ends[0], ends[1]);
}

py::object ReadyChain(const py::object& emissions, const py::object& transitions,
                      const py::object& lengths, const py::object& mask, const py::object& start,
                      const py::object& end) {
  if (IsReady<float>(emissions)) {
    return ReadyChainOf<float>(emissions, transitions, lengths, mask, start, end);
  }
  if (IsReady<double>(emissions)) {
    return ReadyChainOf<double>(emissions, transitions, lengths, mask, start, end);
  }
  return py::none();
}

// The tags as int32, 0 at steps that are not valid, or None. The chain is one that was checked.
py::object ReadyTags(const py::object& tags, int64_t batch, int64_t steps, int64_t num_tags,
                     const Array<int32_t>& lengths, const Mask& mask) {
  const bool is_narrow = IsReady<int32_t>(tags);
  if (!is_narrow && !IsReady<int64_t>(tags)) return py::none();
  const auto given = py::reinterpret_borrow<py::array>(tags);
  if (given.ndim() != 2 || given.shape(0) != batch || given.shape(1) != steps) return py::none();
  ExpectShape("lengths", ArgumentOf("lengths", lengths).shape, {batch});
  if (mask) ExpectShape("mask", ArgumentOf("mask", *mask).shape, {batch, steps});
  Array<int32_t> checked({batch, steps});
  int32_t* const out = checked.mutable_data();
  const int32_t* const counts = lengths.data();
  const auto* const valid = mask ? reinterpret_cast<const uint8_t*>(mask->data()) : nullptr;
  const auto copy = [&](const auto* values) {
    bool in_range = true;
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < steps; ++t) {
        const int64_t k = b * steps + t;
        const bool counts_here = valid ? valid[k] != 0 : t < counts[b];
        const int64_t tag = counts_here ? values[k] : 0;
        in_range &= tag >= 0 && tag < num_tags;
        out[k] = static_cast<int32_t>(tag);
      }
    }
    return in_range;
  };
  const void* const data = given.data();
  const bool in_range =
      is_narrow ? copy(static_cast<const int32_t*>(data)) : copy(static_cast<const int64_t*>(data));
  if (!in_range) return py::none();
  return checked;
}

}  // namespace

void BindReady(py::module_& module) {
  module.def("crf_ready_chain", &ReadyChain, py::arg("emissions"), py::arg("transitions"),
             py::arg("lengths"), py::arg("mask"), py::arg("start_transitions"),
             py::arg("end_transitions"));
  module.def("crf_ready_tags", &ReadyTags, py::arg("tags"), py::arg("batch"), py::arg("steps"),
             py::arg("num_tags"), py::arg("lengths").noconvert(), py::arg("mask").noconvert());
}

}  // namespace fastkeras::crf
