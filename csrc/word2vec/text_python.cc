// Blocks of text as bytes in, counts and ids as NumPy arrays out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string_view>
#include <utility>

#include "released_gil.h"
#include "word2vec/text.h"

namespace py = pybind11;

namespace fastkeras::word2vec {
namespace {

// The words as bytes with a line feed between them, and how often each came.
std::pair<py::bytes, py::array_t<int64_t>> Words(const WordCounter& counter, int64_t min_count) {
  const std::vector<Word> words = counter.Words(min_count);
  py::array_t<int64_t> counts(static_cast<py::ssize_t>(words.size()));
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += '\n';
    text.append(words[i].text, words[i].length);
    counts.mutable_data()[i] = words[i].value;
  }
  return {py::bytes(text), counts};
}

}  // namespace

void BindText(py::module_& module) {
  py::class_<WordCounter>(module, "WordCounter")
      .def(py::init<>())
      .def(
          "add",
          [](WordCounter& counter, const py::bytes& block, int num_threads) {
            const std::string_view text = block;
            const ReleasedGil released;
            counter.Add(text.data(), static_cast<int64_t>(text.size()), num_threads);
          },
          py::arg("block"), py::arg("num_threads") = 0)
      .def("__len__", &WordCounter::size)
      .def("drop", &WordCounter::Drop, py::arg("floor"))
      .def("words", &Words, py::arg("min_count"));

  py::class_<WordEncoder>(module, "WordEncoder")
      .def(py::init([](const py::bytes& words, const py::array_t<int64_t>& ends) {
             const std::string_view text = words;
             return new WordEncoder(text.data(), ends.data(), ends.size());
           }),
           py::arg("words"), py::arg("ends"))
      .def(
          "encode",
          [](WordEncoder& encoder, const py::bytes& block, int num_threads) {
            const std::string_view text = block;
            std::vector<int32_t> ids;
            {
              const ReleasedGil released;
              ids = encoder.Encode(text.data(), static_cast<int64_t>(text.size()), num_threads);
            }
            return py::array_t<int32_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
          },
          py::arg("block"), py::arg("num_threads") = 0);
}

}  // namespace fastkeras::word2vec
