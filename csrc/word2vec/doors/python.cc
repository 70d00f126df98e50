// NumPy arrays in, two matrices updated in place. Every number that a kernel uses as an address is
// checked here: the tables of a vocabulary once, the ids of a slice whenever it is trained.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "doors/released_gil.h"
#include "word2vec/doors/python_arrays.h"
#include "word2vec/word2vec.h"

namespace py = pybind11;

namespace fastkeras::word2vec {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

// The tables of a vocabulary, whose arrays it keeps.
class CheckedTables {
 public:
  CheckedTables(const py::object& keep, const py::object& noise, const py::object& logit_offsets,
                const py::object& path_starts, const py::object& path_nodes,
                const py::object& path_signs, const py::object& bag_starts,
                const py::object& bag_rows)
      : keep_(Checked<uint32_t>("keep", keep, 1)),
        noise_(Checked<uint32_t>("noise", noise, 2)),
        logit_offsets_(Checked<float>("logit_offsets", logit_offsets, 1)),
        path_starts_(Checked<int64_t>("path_starts", path_starts, 1)),
        path_nodes_(Checked<int32_t>("path_nodes", path_nodes, 1)),
        path_signs_(Checked<float>("path_signs", path_signs, 1)),
        bag_starts_(Checked<int64_t>("bag_starts", bag_starts, 1)),
        bag_rows_(Checked<int32_t>("bag_rows", bag_rows, 1)),
        has_noise(noise_.shape(0) > 0),
        has_offsets(logit_offsets_.size() > 0),
        has_paths(path_starts_.size() > 0) {
    const int64_t words = keep_.size();
    if (words < 1 || words > kLargest) Refuse("keep must have 1 to ", kLargest, " words");
    if (noise_.shape(1) != 2) Refuse("noise must have 2 columns, got ", noise_.shape(1));
    if (has_noise) ExpectSize("noise", noise_.shape(0), words);
    for (int64_t word = 0; word < noise_.shape(0); ++word) {
      if (noise_.data()[2 * word + 1] >= words) {
        Refuse("noise has the word ", noise_.data()[2 * word + 1], " at row ", word, ", of ",
               words);
      }
    }
    if (has_offsets) ExpectSize("logit_offsets", logit_offsets_.size(), words);
    const auto [path, node] = Lists("path", path_starts_, path_nodes_, 0);
    ExpectSize("path_signs", path_signs_.size(), path_nodes_.size());
    const auto [bag, row] = Lists("bag", bag_starts_, bag_rows_, 1);
    output_rows = has_paths ? node + 1 : 0;
    input_rows = std::max(words, row + 1);
    tables = {keep_.data(),
              DataOrNull(noise_),
              DataOrNull(logit_offsets_),
              DataOrNull(path_starts_),
              DataOrNull(path_nodes_),
              DataOrNull(path_signs_),
              DataOrNull(bag_starts_),
              DataOrNull(bag_rows_),
              words,
              static_cast<int>(path),
              static_cast<int>(bag)};
  }

 private:
  template <typename T>
  static const T* DataOrNull(const py::array_t<T>& array) {
    return array.size() > 0 ? array.data() : nullptr;
  }

  // Checks the lists of all words, one after the other; returns the longest one's length and the
  // largest entry.
  std::pair<int64_t, int64_t> Lists(const char* name, const py::array_t<int64_t>& starts,
                                    const py::array_t<int32_t>& entries, int64_t shortest) {
    if (starts.size() == 0 && entries.size() == 0) return {0, -1};
    const int64_t words = keep_.size(), *const start = starts.data();
    if (starts.size() != words + 1 || start[0] != 0 || start[words] != entries.size()) {
      Refuse(name, "_starts must have ", words + 1, " positions, from 0 to ", entries.size());
    }
    int64_t longest = 0, largest = -1;
    for (int64_t word = 0; word < words; ++word) {
      const int64_t next = start[word + 1];
      if (next > entries.size() || next < start[word] + shortest) {
        Refuse(name, "_starts must ascend, got ", start[word], " and ", next);
      }
      longest = std::max(longest, next - start[word]);
    }
    for (int64_t i = 0; i < entries.size(); ++i) {
      if (entries.data()[i] < 0) Refuse(name, " has the row ", entries.data()[i]);
      largest = std::max<int64_t>(largest, entries.data()[i]);
    }
    return {longest, largest};
  }

