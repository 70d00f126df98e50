// Searches and files of vectors, for NumPy.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <string_view>

#include "doors/released_gil.h"
#include "word2vec/doors/python_arrays.h"
#include "word2vec/vectors/keep_best.h"
#include "word2vec/vectors/rows.h"

namespace py = pybind11;

namespace fastkeras::word2vec {
namespace {

template <typename T>
void KeepBestArrays(const py::object& scores_, const py::object& scales_, int64_t first_row,
                    const py::object& best_, const py::object& best_rows_) {
  const auto scores = Checked<T>("scores", scores_, 2);
  const auto scales = Checked<T>("scales", scales_, 1);
  auto best = Checked<T>("best", best_, 2);
  auto best_rows = Checked<int64_t>("best_rows", best_rows_, 2);
  const int64_t queries = scores.shape(0), columns = scores.shape(1), topn = best.shape(1);
  ExpectSize("scales", scales.size(), columns);
  ExpectSize("best", best.shape(0), queries);
  ExpectSize("best_rows", best_rows.shape(0), queries);
  if (topn < 1 || best_rows.shape(1) != topn) {
    Refuse("best and best_rows must have the same columns, at least 1, got ", topn, " and ",
           best_rows.shape(1));
  }
  if (!best.writeable() || !best_rows.writeable()) Refuse("best and best_rows must be writable");
  if (first_row < 0 || first_row > std::numeric_limits<int64_t>::max() - columns) {
    Refuse("first_row must be at least 0, got ", first_row);
  }
  T* const to_best = best.mutable_data();
  int64_t* const to_rows = best_rows.mutable_data();
  const ReleasedGil released;
  KeepBest(scores.data(), scales.data(), queries, columns, first_row, topn, to_best, to_rows);
}

void KeepBestOfEither(const py::object& scores, const py::object& scales, int64_t first_row,
                      const py::object& best, const py::object& best_rows) {
  const bool is_double = py::isinstance<py::array_t<double>>(scores);
  (is_double ? KeepBestArrays<double> : KeepBestArrays<float>)(scores, scales, first_row, best,
                                                               best_rows);
}

// (words as bytes, number of rows, bytes read, the rows left: (n, 3))
py::tuple Result(const ReadRows& read) {
  const py::ssize_t others = static_cast<py::ssize_t>(read.others.size() / 3);
  py::array_t<int64_t> left({others, py::ssize_t{3}});
  std::copy(read.others.begin(), read.others.end(), left.mutable_data());
  return py::make_tuple(py::bytes(read.words), read.rows, read.bytes, left);
}

py::tuple ReadRowsInto(const py::bytes& block, const py::object& rows_, bool is_text,
                       int64_t longest_word, int64_t num_threads) {
  const std::string_view text = block;
  auto rows = Checked<float>("rows", rows_, 2);
  if (!rows.writeable()) Refuse("rows must be writable");
  if (rows.shape(1) < 1) Refuse("rows must have a column at least");
  if (num_threads < 0 || num_threads > std::numeric_limits<int>::max()) {
    Refuse("num_threads must be an int of at least 0, got ", num_threads);
  }
  if (longest_word < 0) Refuse("longest_word must be at least 0, got ", longest_word);
  const int64_t size = static_cast<int64_t>(text.size()), columns = rows.shape(1);
  float* const to = rows.mutable_data();
  ReadRows read;
  {
    const ReleasedGil released;
    read = is_text ? ReadTextRows(text.data(), size, columns, rows.shape(0), to,
                                  static_cast<int>(num_threads))
                   : ReadBinaryRows(text.data(), size, columns, rows.shape(0), longest_word, to);
  }
  return Result(read);
}

}  // namespace

void BindVectors(py::module_& module) {
  module.def("word2vec_keep_best", &KeepBestOfEither, py::arg("scores"), py::arg("scales"),
             py::arg("first_row"), py::arg("best"), py::arg("best_rows"));
  module.def("word2vec_read_rows", &ReadRowsInto, py::arg("block"), py::arg("rows"),
             py::arg("is_text"), py::arg("longest_word"), py::arg("num_threads") = 0);
}

}  // namespace fastkeras::word2vec
