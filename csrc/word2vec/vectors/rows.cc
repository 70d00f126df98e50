#include "word2vec/vectors/rows.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "machine/parallel.h"

namespace fastkeras::word2vec {
namespace {

constexpr int64_t kSmallestChunk = 1 << 16;  // bytes; shorter ones are not worth a thread
constexpr double kWork = 1;                  // nanoseconds for a byte

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// Reads a decimal number as the double that is nearest to it, and rounds that to a float, as Python
// and NumPy do. Returns its end; null if it is in another form, or beyond the range of doubles.
const char* ReadNumber(const char* text, const char* end, float* number) {
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  const bool negative = text < end && *text == '-';
  if (text < end && (*text == '-' || *text == '+')) ++text;
  const char* const begin = text;
  uint64_t digits = 0;
  while (text < end && IsDigit(*text)) digits = 10 * digits + static_cast<uint64_t>(*text++ - '0');
  int64_t length = text - begin, exponent = 0;
  if (text < end && *text == '.') {
    const char* const point = text++;
    while (text < end && IsDigit(*text)) {
      digits = 10 * digits + static_cast<uint64_t>(*text++ - '0');
    }
    exponent = point + 1 - text;
    length -= exponent;
  }
  if (length == 0) return nullptr;
  if (text < end && (*text == 'e' || *text == 'E')) {
    ++text;
    const bool minus = text < end && *text == '-';
    if (text < end && (*text == '-' || *text == '+')) ++text;
    const char* const power = text;
    int64_t value = 0;
    while (text < end && IsDigit(*text) && value < 1000) value = 10 * value + (*text++ - '0');
    if (text == power || (text < end && IsDigit(*text))) return nullptr;
    exponent += minus ? -value : value;
  }
  double value;
  // Both are doubles without rounding, so that their product or quotient is rounded only once.
  if (length <= 19 && digits <= uint64_t{1} << 53 && exponent >= -22 && exponent <= 22) {
    value = static_cast<double>(digits);
    value = exponent < 0 ? value / kPowers[-exponent] : value * kPowers[exponent];
  } else {
    const auto [stop, error] = std::from_chars(begin, text, value);
    if (error != std::errc() || stop != text) return nullptr;
  }
  *number = static_cast<float>(negative ? -value : value);
  return text;
}

// Whether a line is in the plain form; then its numbers are in `row` and its word ends at
// *word_end.
bool ReadLine(const char* line, const char* end, int64_t columns, const char** word_end,
              float* row) {
  while (end > line && (end[-1] == ' ' || end[-1] == '\r')) --end;
  const char* text = line;
  while (text < end && *text != ' ' && *text != '\t') ++text;
  if (text == line) return false;
  *word_end = text;
  for (int64_t i = 0; i < columns; ++i) {
    if (text == end || *text != **word_end) return false;
    text = ReadNumber(text + 1, end, row + i);
    if (text == nullptr) return false;
  }
  return text == end;
}

struct Chunk {
  int64_t begin, end, first_row, rows;
  ReadRows read;
};

int64_t CountLines(const char* text, const char* end) { return std::count(text, end, '\n'); }

void ReadChunk(const char* text, int64_t columns, float* rows, Chunk* chunk) {
  const char* line = text + chunk->begin;
  ReadRows& read = chunk->read;
  read.words.reserve(static_cast<size_t>(12 * chunk->rows));
  for (; read.rows < chunk->rows; ++read.rows) {
    const char* const end = static_cast<const char*>(
        std::memchr(line, '\n', static_cast<size_t>(text + chunk->end - line)));
    const int64_t row = chunk->first_row + read.rows;
    const char* word_end = line;
    if (ReadLine(line, end, columns, &word_end, rows + row * columns)) {
      read.words.append(line, word_end);
    } else {
      read.others.insert(read.others.end(), {row, line - text, end + 1 - text});
    }
    read.words += '\n';
    line = end + 1;
  }
  read.bytes = line - text;
}

}  // namespace

ReadRows ReadTextRows(const char* text, int64_t size, int64_t columns, int64_t most_rows,
                      float* rows, int num_threads) {
  while (size > 0 && text[size - 1] != '\n') --size;
  const int threads = ThreadsThatPay(kWork * static_cast<double>(size), num_threads);
  const int64_t wanted = threads == 1 ? 1 : 4 * int64_t{threads};
  const int64_t pieces = std::clamp<int64_t>(size / kSmallestChunk, 1, wanted);
  std::vector<Chunk> chunks;
  for (int64_t piece = 1, begin = 0; begin < size; ++piece) {
    int64_t end = piece >= pieces ? size : std::max(begin + 1, size / pieces * piece);
    while (text[end - 1] != '\n') ++end;
    chunks.push_back({begin, end, 0, 0, {}});
    begin = end;
  }
  ParallelFor(static_cast<int64_t>(chunks.size()), threads, [&](int64_t i) {
    Chunk& chunk = chunks[static_cast<size_t>(i)];
    chunk.rows = CountLines(text + chunk.begin, text + chunk.end);
  });
  ReadRows all;
  for (Chunk& chunk : chunks) {
    chunk.first_row = all.rows;
    chunk.rows = std::min(chunk.rows, most_rows - all.rows);
    all.rows += chunk.rows;
  }
  ParallelFor(static_cast<int64_t>(chunks.size()), threads,
              [&](int64_t i) { ReadChunk(text, columns, rows, &chunks[static_cast<size_t>(i)]); });
  for (const Chunk& chunk : chunks) {
    if (chunk.rows == 0) break;
    all.words += chunk.read.words;
    all.bytes = chunk.read.bytes;
    all.others.insert(all.others.end(), chunk.read.others.begin(), chunk.read.others.end());
  }
  return all;
}

ReadRows ReadBinaryRows(const char* text, int64_t size, int64_t columns, int64_t most_rows,
                        int64_t longest_word, float* rows) {
  ReadRows all;
  const int64_t bytes = columns * static_cast<int64_t>(sizeof(float));
  for (; all.rows < most_rows; ++all.rows) {
    int64_t begin = all.bytes;
    while (begin < size && text[begin] == '\n') ++begin;  // word2vec ends a row with it
    const int64_t within = std::min(size - begin, longest_word);
    if (within == 0) break;  // `text` may be null
    const void* const space = std::memchr(text + begin, ' ', static_cast<size_t>(within));
    if (space == nullptr) break;
    const int64_t length = static_cast<const char*>(space) - text - begin;
    if (length == 0 || size - begin - length - 1 < bytes ||
        std::memchr(text + begin, '\n', static_cast<size_t>(length)) != nullptr) {
      break;
    }
    all.words.append(text + begin, static_cast<size_t>(length));
    all.words += '\n';
    std::memcpy(rows + all.rows * columns, text + begin + length + 1, static_cast<size_t>(bytes));
    all.bytes = begin + length + 1 + bytes;
  }
  return all;
}

}  // namespace fastkeras::word2vec
