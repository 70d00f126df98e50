// Runs the counting and the encoding of words under the sanitizers, and compares them to a plain
// reading of the same text. Texts are in arrays of exactly their size, so that a read beyond the
// end is detected.

#include "word2vec/text/text.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "machine/parallel.h"

using namespace fastkeras::word2vec;

namespace {

constexpr int kRounds = 40;
std::mt19937 generator(20240229);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool condition, const char* what, int round) {
  if (condition) return;
  ++failures;
  std::fprintf(stderr, "round %d: %s\n", round, what);
}

// Blocks of words of 1 to 40 bytes, most from a short alphabet, so that they repeat.
std::vector<std::vector<char>> Blocks() {
  const std::string spaces = " \t\n\v\f\r";
  std::vector<std::vector<char>> blocks(Pick(1, 3));
  for (std::vector<char>& block : blocks) {
    const int words = Pick(0, 1) ? Pick(0, 30) : 12000;
    const int letters = Pick(1, 3), longest = Pick(1, 12) * (Pick(0, 9) ? 1 : 4);
    for (int word = 0; word < words; ++word) {
      for (int i = Pick(1, longest); i > 0; --i) {
        block.push_back(static_cast<char>(Pick(0, 999) ? 'a' + Pick(0, letters) : Pick(128, 255)));
      }
      for (int i = Pick(0, 5) ? 1 : 3; i > 0; --i) block.push_back(spaces[Pick(0, 5)]);
    }
    block.push_back('\n');
    block.shrink_to_fit();
  }
  return blocks;
}

struct Plain {
  std::map<std::string, int64_t> counts;
  std::vector<std::string> order;  // by first occurrence
  std::vector<std::vector<std::string>> sentences{{}};

  explicit Plain(const std::vector<std::vector<char>>& blocks) {
    std::string word;
    for (const std::vector<char>& block : blocks) {
      for (char c : block) {
        if (std::string_view(" \t\n\v\f\r").find(c) == std::string_view::npos) {
          word += c;
          continue;
        }
        if (!word.empty()) {
          if (counts[word]++ == 0) order.push_back(word);
          sentences.back().push_back(word);
          word.clear();
        }
        if (c == '\n') sentences.emplace_back();
      }
    }
  }
};

void CheckCounts(const WordCounter& counter, const Plain& plain, int64_t min_count, int round) {
  std::vector<std::string> expected;
  for (const std::string& word : plain.order) {
    if (plain.counts.at(word) >= min_count) expected.push_back(word);
  }
  const std::vector<Word> words = counter.Words(min_count);
  Expect(words.size() == expected.size(), "as many words as read plainly", round);
  for (size_t i = 0; i < std::min(words.size(), expected.size()); ++i) {
    Expect(std::string_view(words[i].text, words[i].length) == expected[i], "the order", round);
    Expect(words[i].value == plain.counts.at(expected[i]), "the count", round);
  }
}

}  // namespace

int main() {
  fastkeras::SetWorthAThread(0);
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<std::vector<char>> blocks = Blocks();
    const Plain plain(blocks);
    const int num_threads = Pick(1, 4);

    WordCounter counter;
    for (const auto& block : blocks) counter.Add(block.data(), block.size(), num_threads);
    Expect(counter.size() == static_cast<int64_t>(plain.order.size()), "size", round);
    CheckCounts(counter, plain, 1, round);
    CheckCounts(counter, plain, 3, round);
    counter.Drop(2);
    CheckCounts(counter, plain, 3, round);

    // Every second word is known.
    std::string letters;
    std::vector<int64_t> ends;
    std::map<std::string, int32_t> ids;
    for (size_t i = 0; i < plain.order.size(); i += 2) {
      ids[plain.order[i]] = static_cast<int32_t>(ends.size());
      letters += plain.order[i];
      ends.push_back(static_cast<int64_t>(letters.size()));
    }
    std::vector<int32_t> expected;
    for (const auto& sentence : plain.sentences) {
      const size_t before = expected.size();
      for (const std::string& word : sentence) {
        if (ids.count(word)) expected.push_back(ids[word]);
      }
      if (expected.size() > before) expected.push_back(-1);
    }
    WordEncoder encoder(letters.data(), ends.data(), static_cast<int64_t>(ends.size()));
    std::vector<int32_t> encoded;
    for (const auto& block : blocks) {
      const std::vector<int32_t> more = encoder.Encode(block.data(), block.size(), num_threads);
      encoded.insert(encoded.end(), more.begin(), more.end());
    }
    Expect(encoded == expected, "the ids of the sentences", round);
  }
  std::printf("%d random texts, %d failures\n", kRounds, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
