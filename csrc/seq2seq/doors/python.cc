// A step of a beam search: NumPy in, NumPy out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "doors/numpy_arrays.h"
#include "doors/released_gil.h"
#include "seq2seq/arguments.h"

namespace py = pybind11;

namespace fastkeras::seq2seq {
namespace {

template <typename T>
py::tuple SelectArrays(const Array<T>& logits, const Array<T>& scores,
                       const std::optional<Array<int32_t>>& history,
                       const std::optional<Array<bool>>& allowed, double repetition_penalty,
                       int64_t no_repeat_ngram, int64_t num_candidates) {
  const auto history_argument = ArgumentIfAny("history", history);
  const auto allowed_argument = ArgumentIfAny("allowed", allowed);
  const Step<T> step = CheckedStep<T>(ArgumentOf("logits", logits), ArgumentOf("scores", scores),
                                      PointerTo(history_argument), PointerTo(allowed_argument),
                                      repetition_penalty, no_repeat_ngram);
  const int64_t number = CheckedNumCandidates(num_candidates);
  Array<T> best({step.batch, number});
  Array<int32_t> tokens({step.batch, number}), parents({step.batch, number});
  const Candidates<T> candidates = {number, best.mutable_data(), tokens.mutable_data(),
                                    parents.mutable_data()};
  {
    const ReleasedGil released;
    Select(step, candidates, kDefaultNumThreads);
  }
  return py::make_tuple(best, tokens, parents);
}

template <typename T>
void Bind(py::module_& module) {  // float and double are overloads, told apart by the arrays
  module.def("seq2seq_select", &SelectArrays<T>, py::arg("logits").noconvert(),
             py::arg("scores").noconvert(), py::arg("history").noconvert().none(true),
             py::arg("allowed").noconvert().none(true), py::arg("repetition_penalty"),
             py::arg("no_repeat_ngram"), py::arg("num_candidates"));
}

}  // namespace

void BindSeq2Seq(py::module_& module) {
  Bind<float>(module);
  Bind<double>(module);
}

}  // namespace fastkeras::seq2seq
