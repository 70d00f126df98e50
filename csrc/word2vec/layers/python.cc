// The kernels of the Keras layers for NumPy arrays, which may share the memory of torch tensors.
// Every index that a kernel uses as an address is checked here.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>

#include "doors/released_gil.h"
#include "word2vec/doors/python_arrays.h"
#include "word2vec/layers/layers.h"

namespace py = pybind11;

namespace fastkeras::word2vec::layers {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();

template <typename T>
void ExpectShape(const char* name, const py::array_t<T>& array, int64_t rows, int64_t columns) {
  if (array.shape(0) != rows || array.shape(1) != columns) {
    Refuse(name, " must have shape (", rows, ", ", columns, "), got (", array.shape(0), ", ",
           array.shape(1), ")");
  }
}

// None, or one number for each of `rows`.
template <typename T>
const T* OptionalRow(const char* name, const py::object& object, int64_t rows) {
  if (object.is_none()) return nullptr;
  const auto array = Checked<T>(name, object, 1);
  ExpectSize(name, array.size(), rows);
  return array.data();  // of `object`, which the caller holds
}

// None, or one number for each of the words.
template <typename T>
const T* OptionalWeights(const char* name, const py::object& object,
                         const py::array_t<int32_t>& words) {
  if (object.is_none()) return nullptr;
  const auto array = Checked<T>(name, object, 2);
  ExpectShape(name, array, words.shape(0), words.shape(1));
  return array.data();
}

// Words as rows of a matrix, all of which a kernel will read. With `holes`, a negative number
// stands for no word.
py::array_t<int32_t> Words(const py::object& object, int64_t num_words, bool holes) {
  const auto words = Checked<int32_t>("words", object, 2);
  if (words.size() > kLargest) Refuse("there are ", words.size(), " words");
  const int32_t* const data = words.data();
  for (int64_t i = 0; i < words.size(); ++i) {
    if (data[i] >= num_words || (data[i] < 0 && !holes)) {
      Refuse("words must be in 0..", num_words - 1, holes ? ", or negative for none" : "", ", got ",
             data[i]);
    }
  }
  return words;
}

int Threads(int64_t num_threads) {
  if (num_threads < 0 || num_threads > kLargest) {
    Refuse("num_threads must be from 0 to ", kLargest, ", got ", num_threads);
  }
  return static_cast<int>(num_threads);
}

template <typename T>
py::array_t<T> PoolArrays(const py::object& rows_, const py::object& words_,
                          const py::object& weights_, int64_t num_threads) {
  const auto rows = Checked<T>("rows", rows_, 2);
  const auto words = Words(words_, rows.shape(0), !weights_.is_none());
  const T* const weights = OptionalWeights<T>("weights", weights_, words);
  const int threads = Threads(num_threads);
  py::array_t<T> out({words.shape(0), rows.shape(1)});
  const Pool<T> pool = {rows.data(),   words.data(),   weights,
                        rows.shape(1), words.shape(1), out.mutable_data()};
  const ReleasedGil released;
  Run(pool, words.shape(0), threads);
  return out;
}

template <typename T>
py::tuple ScatterArrays(const py::object& upstream_, const py::object& factors_,
                        const py::object& words_, int64_t num_words, int64_t num_threads) {
  const auto upstream = Checked<T>("upstream", upstream_, 2);
  if (num_words < 0 || num_words > kLargest - 2) {
    Refuse("num_words must be from 0 to ", kLargest - 2, ", got ", num_words);
  }
  const auto words = Words(words_, num_words, !factors_.is_none());
  const int64_t examples = words.shape(0), size = upstream.shape(1);
  ExpectShape("upstream", upstream, examples, size);
  const T* const factors = OptionalWeights<T>("factors", factors_, words);
  const int threads = Threads(num_threads);
  py::array_t<T> out({num_words, size}), sums(num_words);
  const Spread<T> spread = {
      upstream.data(),    factors, nullptr, nullptr, size, words.shape(1), out.mutable_data(),
      sums.mutable_data()};
  {
    const ReleasedGil released;
    Scatter(spread, words.data(), examples, num_words, threads);
  }
  return py::make_tuple(out, sums);
}

template <typename T>
py::tuple LossArrays(const py::object& hidden_, const py::object& rows_, const py::object& bias_,
                     const py::object& offset_, const py::object& words_, int64_t loss,
                     int64_t num_threads) {
  const auto hidden = Checked<T>("hidden", hidden_, 2), rows = Checked<T>("rows", rows_, 2);
  const int64_t num_words = rows.shape(0), size = rows.shape(1);
  const auto words = Words(words_, num_words, false);
  const int64_t examples = words.shape(0), candidates = words.shape(1);
  if (candidates < 1) Refuse("words must have a target, got no columns");
  ExpectShape("hidden", hidden, examples, size);
  if (loss != 0 && loss != 1) Refuse("loss must be 0 or 1, got ", loss);
  const int threads = Threads(num_threads);
  py::array_t<T> losses(examples), hits(examples), errors({examples, candidates}),
      d_hidden({examples, size});
  Examples<T> batch = {};
  batch.loss = static_cast<Loss>(loss);
  batch.hidden = hidden.data();
  batch.rows = rows.data();
  batch.bias = OptionalRow<T>("bias", bias_, num_words);
  batch.offset = OptionalRow<T>("offset", offset_, num_words);
  batch.places = words.data();
  batch.size = size;
  batch.candidates = candidates;
  batch.losses = losses.mutable_data();
  batch.hits = hits.mutable_data();
  batch.errors = errors.mutable_data();
  batch.d_hidden = d_hidden.mutable_data();
  {
    const ReleasedGil released;
    Run(batch, examples, threads);
  }
  return py::make_tuple(losses, hits, errors, d_hidden);
}

// Calls the function with a number of the first array's type, which all others must have.
template <typename Function>
py::object OfType(const py::object& first, Function&& run) {
  if (py::isinstance<py::array_t<double>>(first)) return py::object(run(double{}));
  return py::object(run(float{}));
}

}  // namespace

void BindLayers(py::module_& module) {
  using Object = const py::object&;
  module.def(
      "word2vec_layers_pool",
      [](Object rows, Object words, Object weights, int64_t num_threads) {
        return OfType(rows, [&](auto number) {
          return PoolArrays<decltype(number)>(rows, words, weights, num_threads);
        });
      },
      py::arg("rows"), py::arg("words"), py::arg("weights"), py::arg("num_threads") = 0);
  module.def(
      "word2vec_layers_scatter",
      [](Object upstream, Object factors, Object words, int64_t num_words, int64_t num_threads) {
        return OfType(upstream, [&](auto number) {
          return ScatterArrays<decltype(number)>(upstream, factors, words, num_words, num_threads);
        });
      },
      py::arg("upstream"), py::arg("factors"), py::arg("words"), py::arg("num_words"),
      py::arg("num_threads") = 0);
  module.def(
      "word2vec_layers_loss",
      [](Object hidden, Object rows, Object bias, Object offset, Object words, int64_t loss,
         int64_t num_threads) {
        return OfType(hidden, [&](auto number) {
          return LossArrays<decltype(number)>(hidden, rows, bias, offset, words, loss, num_threads);
        });
      },
      py::arg("hidden"), py::arg("rows"), py::arg("bias"), py::arg("offset"), py::arg("words"),
      py::arg("loss"), py::arg("num_threads") = 0);
}

}  // namespace fastkeras::word2vec::layers
