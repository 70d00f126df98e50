// A pass over a slice of the corpus: draw a window's samples, fetch its rows, and, two windows
// later, when they have come, train it. Compiled once for each instruction set.

#include "memory.h"
#include "word2vec/kernels.h"
// After the standard headers:
#include "word2vec/errors.h"
#include "word2vec/products.h"
#include "word2vec/sampling.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

using word2vec::Loss;
using word2vec::Objective;
using word2vec::Overlay;

// The words that stay of a chunk, between what is left of its first sentence before it and of its
// last sentence after it, as far as windows reach.
struct Chunk {
  Buffer<int32_t> words, sentence_begins, sentence_ends;
  Buffer<uint64_t> bits;
  int first = 0, last = 0, size = 0;  // predicted are first..last-1

  explicit Chunk(int window)
      : words(word2vec::kChunk + 2 * window),
        sentence_begins(word2vec::kChunk + 2 * window),
        sentence_ends(word2vec::kChunk + 2 * window),
        bits(word2vec::kChunk + 2 * window) {}
};

// One window and what was drawn for it: a set of outputs for each input, or one for all. Outputs of
// a set are of different rows unless it is marked.
struct Window {
  int32_t* inputs;
  int32_t* outputs;
  int32_t* num_outputs;
  bool* repeated;
  float* offsets;      // of their logits
  const float* signs;  // of an inner node's logit
  int num_inputs, num_sets;
  bool inputs_repeated;
};

FASTKERAS_INLINE bool IsRepeated(const int32_t* ids, int count) {
  bool repeated = false;
  for (int i = 1; i < count; ++i) {
    for (int k = 0; k < i; ++k) repeated |= ids[k] == ids[i];
  }
  return repeated;
}

struct Pass {
  static constexpr int kAhead = 2;
  static constexpr int kRing = 4;

  const word2vec::Problem& problem;
  const word2vec::Settings& settings;
  const word2vec::Place place;
  const int64_t stride;
  const int max_inputs, max_outputs, max_sets;
  Chunk chunk;
  Buffer<int32_t> ids;
  Buffer<float> offsets, logits, signs, padded, rows;
  Buffer<float*> pointers;
  Buffer<bool> repeated;
  Window windows[kRing];
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
        max_inputs(2 * of.settings.window),
        max_outputs(of.settings.loss == Loss::kHierarchicalSoftmax ? of.tables.longest_path
                                                                   : of.settings.negative + 1),
        max_sets(OneSet() ? 1 : max_inputs),
        chunk(of.settings.window),
        ids(kRing * (max_inputs + max_sets * (max_outputs + 1))),
        offsets(kRing * max_sets * max_outputs),
        logits(max_inputs * max_outputs + 16),
        signs(max_inputs * max_outputs + 16),
        padded(max_outputs + 16),
        rows((max_inputs + 2) * stride),
        pointers(2 * max_inputs + max_outputs),
        repeated(kRing * max_sets) {
    int32_t* id = ids.data;
    for (int w = 0; w < kRing; ++w) {
      windows[w].inputs = id;
      windows[w].num_outputs = id + max_inputs;
      windows[w].outputs = id + max_inputs + max_sets;
      id += max_inputs + max_sets * (max_outputs + 1);
      windows[w].offsets = offsets.data + w * max_sets * max_outputs;
      windows[w].repeated = repeated.data + w * max_sets;
    }
    inputs = pointers.data;
    scratch = inputs + max_inputs;
    outputs = scratch + max_inputs;
    for (int i = 0; i < max_inputs; ++i) scratch[i] = rows.data + i * stride;
    hidden = rows.data + max_inputs * stride;
    error = hidden + stride;
    SetSigns(max_outputs > 0 ? max_outputs : 1);
  }

  bool OneSet() const {
    return settings.objective == Objective::kCbow || settings.shared_negatives ||
           settings.loss == Loss::kHierarchicalSoftmax;
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
    Subsample(begin, end);
    tally.words += chunk.last - chunk.first;
    for (int c = chunk.first; c < chunk.last + kAhead; ++c) {
      if (c < chunk.last) Draw(c, windows[c % kRing]);
      if (c - kAhead >= chunk.first) TrainWindow(windows[(c - kAhead) % kRing]);
    }
  }

