// What runs behind the TensorFlow ops of the Keras layers and, as calls of XLA
// (csrc/doors/xla_call.h), for JAX. Every index that a kernel uses as an address is checked here.

#ifndef FASTKERAS_WORD2VEC_LAYERS_TENSORFLOW_KERNELS_H_
#define FASTKERAS_WORD2VEC_LAYERS_TENSORFLOW_KERNELS_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "doors/tensorflow.h"
#include "machine/memory.h"
#include "word2vec/layers/layers.h"

namespace fastkeras::word2vec::layers {

using tensorflow::ExpectShape;
using tensorflow::Input;
using tensorflow::IntAttribute;
using tensorflow::InvalidArgument;
using tensorflow::Output;
using tensorflow::Tensor;

inline void ExpectRank(const char* name, const Tensor& tensor, size_t rank) {
  if (tensor.shape.size() != rank) {
    InvalidArgument(name, " must have ", rank, " dimensions, got shape ", Text(tensor.shape));
  }
}

// An optional input that is left out has no elements.
template <typename T>
const T* Optional(const char* name, const Tensor& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == std::vector<int64_t>{0}) return nullptr;
  ExpectShape(name, tensor, shape);
  return tensor.data<const T>();
}

// Words as rows of a matrix, all of which a kernel will read. With `holes`, a negative number
// stands for no word.
inline void ExpectWords(const Tensor& tensor, int64_t size, int64_t num_words, bool holes) {
  const int32_t* const values = tensor.data<const int32_t>();
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] >= num_words || (values[i] < 0 && !holes)) {
      InvalidArgument("words must be in 0..", num_words - 1, holes ? ", or negative for none" : "",
                      ", got ", values[i]);
    }
  }
}

template <typename T>
struct PoolKernel {
  template <typename Attributes>
  explicit PoolKernel(Attributes* attributes)
      : num_threads(IntAttribute(attributes, "num_threads")) {}

  template <typename Context>
  void operator()(Context* context) const {
    const Tensor rows = Input(context, 0), places = Input(context, 1), weights = Input(context, 2);
    ExpectRank("rows", rows, 2);
    ExpectRank("places", places, 2);
    const int64_t examples = places.shape[0], contexts = places.shape[1], size = rows.shape[1];
    const T* const checked = Optional<T>("weights", weights, places.shape);
    ExpectWords(places, examples * contexts, rows.shape[0], checked != nullptr);
    const Tensor out = Output<T>(context, 0, {examples, size});
    const int32_t* const at = places.data<const int32_t>();
    Run(Pool<T>{rows.data<const T>(), at, checked, size, contexts, out.data<T>()}, examples,
        num_threads);
  }

  int num_threads;
};

// The gradient of sums of rows as a matrix of its own: zeros where no word stands.
template <typename T>
struct ScatterKernel {
  template <typename Attributes>
  explicit ScatterKernel(Attributes* attributes)
      : num_words(IntAttribute(attributes, "num_words")),
        num_threads(IntAttribute(attributes, "num_threads")) {
    if (num_words < 0) InvalidArgument("num_words must be at least 0, got ", num_words);
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Tensor upstream = Input(context, 0), factors = Input(context, 1);
    const Tensor words = Input(context, 2);
    ExpectRank("upstream", upstream, 2);
    ExpectRank("words", words, 2);
    const int64_t examples = words.shape[0], columns = words.shape[1], size = upstream.shape[1];
    ExpectShape("upstream", upstream, {examples, size});
    const T* const checked = Optional<T>("factors", factors, words.shape);
    if (examples * columns > std::numeric_limits<int32_t>::max()) {
      InvalidArgument("there are ", examples * columns, " words");
    }
    ExpectWords(words, examples * columns, num_words, checked != nullptr);
    const Tensor out = Output<T>(context, 0, {num_words, size});
    const Tensor sums = Output<T>(context, 1, {num_words});
    Scatter(Spread<T>{upstream.data<const T>(), checked, nullptr, nullptr, size, columns,
                      out.data<T>(), sums.data<T>()},
            words.data<const int32_t>(), examples, num_words, num_threads);
  }

  int num_words, num_threads;
};

template <typename T>
struct LossKernel {
  template <typename Attributes>
  explicit LossKernel(Attributes* attributes)
      : loss(static_cast<Loss>(IntAttribute(attributes, "loss"))),
        num_threads(IntAttribute(attributes, "num_threads")) {
    if (loss != Loss::kSampledSoftmax && loss != Loss::kNegativeSampling) {
      InvalidArgument("loss must be 0 or 1, got ", static_cast<int>(loss));
    }
  }

  template <typename Context>
  void operator()(Context* context) const {
    const Tensor hidden = Input(context, 0), rows = Input(context, 1), bias = Input(context, 2);
    const Tensor offset = Input(context, 3), places = Input(context, 4);
    ExpectRank("rows", rows, 2);
    ExpectRank("places", places, 2);
    const int64_t examples = places.shape[0], candidates = places.shape[1], size = rows.shape[1];
    if (candidates < 1) InvalidArgument("places must have a target, got ", Text(places.shape));
    ExpectShape("hidden", hidden, {examples, size});
    ExpectWords(places, examples * candidates, rows.shape[0], false);
    Examples<T> batch = {};
    batch.loss = loss;
    batch.hidden = hidden.data<const T>();
    batch.rows = rows.data<const T>();
    batch.bias = Optional<T>("bias", bias, {rows.shape[0]});
    batch.offset = Optional<T>("offset", offset, {rows.shape[0]});
    batch.places = places.data<const int32_t>();
    batch.size = size;
    batch.candidates = candidates;
    const Tensor losses = Output<T>(context, 0, {examples});
    const Tensor hits = Output<T>(context, 1, {examples});
    const Tensor errors = Output<T>(context, 2, {examples, candidates});
    const Tensor d_hidden = Output<T>(context, 3, {examples, size});
    batch.losses = losses.data<T>();
    batch.hits = hits.data<T>();
    batch.errors = errors.data<T>();
    batch.d_hidden = d_hidden.data<T>();
    Run(batch, examples, num_threads);
  }

  Loss loss;
  int num_threads;
};

}  // namespace fastkeras::word2vec::layers

#endif  // FASTKERAS_WORD2VEC_LAYERS_TENSORFLOW_KERNELS_H_
