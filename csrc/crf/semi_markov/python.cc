// Semi-Markov chains: NumPy in, NumPy out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "crf/doors/python_arrays.h"
#include "crf/semi_markov/semi_markov.h"
#include "doors/released_gil.h"

namespace py = pybind11;

namespace fastkeras::crf {
namespace {

template <typename T>
SemiChains<T> SemiChainsOf(const Array<T>& emissions, const Array<T>& transitions,
                           const Array<T>& durations, const Array<int32_t>& lengths,
                           const Array<T>& start, const Array<T>& end) {
  return CheckedSemiChains<T>(
      ArgumentOf("emissions", emissions), ArgumentOf("transitions", transitions),
      ArgumentOf("durations", durations), ArgumentOf("lengths", lengths),
      ArgumentOf("start_transitions", start), ArgumentOf("end_transitions", end));
}

template <typename T>
Array<T> LogPartition(const Array<T>& emissions, const Array<T>& transitions,
                      const Array<T>& durations, const Array<int32_t>& lengths,
                      const Array<T>& start, const Array<T>& end, int num_threads) {
  const auto chains = SemiChainsOf(emissions, transitions, durations, lengths, start, end);
  Array<T> value(chains.batch);
  T* out = value.mutable_data();
  const ReleasedGil released;
  SemiLogPartition(chains, out, num_threads);
  return value;
}

template <typename T>
py::tuple Marginals(const Array<T>& emissions, const Array<T>& transitions,
                    const Array<T>& durations, const Array<int32_t>& lengths, const Array<T>& start,
                    const Array<T>& end, int num_threads) {
  const auto chains = SemiChainsOf(emissions, transitions, durations, lengths, start, end);
  Array<T> unary({chains.batch, chains.steps, chains.num_tags}),
      segments({chains.batch, chains.steps, chains.max_length, chains.num_tags}),
      counts({chains.batch, chains.num_tags, chains.num_tags});
  T *unary_out = unary.mutable_data(), *segments_out = segments.mutable_data(),
    *counts_out = counts.mutable_data();
  {
    const ReleasedGil released;
    SemiMarginals(chains, unary_out, segments_out, counts_out, num_threads);
  }
  return py::make_tuple(unary, segments, counts);
}

template <typename T>
py::tuple Viterbi(const Array<T>& emissions, const Array<T>& transitions, const Array<T>& durations,
                  const Array<int32_t>& lengths, const Array<T>& start, const Array<T>& end,
                  int num_threads) {
  const auto chains = SemiChainsOf(emissions, transitions, durations, lengths, start, end);
  Array<int32_t> tags({chains.batch, chains.steps});
  Array<bool> begins({chains.batch, chains.steps});
  Array<T> score(chains.batch);
  int32_t* tags_out = tags.mutable_data();
  bool* begins_out = begins.mutable_data();
  T* score_out = score.mutable_data();
  {
    const ReleasedGil released;
    SemiViterbi(chains, tags_out, begins_out, score_out, num_threads);
  }
  return py::make_tuple(tags, begins, score);
}

template <typename Function>
void Bind(py::module_& module, const char* name, Function function) {
  module.def(name, function, py::arg("emissions").noconvert(), py::arg("transitions").noconvert(),
             py::arg("durations").noconvert(), py::arg("lengths").noconvert(),
             py::arg("start_transitions").noconvert(), py::arg("end_transitions").noconvert(),
             py::arg("num_threads") = kDefaultNumThreads);
}

template <typename T>
void BindOf(py::module_& module) {  // float and double are overloads, told apart by the arrays
  Bind(module, "semi_markov_log_partition", &LogPartition<T>);
  Bind(module, "semi_markov_marginals", &Marginals<T>);
  Bind(module, "semi_markov_viterbi", &Viterbi<T>);
}

}  // namespace

void BindSemiMarkov(py::module_& module) {
  BindOf<float>(module);
  BindOf<double>(module);
}

}  // namespace fastkeras::crf