  // Takes a word into the chunk if it stays.
  FASTKERAS_INLINE bool Take(int64_t position, int begin) {
    const int32_t word = problem.corpus.ids[position];
    const uint64_t drawn = BitsAt(settings.key, position);
    chunk.words.data[chunk.size] = word;
    chunk.bits.data[chunk.size] = drawn;
    chunk.sentence_begins.data[chunk.size] = begin;
    const bool stays = Stays(drawn, problem.tables.keep[word]);
    chunk.size += stays;
    return stays;
  }

  FASTKERAS_INLINE void EndSentence(int begin) {
    for (int i = begin; i < chunk.size; ++i) chunk.sentence_ends.data[i] = chunk.size;
  }

  void Subsample(int64_t begin, int64_t end) {
    const int32_t* words = problem.corpus.ids;
    chunk.size = 0;
    int found = 0;
    int64_t from = begin;
    while (from > 0 && words[from - 1] >= 0 && found < settings.window) {
      --from;
      found += Stays(BitsAt(settings.key, from), problem.tables.keep[words[from]]);
    }
    int sentence = 0;
    for (; from < begin; ++from) Take(from, sentence);
    chunk.first = chunk.size;
    for (int64_t p = begin; p < end; ++p) {
      if (words[p] >= 0) {
        Take(p, sentence);
      } else {
        EndSentence(sentence);
        sentence = chunk.size;
      }
    }
    chunk.last = chunk.size;
    found = 0;
    for (int64_t p = end; p < problem.corpus.size && words[p] >= 0 && found < settings.window; ++p)
      found += Take(p, sentence);
    EndSentence(sentence);
  }

  FASTKERAS_INLINE void Fetch(const float* row) const {
    for (int64_t s = 0; s < stride; s += 16) __builtin_prefetch(row + s, 0, 2);
  }

  // Replaces rows of a matrix by those of their copies, which are made if there are none.
  FASTKERAS_INLINE void Locate(int32_t* rows_of, int count, Overlay* overlay) const {
    for (int i = 0; i < count; ++i) {
      int32_t& slot = overlay->slots[rows_of[i]];
      if (slot < 0) {
        slot = overlay->count++;
        overlay->rows[slot] = rows_of[i];
        std::memcpy(overlay->copies + slot * stride, overlay->origin + rows_of[i] * stride,
                    static_cast<size_t>(stride) * sizeof(float));
      }
      rows_of[i] = slot;
    }
  }

  // A word is a context in many windows: its row is asked for once, when the widest would reach it.
  FASTKERAS_INLINE void FetchInputs(int c) const {
    const int reached = c + settings.window < chunk.size ? c + settings.window : chunk.size - 1;
    for (int i = c > chunk.first ? c + settings.window : 0; i <= reached; ++i) {
      Fetch(place.input + chunk.words.data[i] * stride);
    }
  }

  FASTKERAS_INLINE void Draw(int c, Window& window) {
    const uint64_t drawn = chunk.bits.data[c];
    const int reach = settings.shrink_windows ? WindowOf(drawn, settings.window) : settings.window;
    const int sentence_begin = chunk.sentence_begins.data[c];
    const int sentence_end = chunk.sentence_ends.data[c];
    const int left = c - reach > sentence_begin ? c - reach : sentence_begin;
    const int right = c + reach + 1 < sentence_end ? c + reach + 1 : sentence_end;
    int count = 0;
    for (int i = left; i < right; ++i) {
      window.inputs[count] = chunk.words.data[i];
      count += i != c;
    }
    window.num_inputs = count;
    window.num_sets = OneSet() ? count > 0 : count;
    window.inputs_repeated =
        settings.shared_negatives && IsRepeated(window.inputs, window.num_inputs);
    for (int set = 0; set < window.num_sets; ++set)
      DrawSet(chunk.words.data[c], drawn, set, window);
    if (place.input_overlay) {
      Locate(window.inputs, window.num_inputs, place.input_overlay);
    } else {
      FetchInputs(c);
    }
  }

