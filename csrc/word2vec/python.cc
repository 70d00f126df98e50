// NumPy in, two matrices updated in place; the arguments are checked by fastkeras.word2vec.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <tuple>

#include "released_gil.h"
#include "word2vec/word2vec.h"

namespace py = pybind11;

namespace fastkeras::word2vec {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
const T* DataOrNull(const Array<T>& array) {
  return array.size() > 0 ? array.data() : nullptr;
}

std::tuple<double, int64_t, int64_t> TrainArrays(
    const Array<int32_t>& ids, int64_t begin, int64_t end, Array<float> input, Array<float> output,
    const Array<uint32_t>& keep, const Array<uint32_t>& noise, const Array<float>& logit_offsets,
    const Array<int64_t>& path_starts, const Array<int32_t>& path_nodes,
    const Array<float>& path_signs, const Array<int64_t>& bag_starts,
    const Array<int32_t>& bag_rows, int longest_path, int longest_bag, int objective, int loss,
    bool shared_negatives, bool exact_cbow, bool exact_subwords, bool shrink_windows, int window,
    int negative, uint64_t key, double learning_rate, double learning_rate_slope, int num_threads,
    bool deterministic) {
  Problem problem;
  problem.settings = {static_cast<Objective>(objective),
                      static_cast<Loss>(loss),
                      shared_negatives,
                      exact_cbow,
                      exact_subwords,
                      shrink_windows,
                      window,
                      negative,
                      key,
                      learning_rate,
                      learning_rate_slope};
  problem.tables = {keep.data(),
                    DataOrNull(noise),
                    DataOrNull(logit_offsets),
                    DataOrNull(path_starts),
                    DataOrNull(path_nodes),
                    DataOrNull(path_signs),
                    DataOrNull(bag_starts),
                    DataOrNull(bag_rows),
                    keep.size(),
                    longest_path,
                    longest_bag};
  problem.model = {input.mutable_data(), output.mutable_data(), input.shape(1), input.shape(0),
                   output.shape(0)};
  problem.corpus = {ids.data(), ids.size()};
  const ReleasedGil released;
  const Tally tally = Train(problem, begin, end, num_threads, deterministic);
  return {tally.loss, tally.predictions, tally.words};
}

}  // namespace

void BindWord2Vec(py::module_& module) {
  module.def("word2vec_train", &TrainArrays, py::arg("ids"), py::arg("begin"), py::arg("end"),
             py::arg("input"), py::arg("output"), py::arg("keep"), py::arg("noise"),
             py::arg("logit_offsets"), py::arg("path_starts"), py::arg("path_nodes"),
             py::arg("path_signs"), py::arg("bag_starts"), py::arg("bag_rows"),
             py::arg("longest_path"), py::arg("longest_bag"), py::arg("objective"), py::arg("loss"),
             py::arg("shared_negatives"), py::arg("exact_cbow"), py::arg("exact_subwords"),
             py::arg("shrink_windows"), py::arg("window"), py::arg("negative"), py::arg("key"),
             py::arg("learning_rate"), py::arg("learning_rate_slope"), py::arg("num_threads"),
             py::arg("deterministic"));
}

}  // namespace fastkeras::word2vec
