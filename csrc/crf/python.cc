// NumPy in, NumPy out. What is not as the kernels want it is refused here (arguments.h).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "crf/crf.h"
#include "crf/python_arrays.h"
#include "memory.h"
#include "released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

using Mask = std::optional<Array<bool>>;

template <typename T>
Array<T> Value(const Array<T>& emissions, const Array<int32_t>& tags, const Array<T>& transitions,
               const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
               const Array<T>& end, int64_t quantity) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const bool reads_tags = asked != Quantity::kLogPartition;
  const int32_t* path = reads_tags ? CheckedTags(chains, ArgumentOf("tags", tags)) : nullptr;
  Array<T> value(chains.batch);
  T* out = value.mutable_data();
  const ReleasedGil released;
  Value<T>(chains, path, asked, out, nullptr, kDefaultNumThreads);
  return value;
}

template <typename T>
py::tuple ValueAndGradient(const Array<T>& emissions, const Array<int32_t>& tags,
                           const Array<T>& transitions, const Array<int32_t>& lengths,
                           const Mask& mask, const Array<T>& start, const Array<T>& end,
                           const Array<T>& weights, int64_t quantity) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const bool reads_tags = asked != Quantity::kLogPartition;
  const int32_t* path = reads_tags ? CheckedTags(chains, ArgumentOf("tags", tags)) : nullptr;
  const Argument<T> factors = ArgumentOf("weights", weights);
  ExpectShape("weights", factors.shape, {chains.batch});
  Array<T> value(chains.batch), d_emissions({chains.batch, chains.steps, chains.num_tags}),
      d_transitions({chains.num_tags, chains.num_tags}), d_start(chains.num_tags),
      d_end(chains.num_tags);
  T *out = value.mutable_data(), *emission_out = d_emissions.mutable_data(),
    *transition_out = d_transitions.mutable_data(), *start_out = d_start.mutable_data(),
    *end_out = d_end.mutable_data();
  {
    const ReleasedGil released;
    const Buffer<T> workspace(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
    Value<T>(chains, path, asked, out, workspace.data, kDefaultNumThreads);
    Gradient<T>(chains, path, asked, out, workspace.data, factors.data, emission_out,
                transition_out, start_out, end_out, kDefaultNumThreads);
  }
  return py::make_tuple(value, d_emissions, d_transitions, d_start, d_end);
}

template <typename T>
py::tuple Marginals(const Array<T>& emissions, const Array<T>& transitions,
                    const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                    const Array<T>& end) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
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
                  const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                  const Array<T>& end) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
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
                const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                const Array<T>& end, int64_t k) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  Array<int32_t> tags({chains.batch, CheckedK(k), chains.steps});
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
                      const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                      const Array<T>& end, const Array<T>& uniforms) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Argument<T> numbers = ArgumentOf("uniforms", uniforms);
  const int64_t num_samples = CheckedNumSamples(numbers.shape, chains.batch, chains.steps);
  Array<int32_t> tags({num_samples, chains.batch, chains.steps});
  int32_t* tags_out = tags.mutable_data();
  const ReleasedGil released;
  Sample<T>(chains, num_samples, numbers.data, tags_out, kDefaultNumThreads);
  return tags;
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  module.def("crf_value", &Value<T>, py::arg("emissions").noconvert(), py::arg("tags").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert(), py::arg("quantity"));
  module.def("crf_value_and_gradient", &ValueAndGradient<T>, py::arg("emissions").noconvert(),
             py::arg("tags").noconvert(), py::arg("transitions").noconvert(),
             py::arg("lengths").noconvert(), py::arg("mask").noconvert(),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("weights").noconvert(), py::arg("quantity"));
  module.def("crf_marginals", &Marginals<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert());
  module.def("crf_viterbi", &Viterbi<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert());
  module.def("crf_k_best", &KBest<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert(), py::arg("k"));
  module.def("crf_sample", &Sample<T>, py::arg("emissions").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert(), py::arg("uniforms").noconvert());
}

}  // namespace

void BindCrf(py::module_& module) {
  py::list quantities;
  for (const char* name : kQuantities) quantities.append(name);
  module.attr("CRF_QUANTITIES") = py::tuple(quantities);
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
