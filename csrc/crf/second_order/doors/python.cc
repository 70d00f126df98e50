// Second-order chains: NumPy in, NumPy out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "crf/doors/python_arrays.h"
#include "crf/second_order/second_order.h"
#include "doors/released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

// What every function begins with: the six arguments of a chain, and the triples.
#define FASTKERAS_SECOND_ORDER                                                        \
  const Array<T>&emissions, const Array<T>&transitions, const Array<int32_t>&lengths, \
      const Mask &mask, const Array<T>&start, const Array<T>&end, const Array<T>&triples

template <typename T>
SecondOrderChains<T> Checked(FASTKERAS_SECOND_ORDER) {
  return CheckedSecondOrder(ChainsOf(emissions, transitions, lengths, mask, start, end),
                            ArgumentOf("transitions", transitions), ArgumentOf("triples", triples));
}

template <typename T>
const int32_t* TagsOf(const SecondOrderChains<T>& given, const Array<int32_t>& tags,
                      Quantity quantity) {
  if (quantity == Quantity::kLogPartition) return nullptr;
  return CheckedTags(given.chains, ArgumentOf("tags", tags));
}

template <typename T>
int64_t SizeOfWorkspace(const Chains<T>& chains) {
  return SecondOrderWorkspaceSize(chains.batch, chains.steps, chains.num_tags);
}

template <typename T>
py::tuple ValueOf(FASTKERAS_SECOND_ORDER, const Array<int32_t>& tags, int64_t quantity,
                  bool keep_workspace, int num_threads) {
  const auto given = Checked(emissions, transitions, lengths, mask, start, end, triples);
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* const path = TagsOf(given, tags, asked);
  Array<T> value(given.chains.batch), workspace(keep_workspace ? SizeOfWorkspace(given.chains) : 0);
  T *const out = value.mutable_data(), *const kept = workspace.mutable_data();
  {
    const ReleasedGil released;
    SecondOrderValue<T>(given, path, asked, out, keep_workspace ? kept : nullptr, num_threads);
  }
  return py::make_tuple(value, workspace);
}

template <typename T>
py::tuple GradientOf(FASTKERAS_SECOND_ORDER, const Array<int32_t>& tags, const Array<T>& value,
                     const Array<T>& workspace, const Array<T>& weights, int64_t quantity,
                     int num_threads) {
  const auto given = Checked(emissions, transitions, lengths, mask, start, end, triples);
  const Chains<T>& chains = given.chains;
  const Quantity asked = CheckedQuantity(quantity);
  const int32_t* const path = TagsOf(given, tags, asked);
  const Argument<T> values = ArgumentOf("value", value), kept = ArgumentOf("workspace", workspace),
                    factors = ArgumentOf("weights", weights);
  ExpectShape("value", values.shape, {chains.batch});
  ExpectShape("workspace", kept.shape, {SizeOfWorkspace(chains)});
  ExpectShape("weights", factors.shape, {chains.batch});
  const int64_t num_tags = chains.num_tags;
  const GradientArrays<T> of_chain(chains);
  Array<T> of_triples({num_tags, num_tags, num_tags});
  const SecondOrderGradients<T> gradients = {of_chain.emissions_out, of_chain.transitions_out,
                                             of_triples.mutable_data(), of_chain.start_out,
                                             of_chain.end_out};
  {
    const ReleasedGil released;
    SecondOrderGradient<T>(given, path, asked, values.data, kept.data, factors.data, gradients,
                           num_threads);
  }
  return py::make_tuple(of_chain.emissions, of_chain.transitions, of_chain.start, of_chain.end,
                        of_triples);
}

template <typename T>
py::tuple Marginals(FASTKERAS_SECOND_ORDER, int num_threads) {
  const auto given = Checked(emissions, transitions, lengths, mask, start, end, triples);
  const Chains<T>& chains = given.chains;
  Array<T> unary({chains.batch, chains.steps, chains.num_tags}),
      counts({chains.batch, chains.num_tags, chains.num_tags});
  T *const unary_out = unary.mutable_data(), *const counts_out = counts.mutable_data();
  {
    const ReleasedGil released;
    SecondOrderMarginals<T>(given, unary_out, counts_out, num_threads);
  }
  return py::make_tuple(unary, counts);
}

template <typename T>
py::tuple Viterbi(FASTKERAS_SECOND_ORDER, int num_threads) {
  const auto given = Checked(emissions, transitions, lengths, mask, start, end, triples);
  Array<int32_t> tags({given.chains.batch, given.chains.steps});
  Array<T> score(given.chains.batch);
  int32_t* const tags_out = tags.mutable_data();
  T* const score_out = score.mutable_data();
  {
    const ReleasedGil released;
    SecondOrderViterbi<T>(given, tags_out, score_out, num_threads);
  }
  return py::make_tuple(tags, score);
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  const auto triples = py::arg("triples").noconvert(), tags = py::arg("tags").noconvert();
  BindChain(module, "second_order_value", &ValueOf<T>, triples, tags, py::arg("quantity"),
            py::arg("keep_workspace").noconvert());
  BindChain(module, "second_order_gradient", &GradientOf<T>, triples, tags,
            py::arg("value").noconvert(), py::arg("workspace").noconvert(),
            py::arg("weights").noconvert(), py::arg("quantity"));
  BindChain(module, "second_order_marginals", &Marginals<T>, triples);
  BindChain(module, "second_order_viterbi", &Viterbi<T>, triples);
}

}  // namespace

void BindSecondOrder(py::module_& module) {
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
