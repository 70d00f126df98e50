// Likelihoods whose steps have weights, and the entropy: NumPy in, NumPy out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "crf/doors/python_arrays.h"
#include "crf/entropy.h"
#include "crf/weighted.h"
#include "doors/released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

// The value, its terms without their weights, and the workspace, which is empty if not kept.
template <typename T>
py::tuple WeightedValueOf(const Array<T>& emissions, const Array<T>& transitions,
                          const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                          const Array<T>& end, const Array<int32_t>& tags, const Array<T>& weights,
                          bool keep_workspace, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const int32_t* path = CheckedTags(chains, ArgumentOf("tags", tags));
  const Argument<T> of_steps = ArgumentOf("weights", weights);
  ExpectShape("weights", of_steps.shape, {chains.batch, chains.steps});
  Array<T> value(chains.batch), log_p({chains.batch, chains.steps});
  Array<T> workspace = Uninitialised<T>(
      {keep_workspace ? WeightedWorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags) : 0});
  T *out = value.mutable_data(), *log_p_out = log_p.mutable_data();
  T* kept = keep_workspace ? workspace.mutable_data() : nullptr;
  {
    const ReleasedGil released;
    WeightedValue<T>(chains, path, of_steps.data, out, log_p_out, kept, num_threads);
  }
  return py::make_tuple(value, log_p, workspace);
}

template <typename T>
py::tuple WeightedGradientOf(const Array<T>& emissions, const Array<T>& transitions,
                             const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                             const Array<T>& end, const Array<int32_t>& tags,
                             const Array<T>& weights, const Array<T>& value,
                             const Array<T>& workspace, const Array<T>& factors, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const int32_t* path = CheckedTags(chains, ArgumentOf("tags", tags));
  const Argument<T> of_steps = ArgumentOf("weights", weights), values = ArgumentOf("value", value),
                    kept = ArgumentOf("workspace", workspace),
                    of_sequences = ArgumentOf("factors", factors);
  ExpectShape("weights", of_steps.shape, {chains.batch, chains.steps});
  ExpectShape("value", values.shape, {chains.batch});
  ExpectShape("workspace", kept.shape,
              {WeightedWorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags)});
  ExpectShape("factors", of_sequences.shape, {chains.batch});
  const GradientArrays<T> gradients(chains);
  {
    const ReleasedGil released;
    WeightedGradient<T>(chains, path, of_steps.data, values.data, kept.data, of_sequences.data,
                        gradients.emissions_out, gradients.transitions_out, gradients.start_out,
                        gradients.end_out, num_threads);
  }
  return gradients.all();
}

// The entropy, and the workspace, which is empty if not kept.
template <typename T>
py::tuple EntropyOf(const Array<T>& emissions, const Array<T>& transitions,
                    const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                    const Array<T>& end, bool keep_workspace, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  Array<T> value(chains.batch);
  Array<T> workspace = Uninitialised<T>(
      {keep_workspace ? EntropyWorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags) : 0});
  T* out = value.mutable_data();
  T* kept = keep_workspace ? workspace.mutable_data() : nullptr;
  {
    const ReleasedGil released;
    Entropy<T>(chains, out, kept, num_threads);
  }
  return py::make_tuple(value, workspace);
}

template <typename T>
py::tuple EntropyGradientOf(const Array<T>& emissions, const Array<T>& transitions,
                            const Array<int32_t>& lengths, const Mask& mask, const Array<T>& start,
                            const Array<T>& end, const Array<T>& value, const Array<T>& workspace,
                            const Array<T>& weights, int num_threads) {
  const Chains<T> chains = ChainsOf(emissions, transitions, lengths, mask, start, end);
  const Argument<T> values = ArgumentOf("value", value), kept = ArgumentOf("workspace", workspace),
                    factors = ArgumentOf("weights", weights);
  ExpectShape("value", values.shape, {chains.batch});
  ExpectShape("workspace", kept.shape,
              {EntropyWorkspaceSize<T>(chains.batch, chains.steps, chains.num_tags)});
  ExpectShape("weights", factors.shape, {chains.batch});
  const GradientArrays<T> gradients(chains);
  {
    const ReleasedGil released;
    EntropyGradient<T>(chains, values.data, kept.data, factors.data, gradients.emissions_out,
                       gradients.transitions_out, gradients.start_out, gradients.end_out,
                       num_threads);
  }
  return gradients.all();
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  const auto path = py::arg("tags").noconvert(), weights = py::arg("weights").noconvert();
  const auto value = py::arg("value").noconvert(), workspace = py::arg("workspace").noconvert();
  BindChain(module, "crf_weighted_value", &WeightedValueOf<T>, path, weights,
            py::arg("keep_workspace"));
  BindChain(module, "crf_weighted_gradient", &WeightedGradientOf<T>, path, weights, value,
            workspace, py::arg("factors").noconvert());
  BindChain(module, "crf_entropy", &EntropyOf<T>, py::arg("keep_workspace"));
  BindChain(module, "crf_entropy_gradient", &EntropyGradientOf<T>, value, workspace, weights);
}

}  // namespace

void BindWeighted(py::module_& module) {
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
