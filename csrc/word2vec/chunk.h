// Which words of a slice stay, and where their sentences end. Compiled once for each instruction
// set.

#ifndef FASTKERAS_WORD2VEC_CHUNK_H_
#define FASTKERAS_WORD2VEC_CHUNK_H_

#include "machine/memory.h"
#include "word2vec/kernels.h"
// After the standard headers:
#include "word2vec/sampling.h"

FASTKERAS_BEGIN_ISA

namespace fastkeras::FASTKERAS_ISA {

// The words of a chunk that stay after subsampling. Before and after them come those words of its
// first and its last sentence that lie outside the chunk, but within reach of its windows.
struct Chunk {
  const word2vec::Problem& problem;
  Buffer<int32_t> words, sentence_begins, sentence_ends, documents;
  Buffer<uint64_t> bits;
  int first = 0, last = 0, size = 0;  // the words first..last-1 are predicted

  explicit Chunk(const word2vec::Problem& of)
      : problem(of),
        words(word2vec::kChunk + 2 * of.reach),
        sentence_begins(word2vec::kChunk + 2 * of.reach),
        sentence_ends(word2vec::kChunk + 2 * of.reach),
        documents(of.HasDocuments() ? word2vec::kChunk + 2 * of.reach : 0),
        bits(word2vec::kChunk + 2 * of.reach) {}

  void Read(int64_t begin, int64_t end) {
    const int32_t* ids = problem.corpus.ids;
    const int reach = problem.reach;
    size = 0;
    int found = 0;
    int64_t from = begin;
    while (from > 0 && IsWord(ids[from - 1]) && found < reach) {
      --from;
      found += Stays(BitsAt(problem.settings.key, from), problem.tables.keep[ids[from]]);
    }
    int sentence = 0;
    for (; from < begin; ++from) Take(from, sentence);
    first = size;
    for (int64_t p = begin; p < end; ++p) {
      if (ids[p] >= 0) {
        Take(p, sentence);
      } else {
        EndSentence(sentence);
        sentence = size;
      }
    }
    last = size;
    found = 0;
    for (int64_t p = end; p < problem.corpus.size && IsWord(ids[p]) && found < reach; ++p)
      found += Take(p, sentence);
    EndSentence(sentence);
  }

  FASTKERAS_INLINE bool IsWord(int32_t id) const {
    return id >= 0 && id < problem.tables.num_words;
  }

  // Appends a word if it stays.
  FASTKERAS_INLINE bool Take(int64_t position, int begin) {
    const int32_t word = problem.corpus.ids[position];
    const uint64_t drawn = BitsAt(problem.settings.key, position);
    words.data[size] = word;
    bits.data[size] = drawn;
    sentence_begins.data[size] = begin;
    if (problem.HasDocuments()) documents.data[size] = problem.corpus.documents[position];
    const bool stays = Stays(drawn, problem.tables.keep[word]);
    size += stays;
    return stays;
  }

  FASTKERAS_INLINE void EndSentence(int begin) {
    for (int i = begin; i < size; ++i) sentence_ends.data[i] = size;
  }
};

}  // namespace fastkeras::FASTKERAS_ISA

FASTKERAS_END_ISA

#endif  // FASTKERAS_WORD2VEC_CHUNK_H_
