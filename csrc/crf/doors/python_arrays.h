// NumPy arrays as the arguments of the linear chain.

#ifndef FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_
#define FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_

#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>

#include "crf/arguments.h"
#include "doors/numpy_arrays.h"
#include "machine/memory.h"

namespace fastkeras::crf {

using Mask = std::optional<Array<bool>>;

// The six arguments that every function of the linear chain begins with.
template <typename T>
Chains<T> ChainsOf(const Array<T>& emissions, const Array<T>& transitions,
                   const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                   const Array<T>& end) {
  const auto mask_argument = ArgumentIfAny("mask", mask);
  return CheckedChains<T>(
      ArgumentOf("emissions", emissions), ArgumentOf("transitions", transitions),
      ArgumentOf("start_transitions", start), ArgumentOf("end_transitions", end),
      ArgumentOf("lengths", lengths), PointerTo(mask_argument));
}

// An array of memory that was not read or written yet (memory.h).
template <typename T>
Array<T> Uninitialised(const Shape& shape) {
  const int64_t size =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  auto buffer = std::make_unique<Buffer<T>>(size);
  T* const data = buffer->data;
  const pybind11::capsule owner(buffer.get(), [](void* b) { delete static_cast<Buffer<T>*>(b); });
  buffer.release();
  return Array<T>(shape, data, owner);
}

// An array of the shape of the transitions.
template <typename T>
Array<T> OfTransitions(const Chains<T>& chains) {
  const int64_t num_tags = chains.num_tags;
  if (!chains.varies) return Array<T>({num_tags, num_tags});
  return Uninitialised<T>(
      {chains.batch, std::max<int64_t>(chains.steps - 1, 0), num_tags, num_tags});
}

// The arrays that a gradient is written to.
template <typename T>
struct GradientArrays {
  explicit GradientArrays(const Chains<T>& chains)
      : emissions({chains.batch, chains.steps, chains.num_tags}),
        transitions(OfTransitions(chains)),
        start(chains.num_tags),
        end(chains.num_tags),
        emissions_out(emissions.mutable_data()),
        transitions_out(transitions.mutable_data()),
        start_out(start.mutable_data()),
        end_out(end.mutable_data()) {}

  pybind11::tuple all() const { return pybind11::make_tuple(emissions, transitions, start, end); }

  Array<T> emissions, transitions, start, end;
  T *emissions_out, *transitions_out, *start_out, *end_out;
};

// Each begins with a chain, as arrays of the type that they have, and ends with a number of
// threads.
template <typename Function, typename... More>
void BindChain(pybind11::module_& module, const char* name, Function function,
               const More&... more) {
  module.def(name, function, pybind11::arg("emissions").noconvert(),
             pybind11::arg("transitions").noconvert(), pybind11::arg("lengths").noconvert(),
             pybind11::arg("mask").noconvert(), pybind11::arg("start_transitions").noconvert(),
             pybind11::arg("end_transitions").noconvert(), more...,
             pybind11::arg("num_threads") = kDefaultNumThreads);
}

}  // namespace fastkeras::crf

#endif  // FASTKERAS_CRF_DOORS_PYTHON_ARRAYS_H_
