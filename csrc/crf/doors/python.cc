// NumPy in, NumPy out. Arguments that do not fit the kernels are refused here (arguments.h).

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <numeric>

#include "crf/crf.h"
#include "crf/doors/python_arrays.h"
#include "crf/entropy.h"
#include "crf/weighted.h"
#include "doors/released_gil.h"
#include "machine/memory.h"

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
Array<T> Uninitialised(const Shape& shape) {
  const int64_t size =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  auto buffer = std::make_unique<Buffer<T>>(size);
  T* const data = buffer->data;
  const py::capsule owner(buffer.get(), [](void* b) { delete static_cast<Buffer<T>*>(b); });
  buffer.release();
  return Array<T>(shape, data, owner);
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

// An array of the shape of the transitions.
template <typename T>
Array<T> OfTransitions(const Chains<T>& chains) {
  const int64_t num_tags = chains.num_tags;
  if (!chains.varies) return Array<T>({num_tags, num_tags});
  return Uninitialised<T>(
      {chains.batch, std::max<int64_t>(chains.steps - 1, 0), num_tags, num_tags});
}

// The arrays that `Gradient` writes.
template <typename T>
struct Gradients {
  explicit Gradients(const Chains<T>& chains)
      : emissions({chains.batch, chains.steps, chains.num_tags}),
        transitions(OfTransitions(chains)),
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
    ValueAndGradient<T>(chains, path, asked, out, factors.data, gradients.emissions_out,
                        gradients.transitions_out, gradients.start_out, gradients.end_out,
                        num_threads);
  }
  return py::make_tuple(value, gradients.emissions, gradients.transitions, gradients.start,
                        gradients.end);
}

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
  const Gradients<T> gradients(chains);
  {
    const ReleasedGil released;
    WeightedGradient<T>(chains, path, of_steps.data, values.data, kept.data, of_sequences.data,
                        gradients.emissions_out, gradients.transitions_out, gradients.start_out,
                        gradients.end_out, num_threads);
  }
  return py::make_tuple(gradients.emissions, gradients.transitions, gradients.start, gradients.end);
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
  const Gradients<T> gradients(chains);
  {
    const ReleasedGil released;
    EntropyGradient<T>(chains, values.data, kept.data, factors.data, gradients.emissions_out,
                       gradients.transitions_out, gradients.start_out, gradients.end_out,
                       num_threads);
  }
  return py::make_tuple(gradients.emissions, gradients.transitions, gradients.start, gradients.end);
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

// Arrays as users have them most often, in the form in which the kernels take them. What has to be
// converted, or refused with a message, is left to Python.

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
  const auto path = py::arg("tags").noconvert();
  Bind(module, "crf_weighted_value", &WeightedValueOf<T>, path, weights, py::arg("keep_workspace"));
  Bind(module, "crf_weighted_gradient", &WeightedGradientOf<T>, path, weights,
       py::arg("value").noconvert(), py::arg("workspace").noconvert(),
       py::arg("factors").noconvert());
  Bind(module, "crf_entropy", &EntropyOf<T>, py::arg("keep_workspace"));
  Bind(module, "crf_entropy_gradient", &EntropyGradientOf<T>, py::arg("value").noconvert(),
       py::arg("workspace").noconvert(), weights);
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
  module.def("crf_ready_chain", &ReadyChain, py::arg("emissions"), py::arg("transitions"),
             py::arg("lengths"), py::arg("mask"), py::arg("start_transitions"),
             py::arg("end_transitions"));
  module.def("crf_ready_tags", &ReadyTags, py::arg("tags"), py::arg("batch"), py::arg("steps"),
             py::arg("num_tags"), py::arg("lengths").noconvert(), py::arg("mask").noconvert());
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
