// NumPy in, NumPy out; the arguments are checked at the door of fastkeras.crf.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "crf/crf.h"
#include "memory.h"
#include "released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

constexpr int kDefaultNumThreads = 0;

template <typename T>
struct Arguments {
  Chains<T> chains;
  Array<bool> mask;  // keeps the memory that `chains` points to

  Arguments(const Array<T>& emissions, const Array<T>& transitions, const Array<int32_t>& lengths,
            const py::object& given_mask, const Array<T>& start, const Array<T>& end)
      : chains{emissions.shape(0), emissions.shape(1), emissions.shape(2),
               emissions.data(),   transitions.data(), start.data(),
               end.data(),         lengths.data(),     nullptr} {
    if (given_mask.is_none()) return;
    mask = given_mask.cast<Array<bool>>();
    chains.mask = mask.data();
  }
};

template <typename T>
Array<T> Value(const Array<T>& emissions, const Array<int32_t>& tags, const Array<T>& transitions,
               const Array<int32_t>& lengths, const py::object& mask, const Array<T>& start,
               const Array<T>& end, int quantity) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  Array<T> value(arguments.chains.batch);
  const int32_t* path = tags.data();
  T* out = value.mutable_data();
  const ReleasedGil released;
  Value<T>(arguments.chains, path, static_cast<Quantity>(quantity), out, nullptr,
           kDefaultNumThreads);
  return value;
}

template <typename T>
py::tuple ValueAndGradient(const Array<T>& emissions, const Array<int32_t>& tags,
                           const Array<T>& transitions, const Array<int32_t>& lengths,
                           const py::object& mask, const Array<T>& start, const Array<T>& end,
                           const Array<T>& weights, int quantity) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  const Chains<T>& chains = arguments.chains;
  Array<T> value(chains.batch), d_emissions({chains.batch, chains.steps, chains.num_tags}),
      d_transitions({chains.num_tags, chains.num_tags}), d_start(chains.num_tags),
      d_end(chains.num_tags);
  const int32_t* path = tags.data();
  const T* factors = weights.data();
  T *out = value.mutable_data(), *emission_out = d_emissions.mutable_data(),
    *transition_out = d_transitions.mutable_data(), *start_out = d_start.mutable_data(),
    *end_out = d_end.mutable_data();
  {
    const ReleasedGil released;
    const Buffer<T> workspace(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
    const auto asked = static_cast<Quantity>(quantity);
    Value<T>(chains, path, asked, out, workspace.data, kDefaultNumThreads);
    Gradient<T>(chains, path, asked, out, workspace.data, factors, emission_out, transition_out,
                start_out, end_out, kDefaultNumThreads);
  }
  return py::make_tuple(value, d_emissions, d_transitions, d_start, d_end);
}

template <typename T>
py::tuple Marginals(const Array<T>& emissions, const Array<T>& transitions,
                    const Array<int32_t>& lengths, const py::object& mask, const Array<T>& start,
                    const Array<T>& end) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  const Chains<T>& chains = arguments.chains;
  Array<T> unary({chains.batch, chains.steps, chains.num_tags}),
      counts({chains.batch, chains.num_tags, chains.num_tags});
  T *unary_out = unary.mutable_data(), *counts_out = counts.mutable_data();
  {
    const ReleasedGil released;
    Marginals<T>(chains, unary_out, counts_out, kDefaultNumThreads);
  }
  return py::make_tuple(unary, counts);
}

template <typename T>
py::tuple Viterbi(const Array<T>& emissions, const Array<T>& transitions,
                  const Array<int32_t>& lengths, const py::object& mask, const Array<T>& start,
                  const Array<T>& end) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  const Chains<T>& chains = arguments.chains;
  Array<int32_t> tags({chains.batch, chains.steps});
  Array<T> score(chains.batch);
  int32_t* tags_out = tags.mutable_data();
  T* score_out = score.mutable_data();
  {
    const ReleasedGil released;
    Viterbi<T>(chains, tags_out, score_out, kDefaultNumThreads);
  }
  return py::make_tuple(tags, score);
}

template <typename T>
py::tuple KBest(const Array<T>& emissions, const Array<T>& transitions,
                const Array<int32_t>& lengths, const py::object& mask, const Array<T>& start,
                const Array<T>& end, int64_t k) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  const Chains<T>& chains = arguments.chains;
  Array<int32_t> tags({chains.batch, k, chains.steps});
  Array<T> scores({chains.batch, k});
  int32_t* tags_out = tags.mutable_data();
  T* scores_out = scores.mutable_data();
  {
    const ReleasedGil released;
    KBest<T>(chains, k, tags_out, scores_out, kDefaultNumThreads);
  }
  return py::make_tuple(tags, scores);
}

template <typename T>
Array<int32_t> Sample(const Array<T>& emissions, const Array<T>& transitions,
                      const Array<int32_t>& lengths, const py::object& mask, const Array<T>& start,
                      const Array<T>& end, const Array<T>& uniforms) {
  const Arguments<T> arguments(emissions, transitions, lengths, mask, start, end);
  const int64_t num_samples = uniforms.shape(0);
  Array<int32_t> tags({num_samples, arguments.chains.batch, arguments.chains.steps});
  const T* numbers = uniforms.data();
  int32_t* tags_out = tags.mutable_data();
  const ReleasedGil released;
  Sample<T>(arguments.chains, num_samples, numbers, tags_out, kDefaultNumThreads);
  return tags;
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  module.def("crf_value", &Value<T>, py::arg("emissions").noconvert(), py::arg("tags").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("quantity"));
  module.def("crf_value_and_gradient", &ValueAndGradient<T>, py::arg("emissions").noconvert(),
             py::arg("tags").noconvert(), py::arg("transitions").noconvert(),
             py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("weights").noconvert(), py::arg("quantity"));
  module.def("crf_marginals", &Marginals<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert());
  module.def("crf_viterbi", &Viterbi<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert());
  module.def("crf_k_best", &KBest<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("k"));
  module.def("crf_sample", &Sample<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(), py::arg("mask"),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("uniforms").noconvert());
}

}  // namespace

void BindCrf(py::module_& module) {
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
