// Words of UTF-8 text: counted for a vocabulary, then written as ids. A word is what stands between
// ASCII whitespace, a sentence is a line. Results do not depend on the number of threads.

#ifndef FASTKERAS_WORD2VEC_TEXT_TEXT_H_
#define FASTKERAS_WORD2VEC_TEXT_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fastkeras::word2vec {

struct Word {
  const char* text;  // null: a free slot
  int64_t value;     // its count, or its id
  int64_t first;     // where in the corpus it occurred first, in bytes
  uint32_t length;
  uint32_t hash;
};

// Open addressing with linear probing; at most half full. It does not own the texts of the words.
class WordTable {
 public:
  // The word's slot, which is free (text == null) if the word is new: then fill it and call Added.
  Word* Find(const char* text, uint32_t length, uint32_t hash);
  const Word* Find(const char* text, uint32_t length, uint32_t hash) const;
  void Added();
  void Reserve(int64_t words);  // room for that many without growing
  int64_t size() const { return size_; }
  const std::vector<Word>& slots() const { return slots_; }

 private:
  std::vector<Word> slots_;
  int64_t size_ = 0;
};

// Memory for the text of many words, freed together.
class Letters {
 public:
  const char* Keep(const char* text, uint32_t length);

 private:
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t free_ = 0;
  char* next_ = nullptr;
};

class WordCounter {
 public:
  // Adds the words of one block of the corpus; blocks must end between words.
  void Add(const char* text, int64_t size, int num_threads);

  // The number of different words.
  int64_t size() const;

  // Forgets the words that occurred at most `floor` times.
  void Drop(int64_t floor);

  // The words that occurred at least `min_count` times, in the order of their first occurrence.
  std::vector<Word> Words(int64_t min_count) const;

 private:
  // A word's place follows from its hash, so that threads can merge their counts side by side.
  static constexpr int kShards = 16;
  struct Shard {
    WordTable table;
    Letters letters;
  };
  Shard shards_[kShards];
  int64_t position_ = 0;
};

class WordEncoder {
 public:
  // Word i is the bytes of `text` from ends[i - 1] to ends[i], and its id is i.
  WordEncoder(const char* text, const int64_t* ends, int64_t num_words);

  // The ids of one block's words, and -1 after each sentence; other words and empty sentences are
  // left out. The corpus must end with a line feed.
  std::vector<int32_t> Encode(const char* text, int64_t size, int num_threads);

 private:
  WordTable table_;
  std::string letters_;
  bool in_sentence_ = false;  // an id came since the last -1
};

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_TEXT_TEXT_H_
