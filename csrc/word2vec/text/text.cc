#include "word2vec/text/text.h"

#include <algorithm>
#include <cstring>

#include "machine/parallel.h"

namespace fastkeras::word2vec {
namespace {

constexpr size_t kLettersBlock = size_t{1} << 16;
constexpr int64_t kSmallestChunk = 1 << 14;  // bytes; shorter ones are not worth a thread
constexpr double kWork = 4;                  // nanoseconds for a byte

constexpr bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

inline uint64_t Load(const char* text, size_t bytes) {
  uint64_t value = 0;
  std::memcpy(&value, text, bytes);
  return value;
}

inline uint64_t Mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Eight bytes at a time; the last eight overlap those before, so that no loop over bytes is needed.
inline uint64_t Hash(const char* text, size_t length) {
  constexpr uint64_t kA = 0x9E3779B97F4A7C15, kB = 0xD6E8FEB86659FD93;
  uint64_t hash = kB ^ length;
  if (length > 8) {
    for (size_t i = 0; i + 8 < length; i += 8) hash = Mix(hash ^ Load(text + i, 8), kA);
    return Mix(hash ^ Load(text + length - 8, 8), kB);
  }
  uint64_t letters;
  if (length >= 4) {
    letters = Load(text, 4) | Load(text + length - 4, 4) << 32;
  } else {
    letters = Load(text, 1) | Load(text + length / 2, 1) << 8 | Load(text + length - 1, 1) << 16;
  }
  return Mix(Mix(hash ^ letters, kA), kB);
}

// Where the chunk begins if `size` bytes are cut, between words, into `chunks` of similar length.
int64_t Cut(const char* text, int64_t size, int64_t chunk, int64_t chunks) {
  int64_t position = size / chunks * chunk;
  if (chunk == chunks) return size;
  if (position == 0) return 0;
  while (position < size && !IsSpace(text[position - 1])) ++position;
  return position;
}

int64_t NumChunks(int64_t size, int threads) {
  const int64_t wanted = threads == 1 ? 1 : 4 * threads;  // some threads may be slower
  return std::clamp<int64_t>(size / kSmallestChunk, 1, wanted);
}

// Calls on_word(text, length, hash) and on_line() in the order of the text.
template <typename OnWord, typename OnLine>
inline void Scan(const char* text, const char* end, OnWord&& on_word, OnLine&& on_line) {
  while (text < end) {
    if (IsSpace(*text)) {
      if (*text == '\n') on_line();
      ++text;
      continue;
    }
    const char* begin = text;
    while (text < end && !IsSpace(*text)) ++text;
    on_word(begin, static_cast<uint32_t>(text - begin), Hash(begin, text - begin));
  }
}

}  // namespace

Word* WordTable::Find(const char* text, uint32_t length, uint32_t hash) {
  if (slots_.empty()) Reserve(512);
  return const_cast<Word*>(static_cast<const WordTable*>(this)->Find(text, length, hash));
}

const Word* WordTable::Find(const char* text, uint32_t length, uint32_t hash) const {
  const size_t mask = slots_.size() - 1;
  for (size_t i = hash & mask;; i = (i + 1) & mask) {
    const Word& word = slots_[i];
    if (word.text == nullptr) return &word;
    if (word.hash == hash && word.length == length && std::memcmp(word.text, text, length) == 0) {
      return &word;
    }
  }
}

void WordTable::Added() {
  ++size_;
  if (static_cast<size_t>(2 * size_) > slots_.size()) Reserve(size_);
}

void WordTable::Reserve(int64_t words) {
  size_t slots = 16;
  while (slots < static_cast<size_t>(2 * words)) slots *= 2;
  if (slots <= slots_.size()) return;
  std::vector<Word> old(slots, Word{});
  old.swap(slots_);
  for (const Word& word : old) {
    if (word.text == nullptr) continue;
    size_t i = word.hash & (slots - 1);
    while (slots_[i].text != nullptr) i = (i + 1) & (slots - 1);
    slots_[i] = word;
  }
}

const char* Letters::Keep(const char* text, uint32_t length) {
  if (length > free_) {
    free_ = std::max<size_t>(kLettersBlock, length);
    blocks_.emplace_back(new char[free_]);
    next_ = blocks_.back().get();
  }
  char* kept = next_;
  std::memcpy(kept, text, length);
  next_ += length;
  free_ -= length;
  return kept;
}

void WordCounter::Add(const char* text, int64_t size, int num_threads) {
  const int threads = ThreadsThatPay(kWork * static_cast<double>(size), num_threads);
  const int64_t chunks = NumChunks(size, threads);
  std::vector<WordTable> counts(chunks * kShards);
  ParallelFor(chunks, threads, [&](int64_t chunk) {
    WordTable* tables = &counts[chunk * kShards];
    const auto count = [&](const char* word, uint32_t length, uint64_t hash) {
      WordTable& table = tables[hash >> 60];
      Word* slot = table.Find(word, length, static_cast<uint32_t>(hash));
      if (slot->text != nullptr) {
        ++slot->value;
        return;
      }
      *slot = {word, 1, position_ + (word - text), length, static_cast<uint32_t>(hash)};
      table.Added();
    };
    Scan(text + Cut(text, size, chunk, chunks), text + Cut(text, size, chunk + 1, chunks), count,
         [] {});
  });
  ParallelFor(kShards, threads, [&](int64_t shard) {
    Shard& all = shards_[shard];
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (const Word& word : counts[chunk * kShards + shard].slots()) {
        if (word.text == nullptr) continue;
        Word* slot = all.table.Find(word.text, word.length, word.hash);
        if (slot->text != nullptr) {
          slot->value += word.value;
          continue;
        }
        *slot = word;
        slot->text = all.letters.Keep(word.text, word.length);
        all.table.Added();
      }
    }
  });
  position_ += size;
}

