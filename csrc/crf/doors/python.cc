// NumPy in, NumPy out. Arguments that do not fit the kernels are refused here (arguments.h).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "crf/crf.h"
#include "crf/doors/python_arrays.h"
#include "doors/released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

template <typename T>
const int32_t* TagsOf(const Chains<T>& chains, const Array<int32_t>& tags, Quantity quantity) {
  const bool reads_tags = quantity != Quantity::kLogPartition;
  return reads_tags ? CheckedTags(chains, ArgumentOf("tags", tags)) : nullptr;
}

template <typename T>
Array<T> Value(const Array<T>& emissions, const Array<int32_t>& tags, const Array<T>& transitions,
               const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
               const Array<T>& end, int64_t quantity, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* path = TagsOf(chains, tags, asked);
  Array<T> value(chains.batch);
  T* out = value.mutable_data();
  const ReleasedGil released;
  Value<T>(chains, path, asked, out, nullptr, num_threads);
  return value;
}

template <typename T>
py::tuple ValueAndWorkspace(const Array<T>& emissions, const Array<int32_t>& tags,
                            const Array<T>& transitions, const Array<int32_t>& lengths,
                            const Mask& mask, const Array<T>& start, const Array<T>& end,
                            int64_t quantity, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* path = TagsOf(chains, tags, asked);
  Array<T> value(chains.batch);
  Array<T> workspace =
      Uninitialised<T>({WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags)});
  T *out = value.mutable_data(), *kept = workspace.mutable_data();
  {
    const ReleasedGil released;
    Value<T>(chains, path, asked, out, kept, num_threads);
  }
  return py::make_tuple(value, workspace);
}

template <typename T>
py::tuple GradientOf(const Array<T>& emissions, const Array<int32_t>& tags,
                     const Array<T>& transitions, const Array<int32_t>& lengths, const Mask& mask,
                     const Array<T>& start, const Array<T>& end, const Array<T>& value,
                     const Array<T>& workspace, const Array<T>& weights, int64_t quantity,
                     int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* path = TagsOf(chains, tags, asked);
  const Argument<T> values = ArgumentOf("value", value), kept = ArgumentOf("workspace", workspace),
                    factors = ArgumentOf("weights", weights);
  ExpectShape("value", values.shape, {chains.batch});
  ExpectShape("workspace", kept.shape,
              {WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags)});
  ExpectShape("weights", factors.shape, {chains.batch});
  const GradientArrays<T> gradients(chains);
  {
    const ReleasedGil released;
    Gradient<T>(chains, path, asked, values.data, kept.data, factors.data, gradients.emissions_out,
                gradients.transitions_out, gradients.start_out, gradients.end_out, num_threads);
  }
  return gradients.all();
}

template <typename T>
py::tuple ValueAndGradient(const Array<T>& emissions, const Array<int32_t>& tags,
                           const Array<T>& transitions, const Array<int32_t>& lengths,
                           const Mask& mask, const Array<T>& start, const Array<T>& end,
                           const Array<T>& weights, int64_t quantity, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* path = TagsOf(chains, tags, asked);
  const Argument<T> factors = ArgumentOf("weights", weights);
  ExpectShape("weights", factors.shape, {chains.batch});
  Array<T> value(chains.batch);
  const GradientArrays<T> gradients(chains);
  T* out = value.mutable_data();
  {
    const ReleasedGil released;
    ValueAndGradient<T>(chains, path, asked, out, factors.data, gradients.emissions_out,
                        gradients.transitions_out, gradients.start_out, gradients.end_out,
                        num_threads);
  }
  return py::make_tuple(value, gradients.emissions, gradients.transitions, gradients.start,
                        gradients.end);
}

template <typename T>
py::tuple Marginals(const Array<T>& emissions, const Array<T>& transitions,
                    const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                    const Array<T>& end, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  Array<T> unary({chains.batch, chains.steps, chains.num_tags}),
      counts(chains.varies ? OfTransitions(chains)
                           : Array<T>({chains.batch, chains.num_tags, chains.num_tags}));
  T *unary_out = unary.mutable_data(), *counts_out = counts.mutable_data();
  {
    const ReleasedGil released;
    Marginals<T>(chains, unary_out, counts_out, num_threads);
  }
  return py::make_tuple(unary, counts);
}

template <typename T>
py::tuple Viterbi(const Array<T>& emissions, const Array<T>& transitions,
                  const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                  const Array<T>& end, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  Array<int32_t> tags({chains.batch, chains.steps});
  Array<T> score(chains.batch);
  int32_t* tags_out = tags.mutable_data();
  T* score_out = score.mutable_data();
  {
    const ReleasedGil released;
    Viterbi<T>(chains, tags_out, score_out, num_threads);
  }
  return py::make_tuple(tags, score);
}

template <typename T>
py::tuple KBest(const Array<T>& emissions, const Array<T>& transitions,
                const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                const Array<T>& end, int64_t k, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  Array<int32_t> tags({chains.batch, CheckedK(k), chains.steps});
  Array<T> scores({chains.batch, k});
  int32_t* tags_out = tags.mutable_data();
  T* scores_out = scores.mutable_data();
  {
    const ReleasedGil released;
    KBest<T>(chains, k, tags_out, scores_out, num_threads);
  }
  return py::make_tuple(tags, scores);
}

template <typename T>
Array<int32_t> Sample(const Array<T>& emissions, const Array<T>& transitions,
                      const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                      const Array<T>& end, const Array<T>& uniforms, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Argument<T> numbers = ArgumentOf("uniforms", uniforms);
  const int64_t num_samples = CheckedNumSamples(numbers.shape, chains.batch, chains.steps);
  Array<int32_t> tags({num_samples, chains.batch, chains.steps});
  int32_t* tags_out = tags.mutable_data();
  const ReleasedGil released;
  Sample<T>(chains, num_samples, numbers.data, tags_out, num_threads);
  return tags;
}

template <typename Function, typename... More>
void BindWithTags(py::module_& module, const char* name, Function function, const More&... more) {
  module.def(name, function, py::arg("emissions").noconvert(), py::arg("tags").noconvert(),
             py::arg("transitions").noconvert(), py::arg("lengths").noconvert(),
             py::arg("mask").noconvert(), py::arg("start_transitions").noconvert(),
             py::arg("end_transitions").noconvert(), more..., py::arg("quantity"),
             py::arg("num_threads") = kDefaultNumThreads);
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  const auto weights = py::arg("weights").noconvert();
  BindWithTags(module, "crf_value", &Value<T>);
  BindWithTags(module, "crf_value_and_workspace", &ValueAndWorkspace<T>);
  BindWithTags(module, "crf_gradient", &GradientOf<T>, py::arg("value").noconvert(),
               py::arg("workspace").noconvert(), weights);
  BindWithTags(module, "crf_value_and_gradient", &ValueAndGradient<T>, weights);
  BindChain(module, "crf_marginals", &Marginals<T>);
  BindChain(module, "crf_viterbi", &Viterbi<T>);
  BindChain(module, "crf_k_best", &KBest<T>, py::arg("k"));
  BindChain(module, "crf_sample", &Sample<T>, py::arg("uniforms").noconvert());
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
