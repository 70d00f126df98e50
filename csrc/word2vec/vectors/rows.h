// Rows of vector files, a word and its numbers: word2vec's text and binary. Only rows in the plain
// form that programs write are read; others are left to who knows what may be meant by them.

#ifndef FASTKERAS_WORD2VEC_VECTORS_ROWS_H_
#define FASTKERAS_WORD2VEC_VECTORS_ROWS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace fastkeras::word2vec {

struct ReadRows {
  std::string words;  // with a line feed after each
  int64_t rows = 0;
  int64_t bytes = 0;            // of the text, which these rows take
  std::vector<int64_t> others;  // three for each row that was left: the row, its begin and its end
};

// Reads lines `word number … number` into `rows` (most_rows, columns): separated by one space each,
// or by one tab each. Other lines get an empty word; what is after the last line feed is left.
ReadRows ReadTextRows(const char* text, int64_t size, int64_t columns, int64_t most_rows,
                      float* rows, int num_threads);

// Reads words, each followed by a space and its numbers as little-endian floats. Ends at the first
// row that is not whole, or whose word is empty, has a line feed, or is longer than `longest_word`.
ReadRows ReadBinaryRows(const char* text, int64_t size, int64_t columns, int64_t most_rows,
                        int64_t longest_word, float* rows);

}  // namespace fastkeras::word2vec

#endif  // FASTKERAS_WORD2VEC_VECTORS_ROWS_H_