  const py::array_t<uint32_t> keep_, noise_;
  const py::array_t<float> logit_offsets_;
  const py::array_t<int64_t> path_starts_;
  const py::array_t<int32_t> path_nodes_;
  const py::array_t<float> path_signs_;
  const py::array_t<int64_t> bag_starts_;
  const py::array_t<int32_t> bag_rows_;

 public:
  Tables tables;
  const bool has_noise, has_offsets, has_paths;
  int64_t input_rows, output_rows;  // the least that the matrices must have
};

template <typename T>
std::pair<const char*, const char*> Extent(const py::array_t<T>& array) {
  const char* const begin = reinterpret_cast<const char*>(array.data());
  return {begin, begin + array.nbytes()};
}

template <typename A, typename B>
void ExpectApart(const char* names, const py::array_t<A>& a, const py::array_t<B>& b) {
  const auto [a_begin, a_end] = Extent(a);
  const auto [b_begin, b_end] = Extent(b);
  if (a_begin < b_end && b_begin < a_end) Refuse(names, " must not share memory");
}

// Only comparisons and ors, which compilers vectorize for every processor, since this runs for each
// word in each epoch.
void ExpectBelow(const char* name, const int32_t* begin, const int32_t* end, int64_t limit) {
  const int32_t last = static_cast<int32_t>(limit - 1);
  int32_t above = 0;
  for (const int32_t* id = begin; id < end; ++id) above |= -int32_t{*id > last};
  if (above != 0) {
    Refuse(name, " must be below ", limit, ", got ", *std::max_element(begin, end));
  }
}

void CheckSizes(const Problem& problem, int64_t begin, int64_t end) {
  const int64_t inputs = 2 * int64_t{Reach(problem, begin, end)} + problem.HasDocuments();
  const int64_t rows = std::max<int64_t>(problem.MaxOutputs() + 1, problem.tables.longest_bag + 2);
  if (inputs > kLargest / 8 / rows) {
    Refuse("windows of ", inputs, " words with ", rows, " rows each are too large; take a lesser ",
           "window, or less negative");
  }
}

std::tuple<double, int64_t, int64_t> TrainArrays(
    const py::object& ids_, int64_t begin, int64_t end, const py::object& input_,
    const py::object& output_, const CheckedTables& tables, int64_t objective, int64_t loss,
    bool shared_negatives, bool exact_cbow, bool exact_subwords, bool shrink_windows,
    int64_t window, int64_t negative, uint64_t key, double learning_rate,
    double learning_rate_slope, int64_t num_threads, bool deterministic,
    const std::optional<py::object>& documents_, const std::optional<py::object>& vectors_,
    bool documents_alone, bool frozen) {
  const auto ids = Checked<int32_t>("ids", ids_, 1);
  auto input = Checked<float>("input", input_, 2), output = Checked<float>("output", output_, 2);
  if (!input.writeable() || !output.writeable()) Refuse("input and output must be writable");
  ExpectApart("input and output", input, output);
  ExpectApart("input and ids", input, ids);
  ExpectApart("output and ids", output, ids);
  const int64_t stride = input.shape(1), words = tables.tables.num_words;
  if (stride < 16 || stride % 16 != 0 || stride > kLargest || output.shape(1) != stride) {
    Refuse("input and output must have the same columns, a multiple of 16, got ", stride, " and ",
           output.shape(1));
  }
  const auto expect_in = [](const char* name, int64_t value, int64_t lowest, int64_t highest) {
    if (value < lowest || value > highest) {
      Refuse(name, " must be from ", lowest, " to ", highest, ", got ", value);
    }
  };
  expect_in("objective", objective, 0, 1);
  expect_in("loss", loss, 0, 3);
  expect_in("window", window, 1, kLargest);
  expect_in("negative", negative, 0, kLargest - 1);
  expect_in("num_threads", num_threads, 0, kLargest);
  expect_in("begin", begin, 0, ids.size());
  expect_in("end", end, begin, ids.size());
  if (!std::isfinite(learning_rate) || !std::isfinite(learning_rate_slope)) {
    Refuse("learning_rate and learning_rate_slope must be finite");
  }
  const Loss kind = static_cast<Loss>(loss);
  if ((HasTree(kind) && !tables.has_paths) || (HasNoise(kind) && !tables.has_noise) ||
      (kind == Loss::kSampledSoftmax && !tables.has_offsets)) {
    Refuse("tables lack what loss ", loss, " needs");
  }
  const int64_t output_rows =
      std::max(HasTree(kind) ? tables.output_rows : 0, HasNoise(kind) ? words : int64_t{0});
  if (input.shape(0) < tables.input_rows || output.shape(0) < output_rows) {
    Refuse("input and output must have at least ", tables.input_rows, " and ", output_rows,
           " rows, got ", input.shape(0), " and ", output.shape(0));
  }
  ExpectBelow("ids", ids.data() + begin, ids.data() + end, words);
  if (documents_.has_value() != vectors_.has_value()) {
    Refuse("documents and document_vectors must be given together");
  }
  if ((documents_alone || frozen) && !documents_) {
    Refuse("documents_alone and frozen need documents");
  }
  py::array_t<int32_t> documents;
  py::array_t<float> vectors;
  if (documents_) {
    if (tables.tables.bag_starts != nullptr) Refuse("documents cannot have subwords beside them");
    documents = Checked<int32_t>("documents", *documents_, 1);
    vectors = Checked<float>("document_vectors", *vectors_, 2);
    ExpectSize("documents", documents.size(), ids.size());
    if (!vectors.writeable()) Refuse("document_vectors must be writable");
    if (vectors.shape(1) != stride) {
      Refuse("document_vectors must have ", stride, " columns, got ", vectors.shape(1));
    }
    ExpectApart("document_vectors and input", vectors, input);
    ExpectApart("document_vectors and output", vectors, output);
    ExpectApart("document_vectors and ids", vectors, ids);
    ExpectApart("document_vectors and documents", vectors, documents);
    const int32_t *const from = documents.data() + begin, *const to = documents.data() + end;
    ExpectBelow("documents", from, to, vectors.shape(0));
    if (from < to && *std::min_element(from, to) < 0) Refuse("documents must be at least 0");
  }

  Problem problem;
  problem.settings = {static_cast<Objective>(objective),
                      kind,
                      shared_negatives && objective == 0 && HasNoise(kind),
                      exact_cbow,
                      exact_subwords,
                      shrink_windows,
                      static_cast<int>(window),
                      static_cast<int>(negative),
                      key,
                      learning_rate,
                      learning_rate_slope,
                      documents_alone,
                      frozen};
  problem.tables = tables.tables;
  problem.model = {input.mutable_data(), output.mutable_data(), stride, input.shape(0),
                   output.shape(0)};
  problem.corpus = {ids.data(), ids.size()};
  if (documents_) {
    problem.model.documents = vectors.mutable_data();
    problem.model.document_rows = vectors.shape(0);
    problem.corpus.documents = documents.data();
  }
  problem.reach = 0;
  CheckSizes(problem, begin, end);
  const ReleasedGil released;
  const Tally tally = Train(problem, begin, end, static_cast<int>(num_threads), deterministic);
  return {tally.loss, tally.predictions, tally.words};
}

}  // namespace

void BindWord2Vec(py::module_& module) {
  py::class_<CheckedTables>(module, "Word2VecTables")
      .def(py::init<const py::object&, const py::object&, const py::object&, const py::object&,
                    const py::object&, const py::object&, const py::object&, const py::object&>(),
           py::arg("keep"), py::arg("noise"), py::arg("logit_offsets"), py::arg("path_starts"),
           py::arg("path_nodes"), py::arg("path_signs"), py::arg("bag_starts"),
           py::arg("bag_rows"));
  module.def("word2vec_train", &TrainArrays, py::arg("ids"), py::arg("begin"), py::arg("end"),
             py::arg("input"), py::arg("output"), py::arg("tables"), py::arg("objective"),
             py::arg("loss"), py::arg("shared_negatives"), py::arg("exact_cbow"),
             py::arg("exact_subwords"), py::arg("shrink_windows"), py::arg("window"),
             py::arg("negative"), py::arg("key"), py::arg("learning_rate"),
             py::arg("learning_rate_slope"), py::arg("num_threads"), py::arg("deterministic"),
             py::arg("documents") = py::none(), py::arg("document_vectors") = py::none(),
             py::arg("documents_alone") = false, py::arg("frozen") = false);
}

}  // namespace fastkeras::word2vec
