// A pass over a slice of the corpus: draw a window's samples, prefetch its rows, and train it two
// windows later, when the rows have arrived. Compiled once for each instruction set.

#include "machine/memory.h"
#include "word2vec/kernels.h"
// After the standard headers:
#include "word2vec/chunk.h"
#include "word2vec/losses.h"
#include "word2vec/products.h"
#include "word2vec/rows.h"
#include "word2vec/windows.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

struct Pass {
  static constexpr int kAhead = 2;

  const word2vec::Problem& problem;
  const word2vec::Settings& settings;
  const word2vec::Place place;
  const int64_t stride;
  Chunk chunk;
  Windows windows;
  const int max_inputs, max_outputs;
  Bags bags;
  Buffer<float> logits, signs, padded, rows, frozen;
  Buffer<float*> pointers;
  float **inputs, **outputs, **scratch;
  float *hidden, *error;
  float rate = 0;
  int signs_row_length = 0;
  SoftplusSum softplus;
  word2vec::Tally tally;

  Pass(const word2vec::Problem& of, const word2vec::Place& at)
      : problem(of),
        settings(of.settings),
        place(at),
        stride(of.model.stride),
        chunk(of),
        windows(of, at),
        max_inputs(windows.max_inputs),
        max_outputs(windows.max_outputs),
        bags(of, at, max_inputs),
        logits(max_inputs * max_outputs + 16),
        signs(max_inputs * max_outputs + 16),
        padded(max_outputs + 16),
        rows((max_inputs + 2) * stride),
        frozen(settings.frozen ? max_outputs * stride : 0),
        pointers(2 * max_inputs + max_outputs) {
    inputs = pointers.data;
    scratch = inputs + max_inputs;
    outputs = scratch + max_inputs;
    for (int i = 0; i < max_inputs; ++i) scratch[i] = rows.data + i * stride;
    hidden = rows.data + max_inputs * stride;
    error = hidden + stride;
    SetSigns(max_outputs > 0 ? max_outputs : 1);
  }

