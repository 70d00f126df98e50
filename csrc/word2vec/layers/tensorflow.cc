// TensorFlow ops of the Keras layers; the engine `tensorflow_native` in Python puts them together.

#include <cstdint>
#include <limits>

#include "word2vec/layers/tensorflow_kernels.h"

namespace fastkeras::word2vec::layers {
namespace {

using tensorflow::BoolAttribute;
using tensorflow::ShapeInference;

template <typename T>
struct GroupKernel {
  explicit GroupKernel(TF_OpKernelConstruction* construction)
      : num_words(IntAttribute(construction, "num_words")),
        holes(BoolAttribute(construction, "holes")) {
    if (num_words < 0) InvalidArgument("num_words must be at least 0, got ", num_words);
  }

  void operator()(TF_OpKernelContext* context) const {
    const Tensor ids = Input(context, 0);
    ExpectRank("ids", ids, 2);
    const int64_t size = ids.shape[0] * ids.shape[1];
    if (size > std::numeric_limits<int32_t>::max()) InvalidArgument("there are ", size, " ids");
    const T* const data = ids.data<const T>();
    ExpectWords(ids, size, num_words, holes);
    const Buffer<int32_t> counts(num_words);
    const int64_t different = Count(data, size, num_words, counts.data);
    const Tensor rows = Output<int32_t>(context, 0, {different});
    const Tensor places = Output<int32_t>(context, 1, ids.shape);
    const Tensor order = Output<int32_t>(context, 2, {size});
    const Tensor starts = Output<int32_t>(context, 3, {different + 1});
    Group(data, size, num_words, counts.data, rows.data<int32_t>(), places.data<int32_t>(),
          order.data<int32_t>(), starts.data<int32_t>());
  }

  int num_words;
  bool holes;
};

// Every index that a kernel uses as an address is checked first.
void ExpectBelow(const char* name, const Tensor& tensor, int64_t size, int64_t lowest,
                 int64_t limit) {
  const int32_t* const values = tensor.data<const int32_t>();
  for (int64_t i = 0; i < size; ++i) {
    if (values[i] < lowest || values[i] >= limit) {
      InvalidArgument(name, " must be in ", lowest, "..", limit - 1, ", got ", values[i]);
    }
  }
}

template <typename T>
struct SpreadKernel {
  explicit SpreadKernel(TF_OpKernelConstruction* construction)
      : num_threads(IntAttribute(construction, "num_threads")) {}

  void operator()(TF_OpKernelContext* context) const {
    const Tensor upstream = Input(context, 0), factors = Input(context, 1);
    const Tensor order = Input(context, 2), starts = Input(context, 3);
    ExpectRank("upstream", upstream, 2);
    ExpectRank("order", order, 1);
    ExpectRank("starts", starts, 1);
    const int64_t examples = upstream.shape[0], size = upstream.shape[1];
    const int64_t positions = order.shape[0], rows = starts.shape[0] - 1;
    const int64_t columns = examples == 0 ? 1 : positions / examples;
    if (columns * examples != positions || rows < 0) {
      InvalidArgument("order of shape ", Text(order.shape), " and starts of shape ",
                      Text(starts.shape), " do not fit ", examples, " examples");
    }
    const T* const checked =
        examples == 0 ? nullptr : Optional<T>("factors", factors, {examples, columns});
    ExpectBelow("starts", starts, rows + 1, 0, positions + 1);
    const int32_t* const start = starts.data<const int32_t>();
    const int32_t* const position = order.data<const int32_t>();
    for (int64_t r = 0; r < rows; ++r) {
      if (start[r] >= start[r + 1]) InvalidArgument("starts must ascend");
    }
    ExpectBelow("order", order, rows == 0 ? 0 : start[rows], 0, positions);
    const Tensor out = Output<T>(context, 0, {rows, size});
    const Tensor sums = Output<T>(context, 1, {rows});
    Run(Spread<T>{upstream.data<const T>(), checked, position, start, size, columns, out.data<T>(),
                  sums.data<T>()},
        rows, num_threads);
  }

  int num_threads;
};

void GroupShapes(ShapeInference& shapes) {
  const auto ids = shapes.Input(0, 2);
  shapes.SetAllUnknown();
  shapes.SetOutput(1, ids);
}

void PoolShapes(ShapeInference& shapes) {
  const auto rows = shapes.Input(0, 2), places = shapes.Input(1, 2);
  shapes.SetOutput(0, shapes.Concatenate(shapes.Slice(places, 0, 1), shapes.Slice(rows, 1, 2)));
}

void SpreadShapes(ShapeInference& shapes) { shapes.SetAllUnknown(); }

void LossShapes(ShapeInference& shapes) {
  const auto hidden = shapes.Input(0, 2), places = shapes.Input(4, 2);
  const auto examples = shapes.Slice(places, 0, 1);
  shapes.SetOutput(0, examples);
  shapes.SetOutput(1, examples);
  shapes.SetOutput(2, places);
  shapes.SetOutput(3, hidden);
}

const bool registered = [] {
  const char* type = "T: {float, double}";
  const char* threads = "num_threads: int = 0";
  tensorflow::RegisterOp<GroupShapes>(
      "Fastkeras>Word2vecGroup", {"ids: T"},
      {"rows: int32", "places: int32", "order: int32", "starts: int32"},
      {"T: {int32}", "num_words: int", "holes: bool"});
  tensorflow::RegisterOp<PoolShapes>("Fastkeras>Word2vecPool",
                                     {"rows: T", "places: int32", "weights: T"}, {"sums: T"},
                                     {type, threads});
  tensorflow::RegisterOp<SpreadShapes>(
      "Fastkeras>Word2vecSpread", {"upstream: T", "factors: T", "order: int32", "starts: int32"},
      {"rows: T", "sums: T"}, {type, threads});
  tensorflow::RegisterOp<LossShapes>(
      "Fastkeras>Word2vecLoss", {"hidden: T", "rows: T", "bias: T", "offset: T", "places: int32"},
      {"losses: T", "hits: T", "errors: T", "d_hidden: T"}, {type, "loss: int", threads});
  tensorflow::RegisterKernel<GroupKernel, int32_t>("Fastkeras>Word2vecGroup");
  tensorflow::RegisterKernel<PoolKernel, float>("Fastkeras>Word2vecPool");
  tensorflow::RegisterKernel<PoolKernel, double>("Fastkeras>Word2vecPool");
  tensorflow::RegisterKernel<SpreadKernel, float>("Fastkeras>Word2vecSpread");
  tensorflow::RegisterKernel<SpreadKernel, double>("Fastkeras>Word2vecSpread");
  tensorflow::RegisterKernel<LossKernel, float>("Fastkeras>Word2vecLoss");
  tensorflow::RegisterKernel<LossKernel, double>("Fastkeras>Word2vecLoss");
  return true;
}();

}  // namespace
}  // namespace fastkeras::word2vec::layers