int64_t WordCounter::size() const {
  int64_t words = 0;
  for (const Shard& shard : shards_) words += shard.table.size();
  return words;
}

void WordCounter::Drop(int64_t floor) {
  for (Shard& shard : shards_) {
    Shard kept;
    for (const Word& word : shard.table.slots()) {
      if (word.text == nullptr || word.value <= floor) continue;
      Word* slot = kept.table.Find(word.text, word.length, word.hash);
      *slot = word;
      slot->text = kept.letters.Keep(word.text, word.length);
      kept.table.Added();
    }
    shard = std::move(kept);
  }
}

std::vector<Word> WordCounter::Words(int64_t min_count) const {
  std::vector<Word> words;
  for (const Shard& shard : shards_) {
    for (const Word& word : shard.table.slots()) {
      if (word.text != nullptr && word.value >= min_count) words.push_back(word);
    }
  }
  std::sort(words.begin(), words.end(),
            [](const Word& a, const Word& b) { return a.first < b.first; });
  return words;
}

WordEncoder::WordEncoder(const char* text, const int64_t* ends, int64_t num_words)
    : letters_(text, num_words > 0 ? ends[num_words - 1] : 0) {
  table_.Reserve(std::max<int64_t>(num_words, 1));
  for (int64_t i = 0; i < num_words; ++i) {
    const int64_t begin = i > 0 ? ends[i - 1] : 0;
    const uint32_t length = static_cast<uint32_t>(ends[i] - begin);
    if (length == 0) continue;  // no text contains it
    const char* word = letters_.data() + begin;
    const uint32_t hash = static_cast<uint32_t>(Hash(word, length));
    *table_.Find(word, length, hash) = {word, i, 0, length, hash};
    table_.Added();
  }
}

std::vector<int32_t> WordEncoder::Encode(const char* text, int64_t size, int num_threads) {
  const int threads = ThreadsThatPay(kWork * static_cast<double>(size), num_threads);
  const int64_t chunks = NumChunks(size, threads);
  std::vector<std::vector<int32_t>> pieces(chunks);
  ParallelFor(chunks, threads, [&](int64_t chunk) {
    std::vector<int32_t>& ids = pieces[chunk];
    ids.reserve(size / chunks / 4);
    const WordTable& table = table_;
    Scan(
        text + Cut(text, size, chunk, chunks), text + Cut(text, size, chunk + 1, chunks),
        [&](const char* word, uint32_t length, uint64_t hash) {
          const Word* slot = table.Find(word, length, static_cast<uint32_t>(hash));
          if (slot->text != nullptr) ids.push_back(static_cast<int32_t>(slot->value));
        },
        [&] {
          if (ids.empty() || ids.back() != -1) ids.push_back(-1);
        });
  });
  std::vector<int32_t> all;
  for (const std::vector<int32_t>& ids : pieces) {
    if (ids.empty()) continue;
    // A chunk cannot know whether the line that it ends had words in the chunk before.
    const bool nothing_to_end = ids.front() == -1 && !in_sentence_;
    all.insert(all.end(), ids.begin() + nothing_to_end, ids.end());
    in_sentence_ = ids.back() != -1;
  }
  return all;
}

}  // namespace fastkeras::word2vec