  void Run(int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t next = (begin / word2vec::kChunk + 1) * word2vec::kChunk;
      RunChunk(begin, next < end ? next : end);
      begin = next;
    }
    softplus.Flush();
    tally.loss += softplus.sum;
  }

  void RunChunk(int64_t begin, int64_t end) {
    const int64_t rated = begin / word2vec::kChunk * word2vec::kChunk;
    rate = static_cast<float>(settings.learning_rate +
                              settings.learning_rate_slope * static_cast<double>(rated));
    chunk.Read(begin, end);
    tally.words += chunk.last - chunk.first;
    for (int c = chunk.first; c < chunk.last + kAhead; ++c) {
      if (c < chunk.last) windows.Draw(chunk, bags, c);
      if (c - kAhead >= chunk.first) TrainWindow(windows.At(c - kAhead));
    }
  }

  FASTKERAS_INLINE void TrainWindow(const Window& window) {
    const int words = window.num_inputs, count = words + problem.HasDocuments();
    if (count == 0) return;
    tally.predictions += settings.objective == Objective::kCbow ? 1 : count;
    if (bags.Exist()) return TrainBags(window);
    for (int i = 0; i < words; ++i) inputs[i] = place.input + window.inputs[i] * stride;
    if (count > words) inputs[words] = place.documents + window.document * stride;
    if (settings.objective == Objective::kCbow) {
      const float share = TrainMean(window, inputs, count);
      const int kept = settings.frozen ? words : 0;
      AddToEach(error, share, stride, inputs + kept, count - kept);
    } else if (settings.shared_negatives) {
      TrainTogether(window, count, window.inputs_repeated, inputs, inputs);
    } else {
      for (int i = 0; i < count; ++i) {
        TrainOne(window, window.num_sets == 1 ? 0 : i, inputs[i], inputs[i], inputs[i]);
      }
    }
  }

  // The same with means of bags in place of rows; the change of a mean goes to each row of its bag.
  void TrainBags(const Window& window) {
    const int count = window.num_inputs;
    if (settings.objective == Objective::kCbow) {
      for (int i = 0; i < count; ++i) bags.Gather(i, window.inputs[i]);
      const float share = TrainMean(window, bags.means, count);
      for (int i = 0; i < count; ++i) bags.Scatter(i, error, share);
    } else if (settings.shared_negatives) {
      for (int i = 0; i < count; ++i) {
        bags.Gather(i, window.inputs[i]);
        inputs[i] = bags.means[i];
      }
      TrainTogether(window, count, false, bags.zeros, scratch);
      for (int i = 0; i < count; ++i) bags.Scatter(i, scratch[i], 1);
    } else {
      for (int i = 0; i < count; ++i) {
        bags.Gather(0, window.inputs[i]);
        TrainApart(window, window.num_sets == 1 ? 0 : i, bags.means[0]);
        bags.Scatter(0, error, 1);
      }
    }
  }

  // Trains the mean of the inputs. `error` becomes its change; the returned share of it belongs to
  // each input.
  FASTKERAS_INLINE float TrainMean(const Window& window, float* const* of, int count) {
    const float share = 1.0f / static_cast<float>(count);
    Mean(of, count, stride, share, hidden);
    TrainApart(window, 0, hidden);
    return settings.exact_cbow ? share : 1.0f;
  }

  // Trains the outputs of one input. The input itself stays; `error` becomes its change.
  FASTKERAS_INLINE void TrainApart(const Window& window, int set, float* input) {
    std::memset(error, 0, static_cast<size_t>(stride) * sizeof(float));
    TrainOne(window, set, input, error, error);
  }

  FASTKERAS_INLINE int LocateOutputs(const Window& window, int set) {
    const int count = window.num_outputs[set];
    const int32_t* ids_of_set = window.outputs + set * max_outputs;
    for (int j = 0; j < count; ++j) outputs[j] = place.output + ids_of_set[j] * stride;
    if (settings.frozen) {  // copies of them change, and are forgotten
      for (int j = 0; j < count; ++j) {
        float* const copy = frozen.data + j * stride;
        std::memcpy(copy, outputs[j], static_cast<size_t>(stride) * sizeof(float));
        outputs[j] = copy;
      }
    }
    return count;
  }

  // Trains one input with its outputs, which are updated at once; `result` becomes `partial` plus
  // the input's change.
  FASTKERAS_INLINE void TrainOne(const Window& window, int set, float* input, float* partial,
                                 float* result) {
    int count = LocateOutputs(window, set);
    if (settings.loss == Loss::kSampledSoftmax) {
      float* const x = logits.data;
      Dots(&input, 1, outputs, count, stride, x);
      for (int j = 0; j < count; ++j) x[j] += window.offsets[set * max_outputs + j];
      tally.loss += SoftmaxErrors(x, count, rate);
      if (window.repeated[set]) count = MergeOutputs(1, count);
      Update(&input, 1, outputs, count, x, count, stride, scratch, &partial, &result);
    } else {
      const bool noise = HasNoise(settings.loss), tree = HasTree(settings.loss);
      // An output that was drawn twice changes in between, so one output at a time.
      const int tile = noise && window.repeated[set] ? 1 : kOutputsOfOne;
      const float* const of_set = !tree   ? signs.data
                                  : noise ? window.offsets + set * max_outputs
                                          : window.signs;
      UpdateLogistic(input, partial, result, scratch[0], outputs, count, tile, of_set, rate, stride,
                     softplus);
    }
  }

  // Trains all inputs of a window with one set of outputs, by gradients of the values before;
  // `results` become `partial` plus the inputs' changes.
  FASTKERAS_INLINE void TrainTogether(const Window& window, int num_inputs, bool inputs_repeated,
                                      float* const* partial, float* const* results) {
    const int row_length = LocateOutputs(window, 0);
    int num_outputs = row_length;
    float* const x = logits.data;
    Dots(inputs, num_inputs, outputs, num_outputs, stride, x);
    if (settings.loss == Loss::kSampledSoftmax) {
      float* const z = padded.data;
      for (int i = 0; i < num_inputs; ++i) {
        for (int j = 0; j < num_outputs; ++j) z[j] = x[i * row_length + j] + window.offsets[j];
        tally.loss += SoftmaxErrors(z, num_outputs, rate);
        for (int j = 0; j < num_outputs; ++j) x[i * row_length + j] = z[j];
      }
    } else {
      if (HasTree(settings.loss)) {
        for (int k = 0; k < num_inputs * row_length; ++k)
          signs.data[k] = window.offsets[k % row_length];
      } else if (row_length != signs_row_length) {
        SetSigns(row_length);
      }
      SigmoidErrors(x, signs.data, num_inputs * num_outputs, rate, softplus);
    }
    if (window.repeated[0]) num_outputs = MergeOutputs(num_inputs, num_outputs);
    if (inputs_repeated) num_inputs = MergeInputs(num_inputs, row_length);
    Update(inputs, num_inputs, outputs, num_outputs, x, row_length, stride, scratch, partial,
           results);
  }

  // -1 for the logits of the true word, 1 for those of words drawn.
  void SetSigns(int row_length) {
    for (int k = 0; k < max_inputs * max_outputs + 16; ++k) {
      signs.data[k] = k % row_length == 0 ? -1.0f : 1.0f;
    }
    signs_row_length = row_length;
  }

  // Adds up the factors of equal rows; returns how many different rows there are.
  int MergeOutputs(int num_inputs, int count) {
    float* const g = logits.data;
    int kept = 0;
    for (int j = 0; j < count; ++j) {
      int same = 0;
      while (same < kept && outputs[same] != outputs[j]) ++same;
      for (int i = 0; i < num_inputs; ++i) {
        float* const row = g + i * count;
        row[same] = same < kept ? row[same] + row[j] : row[j];
      }
      outputs[same] = outputs[j];
      kept += same == kept;
    }
    return kept;
  }

  int MergeInputs(int count, int row_length) {
    float* const g = logits.data;
    int kept = 0;
    for (int i = 0; i < count; ++i) {
      int same = 0;
      while (same < kept && inputs[same] != inputs[i]) ++same;
      float* const to = g + same * row_length;
      for (int j = 0; j < row_length; ++j) {
        to[j] = same < kept ? to[j] + g[i * row_length + j] : g[i * row_length + j];
      }
      inputs[same] = inputs[i];
      kept += same == kept;
    }
    return kept;
  }
};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA
