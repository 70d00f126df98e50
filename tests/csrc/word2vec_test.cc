// Runs the Word2Vec kernels under the sanitizers, on every instruction set that this processor has.
//
// All arrays have exactly the size needed, so that the sanitizer detects an access beyond them.
// Threads run in deterministic mode only: otherwise they update rows without locks on purpose,
// which the thread sanitizer would rightly report. The suite in tests/word2vec/ judges accuracy.

#include "word2vec/word2vec.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "machine/instruction_set.h"
#include "machine/parallel.h"

using namespace fastkeras;
using namespace fastkeras::word2vec;

namespace {

constexpr int kRounds = 60;
std::mt19937 generator(20240229);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s (%s)\n", what, InstructionSet());
}

struct Drawn {
  std::vector<int32_t> ids, nodes, bag_rows, documents;
  std::vector<uint32_t> keep, noise;
  std::vector<float> offsets, signs, input, output, document_vectors;
  std::vector<int64_t> starts{0}, bag_starts{0};
  Problem problem;

  Drawn() {
    const int words = Pick(0, 3) ? Pick(2, 400) : 1, length = Pick(0, 1500);
    const int64_t stride = 16 * Pick(1, 9);
    for (int i = 0; i < length; ++i) ids.push_back(Pick(0, 15) ? Pick(0, words - 1) : -1);
    const bool subwords = Pick(0, 1);
    const int input_rows = words + (subwords ? Pick(1, 50) : 0);
    int longest = 0, longest_bag = 0;
    for (int word = 0; word < words; ++word) {
      keep.push_back(Pick(0, 1) ? ~0u : 1u << 31);
      noise.push_back(static_cast<uint32_t>(generator()));
      noise.push_back(static_cast<uint32_t>(Pick(0, words - 1)));
      offsets.push_back(0.5f);
      const int path = std::min(Pick(0, 20), words - 1);  // its nodes are different
      longest = std::max(longest, path);
      for (int j = 0; j < path; ++j) {
        nodes.push_back((word + j) % words);
        signs.push_back(Pick(0, 1) ? 1.0f : -1.0f);
      }
      starts.push_back(static_cast<int64_t>(nodes.size()));
      const int parts = subwords ? Pick(0, 9) : 0;  // besides the word; may repeat
      longest_bag = std::max(longest_bag, 1 + parts);
      bag_rows.push_back(word);
      for (int j = 0; j < parts; ++j) bag_rows.push_back(Pick(words, input_rows - 1));
      bag_starts.push_back(static_cast<int64_t>(bag_rows.size()));
    }
    for (std::vector<float>* matrix : {&input, &output}) {
      const int rows = matrix == &input ? input_rows : words;
      for (int64_t i = 0; i < rows * stride; ++i) {
        matrix->push_back(0.1f * std::normal_distribution<float>()(generator));
      }
    }
    Settings& settings = problem.settings;
    settings.objective = Pick(0, 1) ? Objective::kSkipGram : Objective::kCbow;
    settings.loss = static_cast<Loss>(Pick(0, 3));
    settings.shared_negatives = settings.objective == Objective::kSkipGram &&
                                settings.loss != Loss::kHierarchicalSoftmax && Pick(0, 1);
    settings.exact_cbow = Pick(0, 1);
    settings.shrink_windows = Pick(0, 1);
    settings.window = Pick(0, 5) ? Pick(1, 8) : std::numeric_limits<int>::max() - Pick(0, 1);
    settings.negative = Pick(0, 14);
    settings.key = generator();
    settings.learning_rate = 0.02;
    settings.learning_rate_slope = -1e-6;
    problem.tables = {keep.data(),
                      noise.data(),
                      offsets.data(),
                      starts.data(),
                      nodes.data(),
                      signs.data(),
                      subwords ? bag_starts.data() : nullptr,
                      bag_rows.data(),
                      words,
                      longest,
                      subwords ? longest_bag : 0};
    problem.corpus = {ids.data(), length};
    problem.model = {nullptr, nullptr, stride, input_rows, words};
    if (!subwords && length > 0 && Pick(0, 1)) {
      const int rows = Pick(1, 5);
      for (int i = 0; i < length; ++i) documents.push_back(Pick(0, rows - 1));
      for (int64_t i = 0; i < rows * stride; ++i) {
        document_vectors.push_back(0.1f * std::normal_distribution<float>()(generator));
      }
      problem.corpus.documents = documents.data();
      problem.model.document_rows = rows;
      settings.documents_alone = Pick(0, 1);
      settings.frozen = Pick(0, 1);
    }
    problem.reach = 0;
  }

  // Trains copies of the matrices.
  std::vector<float> Run(int64_t begin, int64_t end, int num_threads, bool deterministic,
                         Tally* tally) {
    std::vector<float> in = input, out = output, of_documents = document_vectors;
    problem.model.input = in.data();
    problem.model.output = out.data();
    problem.model.documents = of_documents.data();
    *tally = Train(problem, begin, end, num_threads, deterministic);
    if (problem.settings.frozen) Expect(in == input && out == output, "frozen words stay");
    in.insert(in.end(), out.begin(), out.end());
    in.insert(in.end(), of_documents.begin(), of_documents.end());
    return in;
  }
};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void TestOne() {
  Drawn drawn;
  const int64_t size = drawn.problem.corpus.size;
  const int64_t begin = Pick(0, static_cast<int>(size)), end = size - Pick(0, 3) * size / 8;
  Tally one, again, rounds, in_threads;
  const auto first = drawn.Run(begin, end, 1, false, &one);
  Expect(SameBits(first, drawn.Run(begin, end, 1, false, &again)), "one thread repeats");
  Expect(one.loss == again.loss, "one thread repeats its loss");
  const auto ordered = drawn.Run(begin, end, 1, true, &rounds);
  Expect(SameBits(ordered, drawn.Run(begin, end, 3, true, &in_threads)), "threads change nothing");
  Expect(rounds.loss == in_threads.loss, "threads do not change the loss");
  Expect(one.words == rounds.words && one.predictions == rounds.predictions, "counts agree");
  Expect(std::isfinite(one.loss) && one.loss >= 0, "the loss is a number");
  for (float value : first) Expect(std::isfinite(value), "vectors are numbers");
}

}  // namespace

int main() {
  SetWorthAThread(0);
  for (const char* set : {"portable", "avx2", "avx512"}) {
    if (!SetInstructionSet(set)) continue;
    for (int i = 0; i < kRounds; ++i) TestOne();
  }
  if (failures == 0) std::printf("word2vec: all tests passed\n");
  return failures != 0;
}
