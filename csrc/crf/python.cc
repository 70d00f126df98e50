// NumPy in, NumPy out. Arguments that do not fit the kernels are refused here (arguments.h).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "crf/crf.h"
#include "crf/python_arrays.h"
#include "memory.h"
#include "released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

using Mask = std::optional<Array<bool>>;

template <typename T>
const int32_t* TagsOf(const Chains<T>& chains, const Array<int32_t>& tags, Quantity quantity) {
  const bool reads_tags = quantity != Quantity::kLogPartition;
  return reads_tags ? CheckedTags(chains, ArgumentOf("tags", tags)) : nullptr;
}

// An array of memory that was not read or written yet (memory.h).
template <typename T>
Array<T> Uninitialised(int64_t size) {
  auto buffer = std::make_unique<Buffer<T>>(size);
  T* const data = buffer->data;
  const py::capsule owner(buffer.get(), [](void* b) { delete static_cast<Buffer<T>*>(b); });
  buffer.release();
  return Array<T>(size, data, owner);
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
      Uninitialised<T>(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
  T *out = value.mutable_data(), *kept = workspace.mutable_data();
  {
    const ReleasedGil released;
    Value<T>(chains, path, asked, out, kept, num_threads);
  }
  return py::make_tuple(value, workspace);
}

// The arrays that `Gradient` writes.
template <typename T>
struct Gradients {
  explicit Gradients(const Chains<T>& chains)
      : emissions({chains.batch, chains.steps, chains.num_tags}),
        transitions({chains.num_tags, chains.num_tags}),
        start(chains.num_tags),
        end(chains.num_tags),
        emissions_out(emissions.mutable_data()),
        transitions_out(transitions.mutable_data()),
        start_out(start.mutable_data()),
        end_out(end.mutable_data()) {}

  void Compute(const Chains<T>& chains, const int32_t* tags, Quantity quantity, const T* value,
               const T* workspace, const T* weights, int num_threads) const {
    Gradient<T>(chains, tags, quantity, value, workspace, weights, emissions_out, transitions_out,
                start_out, end_out, num_threads);
  }

  Array<T> emissions, transitions, start, end;
  T *emissions_out, *transitions_out, *start_out, *end_out;
};

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
  const Gradients<T> gradients(chains);
  {
    const ReleasedGil released;
    gradients.Compute(chains, path, asked, values.data, kept.data, factors.data, num_threads);
  }
  return py::make_tuple(gradients.emissions, gradients.transitions, gradients.start, gradients.end);
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
  const Gradients<T> gradients(chains);
  T* out = value.mutable_data();
  {
    const ReleasedGil released;
    const Buffer<T> workspace(WorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags));
    Value<T>(chains, path, asked, out, workspace.data, num_threads);
    gradients.Compute(chains, path, asked, out, workspace.data, factors.data, num_threads);
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
      counts({chains.batch, chains.num_tags, chains.num_tags});
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

// Each begins with a chain, as arrays of the type that they have, and ends with a number of
// threads.
template <typename Function, typename... More>
void Bind(py::module_& module, const char* name, Function function, const More&... more) {
  module.def(name, function, py::arg("emissions").noconvert(), py::arg("transitions").noconvert(),
             py::arg("lengths").noconvert(), py::arg("mask").noconvert(),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             more..., py::arg("num_threads") = kDefaultNumThreads);
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
  Bind(module, "crf_marginals", &Marginals<T>);
  Bind(module, "crf_viterbi", &Viterbi<T>);
  Bind(module, "crf_k_best", &KBest<T>, py::arg("k"));
  Bind(module, "crf_sample", &Sample<T>, py::arg("uniforms").noconvert());
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