  FASTKERAS_INLINE void DrawSet(int32_t word, uint64_t drawn, int set, Window& window) {
    const word2vec::Tables& tables = problem.tables;
    int32_t* const to = window.outputs + set * max_outputs;
    int count = 0;
    if (settings.loss == Loss::kHierarchicalSoftmax) {
      const int64_t begin = tables.path_starts[word];
      count = static_cast<int>(tables.path_starts[word + 1] - begin);
      for (int j = 0; j < count; ++j) to[j] = tables.path_nodes[begin + j];
      window.signs = tables.path_signs + begin;
    } else {
      const int negative = settings.negative;
      to[0] = word;
      DrawNoise(drawn, set * negative, negative, tables.noise, tables.num_words, to + 1);
      count = 1;
      for (int j = 1; j <= negative; ++j) {  // without those that are the word itself
        to[count] = to[j];
        count += to[j] != word;
      }
      if (settings.loss == Loss::kSampledSoftmax) {
        float* const offset = window.offsets + set * max_outputs;
        for (int j = 0; j < count; ++j) offset[j] = j == 0 ? 0 : tables.logit_offsets[to[j]];
      }
      window.repeated[set] = IsRepeated(to, count);
    }
    window.num_outputs[set] = count;
    if (place.output_overlay) {
      Locate(to, count, place.output_overlay);
    } else {
      for (int j = 0; j < count; ++j) Fetch(place.output + to[j] * stride);
    }
  }

  FASTKERAS_INLINE void TrainWindow(const Window& window) {
    if (window.num_inputs == 0) return;
    for (int i = 0; i < window.num_inputs; ++i) {
      inputs[i] = place.input + window.inputs[i] * stride;
    }
    if (settings.objective == Objective::kCbow) {
      tally.predictions += 1;
      TrainMean(window);
    } else {
      tally.predictions += window.num_inputs;
      if (settings.shared_negatives) {
        TrainTogether(window);
      } else {
        for (int i = 0; i < window.num_inputs; ++i) {
          TrainOne(window, window.num_sets == 1 ? 0 : i, inputs[i], inputs[i], inputs[i]);
        }
      }
    }
  }

  FASTKERAS_INLINE void TrainMean(const Window& window) {
    const float share = 1.0f / static_cast<float>(window.num_inputs);
    Mean(inputs, window.num_inputs, stride, share, hidden);
    std::memset(error, 0, static_cast<size_t>(stride) * sizeof(float));
    TrainOne(window, 0, hidden, error, error);
    AddToEach(error, settings.exact_cbow ? share : 1.0f, stride, inputs, window.num_inputs);
  }

  FASTKERAS_INLINE int LocateOutputs(const Window& window, int set) {
    const int count = window.num_outputs[set];
    const int32_t* ids_of_set = window.outputs + set * max_outputs;
    for (int j = 0; j < count; ++j) outputs[j] = place.output + ids_of_set[j] * stride;
    return count;
  }

  // One input with its outputs, each of which is updated at once; the input's change goes to
  // `result`, which is `partial` plus it.
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
      const bool tree = settings.loss == Loss::kHierarchicalSoftmax;
      // An output drawn twice has changed in between.
      const int tile = !tree && window.repeated[set] ? 1 : kOutputsOfOne;
      UpdateLogistic(input, partial, result, scratch[0], outputs, count, tile,
                     tree ? window.signs : signs.data, rate, stride, softplus);
    }
  }

  // All inputs of a window with one set of outputs, all gradients from the values before.
  FASTKERAS_INLINE void TrainTogether(const Window& window) {
    const int row_length = LocateOutputs(window, 0);
    int num_inputs = window.num_inputs, num_outputs = row_length;
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
      if (row_length != signs_row_length) SetSigns(row_length);
      SigmoidErrors(x, signs.data, num_inputs * num_outputs, rate, softplus);
    }
    if (window.repeated[0]) num_outputs = MergeOutputs(num_inputs, num_outputs);
    if (window.inputs_repeated) num_inputs = MergeInputs(num_inputs, row_length);
    Update(inputs, num_inputs, outputs, num_outputs, x, row_length, stride, scratch, inputs,
           inputs);
  }

  // -1 for the logits of a word that was there, 1 for those of words drawn.
  void SetSigns(int row_length) {
    for (int k = 0; k < max_inputs * max_outputs + 16; ++k) {
      signs.data[k] = k % row_length == 0 ? -1.0f : 1.0f;
    }
    signs_row_length = row_length;
  }

  // Factors of rows that are the same add up; returns how many different ones there are.
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
