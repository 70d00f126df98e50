// Windows and the words drawn for them, some time before they are trained, so that their rows can
// be prefetched. Compiled once for each instruction set.

#ifndef FASTKERAS_WORD2VEC_WINDOWS_H_
#define FASTKERAS_WORD2VEC_WINDOWS_H_

#include "machine/memory.h"
#include "word2vec/kernels.h"
// After the standard headers:
#include "word2vec/chunk.h"
#include "word2vec/rows.h"
#include "word2vec/sampling.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

using word2vec::Loss;
using word2vec::Objective;

// Has a set of outputs for each input, or one for all. The outputs of a set are different rows
// unless `repeated` says otherwise. Inputs are rows of the matrix or of its copies, or, with
// subwords, words.
struct Window {
  int32_t* inputs;
  int32_t* outputs;
  int32_t* num_outputs;
  bool* repeated;
  float* offsets;      // of their logits; with both losses the signs
  const float* signs;  // of an inner node's logit
  int num_inputs, num_sets;
  int32_t document;  // the last input, or -1
  bool inputs_repeated;
};

FASTKERAS_INLINE bool IsRepeated(const int32_t* ids, int count) {
  bool repeated = false;
  for (int i = 1; i < count; ++i) {
    for (int k = 0; k < i; ++k) repeated |= ids[k] == ids[i];
  }
  return repeated;
}

// The windows that are drawn and not yet trained.
struct Windows {
  static constexpr int kRing = 4;

  const word2vec::Problem& problem;
  const word2vec::Settings& settings;
  const word2vec::Place place;
  const int64_t stride;
  const int max_inputs, max_outputs, max_sets;
  Buffer<int32_t> ids;
  Buffer<float> offsets;
  Buffer<bool> repeated;
  Window windows[kRing];

  Windows(const word2vec::Problem& of, const word2vec::Place& at)
      : problem(of),
        settings(of.settings),
        place(at),
        stride(of.model.stride),
        max_inputs(static_cast<int>(of.MaxInputs())),
        max_outputs(static_cast<int>(of.MaxOutputs())),
        max_sets(OneSet() ? 1 : max_inputs),
        ids(kRing * (max_inputs + max_sets * (max_outputs + 1))),
        offsets(kRing * max_sets * max_outputs),
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
  }

  bool OneSet() const {
    return settings.objective == Objective::kCbow || settings.shared_negatives ||
           settings.loss == Loss::kHierarchicalSoftmax;
  }

  // Words that stay as they are change nothing as single inputs.
  bool TakesWords() const {
    return !settings.documents_alone &&
           !(settings.frozen && settings.objective == Objective::kSkipGram);
  }

  FASTKERAS_INLINE const Window& At(int c) const { return windows[c % kRing]; }

  FASTKERAS_INLINE void Draw(const Chunk& chunk, const Bags& bags, int c) {
    Window& window = windows[c % kRing];
    const uint64_t drawn = chunk.bits.data[c];
    const int width = settings.shrink_windows ? WindowOf(drawn, settings.window) : settings.window;
    const int reach = width < problem.reach ? width : problem.reach;
    const int sentence_begin = chunk.sentence_begins.data[c];
    const int sentence_end = chunk.sentence_ends.data[c];
    const int left = c - reach > sentence_begin ? c - reach : sentence_begin;
    const int right = c + reach + 1 < sentence_end ? c + reach + 1 : sentence_end;
    int count = 0;
    for (int i = TakesWords() ? left : right; i < right; ++i) {
      window.inputs[count] = chunk.words.data[i];
      count += i != c;
    }
    window.num_inputs = count;
    window.document = problem.HasDocuments() ? chunk.documents.data[c] : -1;
    count += problem.HasDocuments();
    window.num_sets = OneSet() ? count > 0 : count;
    window.inputs_repeated =
        settings.shared_negatives && IsRepeated(window.inputs, window.num_inputs);
    for (int set = 0; set < window.num_sets; ++set)
      DrawSet(chunk.words.data[c], drawn, set, window);
    if (place.document_overlay) ReplaceByCopies(&window.document, 1, place.document_overlay);
    if (!place.input_overlay) {
      if (TakesWords()) FetchInputs(chunk, bags, c);
    } else if (!bags.Exist()) {
      ReplaceByCopies(window.inputs, window.num_inputs, place.input_overlay);
    }
  }

  // A word is a context in many windows: its row is fetched once, when the widest would reach it.
  FASTKERAS_INLINE void FetchInputs(const Chunk& chunk, const Bags& bags, int c) const {
    const int reached = c + problem.reach < chunk.size ? c + problem.reach : chunk.size - 1;
    for (int i = c > chunk.first ? c + problem.reach : 0; i <= reached; ++i) {
      const int32_t word = chunk.words.data[i];
      if (bags.Exist()) {
        bags.FetchRows(word);
      } else {
        Fetch(place.input + word * stride, stride);
      }
    }
  }

  FASTKERAS_INLINE void DrawSet(int32_t word, uint64_t drawn, int set, Window& window) {
    const word2vec::Tables& tables = problem.tables;
    int32_t* const to = window.outputs + set * max_outputs;
    int count = 0;
    float* const offset = window.offsets + set * max_outputs;
    if (HasNoise(settings.loss)) {
      const int negative = settings.negative;
      to[0] = word;
      DrawNoise(drawn, set * negative, negative, tables.noise, tables.num_words, to + 1);
      count = 1;
      for (int j = 1; j <= negative; ++j) {  // drops those that are the word itself
        to[count] = to[j];
        count += to[j] != word;
      }
      if (settings.loss == Loss::kSampledSoftmax) {
        for (int j = 0; j < count; ++j) offset[j] = j == 0 ? 0 : tables.logit_offsets[to[j]];
      }
      window.repeated[set] = IsRepeated(to, count);
    }
    if (HasTree(settings.loss)) {
      const int64_t begin = tables.path_starts[word];
      const int words = count, length = static_cast<int>(tables.path_starts[word + 1] - begin);
      for (int j = 0; j < length; ++j) to[count++] = tables.path_nodes[begin + j];
      window.signs = tables.path_signs + begin;
      if (words > 0) {
        for (int j = 0; j < words; ++j) offset[j] = j == 0 ? -1.0f : 1.0f;
        for (int j = 0; j < length; ++j) offset[words + j] = window.signs[j];
      }
    }
    window.num_outputs[set] = count;
    if (place.output_overlay) {
      ReplaceByCopies(to, count, place.output_overlay);
    } else {
      for (int j = 0; j < count; ++j) Fetch(place.output + to[j] * stride, stride);
    }
  }
};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_WORD2VEC_WINDOWS_H_
