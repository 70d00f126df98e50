// Blocks of text as bytes in, counts and ids as NumPy arrays out.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <limits>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "doors/released_gil.h"
#include "word2vec/doors/python_arrays.h"
#include "word2vec/text/text.h"

namespace py = pybind11;

namespace fastkeras::word2vec {
namespace {

// The words as bytes with a line feed between them, and how often each occurred.
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

// Lets one thread in at a time, since Python's own lock is released while a block is read.
template <typename T>
struct Locked {
  T value;
  std::mutex mutex;

  template <typename Function>
  auto Use(Function&& use) {
    const std::lock_guard<std::mutex> lock(mutex);
    return use(value);
  }
};
using Counter = Locked<WordCounter>;

struct Encoder {
  Encoder(std::string_view text, const int64_t* ends, int64_t num_words)
      : value(text.data(), ends, num_words) {}
  WordEncoder value;
  std::mutex mutex;
};

// The lengths of words are kept in 32 bits.
std::string_view Block(const py::bytes& block) {
  const std::string_view text = block;
  if (text.size() >= size_t{1} << 32) {
    Refuse("block must have less than 4 GiB, got ", text.size(), " bytes");
  }
  return text;
}

int Threads(int64_t num_threads) {
  constexpr int64_t kLargest = std::numeric_limits<int>::max();
  if (num_threads < 0 || num_threads > kLargest) {
    Refuse("num_threads must be from 0 to ", kLargest, ", got ", num_threads);
  }
  return static_cast<int>(num_threads);
}

std::unique_ptr<Encoder> MakeEncoder(const py::bytes& words, const py::object& ends_) {
  const std::string_view text = Block(words);
  const auto ends = Checked<int64_t>("ends", ends_, 1);
  int64_t begin = 0;
  for (int64_t i = 0; i < ends.size(); ++i) {
    const int64_t end = ends.data()[i];
    if (end < begin || end > static_cast<int64_t>(text.size())) {
      Refuse("ends must ascend from 0 to ", text.size(), ", got ", end, " after ", begin);
    }
    begin = end;
  }
  if (ends.size() > std::numeric_limits<int32_t>::max()) Refuse("there are too many words");
  return std::make_unique<Encoder>(text, ends.data(), ends.size());
}

}  // namespace

void BindText(py::module_& module) {
  py::class_<Counter>(module, "WordCounter")
      .def(py::init<>())
      .def(
          "add",
          [](Counter& counter, const py::bytes& block, int64_t num_threads) {
            const std::string_view text = Block(block);
            const int threads = Threads(num_threads);
            const ReleasedGil released;
            counter.Use([&](WordCounter& words) {
              words.Add(text.data(), static_cast<int64_t>(text.size()), threads);
            });
          },
          py::arg("block"), py::arg("num_threads") = 0)
      .def("__len__",
           [](Counter& counter) {
             return counter.Use([](const WordCounter& words) { return words.size(); });
           })
      .def(
          "drop",
          [](Counter& counter, int64_t floor) {
            counter.Use([&](WordCounter& words) { words.Drop(floor); });
          },
          py::arg("floor"))
      .def(
          "words",
          [](Counter& counter, int64_t min_count) {
            return counter.Use([&](const WordCounter& words) { return Words(words, min_count); });
          },
          py::arg("min_count"));

  py::class_<Encoder>(module, "WordEncoder")
      .def(py::init(&MakeEncoder), py::arg("words"), py::arg("ends"))
      .def(
          "encode",
          [](Encoder& encoder, const py::bytes& block, int64_t num_threads) {
            const std::string_view text = Block(block);
            const int threads = Threads(num_threads);
            std::vector<int32_t> ids;
            {
              const ReleasedGil released;
              const std::lock_guard<std::mutex> lock(encoder.mutex);
              ids = encoder.value.Encode(text.data(), static_cast<int64_t>(text.size()), threads);
            }
            return py::array_t<int32_t>(static_cast<py::ssize_t>(ids.size()), ids.data());
          },
          py::arg("block"), py::arg("num_threads") = 0);
}

}  // namespace fastkeras::word2vec
