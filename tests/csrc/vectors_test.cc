// Reads rows of vector files and keeps the best of scores, under the sanitizers.
//
// All arrays have exactly the size needed, so that the sanitizer detects an access beyond them. The
// suite in tests/word2vec/ compares both with Python and NumPy.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "machine/parallel.h"
#include "word2vec/vectors/keep_best.h"
#include "word2vec/vectors/rows.h"

using namespace fastkeras;
using namespace fastkeras::word2vec;

namespace {

std::mt19937 generator(20240301);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s\n", what);
}

void ReadsRows(int threads) {
  const int rows = Pick(0, 3000), columns = Pick(1, 9), odd = Pick(0, 20);
  std::string text, binary, words;
  std::vector<float> expected;
  int others = 0;
  for (int row = 0; row < rows; ++row) {
    const std::string word = "w" + std::to_string(row);
    const bool other = odd > 0 && Pick(0, 99) < odd;
    others += other;
    text += word;
    binary += word + ' ';
    for (int column = 0; column < columns; ++column) {
      const float number = static_cast<float>(Pick(-1000, 1000)) / 8;
      expected.push_back(number);
      text += (other ? "  " : " ") + std::to_string(number);
      binary.append(reinterpret_cast<const char*>(&number), sizeof number);
    }
    text += '\n';
    words += (other ? "" : word) + '\n';
  }
  const std::vector<char> exact(text.begin(), text.end());
  std::vector<float> found(expected.size());
  const ReadRows read = ReadTextRows(exact.data(), static_cast<int64_t>(exact.size()), columns,
                                     rows, found.data(), threads);
  Expect(read.rows == rows && read.words == words, "words of a text");
  Expect(read.bytes == static_cast<int64_t>(exact.size()), "bytes of a text");
  Expect(static_cast<int>(read.others.size()) == 3 * others, "lines of another form");
  if (others == 0) Expect(found == expected, "numbers of a text");

  const std::vector<char> bytes(binary.begin(), binary.end());
  std::fill(found.begin(), found.end(), 0.0f);
  const ReadRows again = ReadBinaryRows(bytes.data(), static_cast<int64_t>(bytes.size()), columns,
                                        rows, 20, found.data());
  Expect(again.rows == rows && found == expected, "rows of a binary file");
  for (int64_t cut = 0; cut < std::min<int64_t>(static_cast<int64_t>(bytes.size()), 40); ++cut) {
    const std::vector<char> part(bytes.begin(), bytes.begin() + cut);
    ReadBinaryRows(part.data(), cut, columns, rows, 20, found.data());
    ReadTextRows(part.data(), cut, columns, rows, found.data(), threads);
  }
}

template <typename T>
void KeepsTheBest() {
  const int queries = Pick(0, 9), columns = Pick(1, 300), topn = Pick(1, 12), blocks = 3;
  std::vector<T> best(queries * topn, -std::numeric_limits<T>::infinity());
  std::vector<int64_t> rows(best.size());
  std::vector<std::vector<T>> all(queries);
  for (int block = 0; block < blocks; ++block) {
    std::vector<T> scores(queries * columns), scales(columns, T{2});
    for (T& score : scores) score = static_cast<T>(Pick(-40, 40));
    KeepBest(scores.data(), scales.data(), queries, columns, block * columns, topn, best.data(),
             rows.data());
    for (int query = 0; query < queries; ++query) {
      for (int i = 0; i < columns; ++i) all[query].push_back(2 * scores[query * columns + i]);
    }
  }
  for (int query = 0; query < queries; ++query) {
    std::vector<int64_t> order(all[query].size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return all[query][a] > all[query][b]; });
    for (int i = 0; i < std::min(topn, blocks * columns); ++i) {
      Expect(rows[query * topn + i] == order[i], "the rows of the best");
      Expect(best[query * topn + i] == all[query][order[i]], "the best");
    }
  }
}

}  // namespace

int main() {
  SetWorthAThread(0);
  for (int round = 0; round < 40; ++round) {
    ReadsRows(1 + round % 3);
    KeepsTheBest<float>();
    KeepsTheBest<double>();
  }
  if (failures == 0) std::printf("vectors: no failure\n");
  return failures != 0;
}
