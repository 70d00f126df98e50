// Runs the step of a beam search under the sanitizers, on every instruction set that this processor
// has, against a sort of all continuations in double.
//
// All arrays have exactly the size needed, so that the sanitizer detects an access beyond them.

#include "seq2seq/seq2seq.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "machine/instruction_set.h"
#include "machine/parallel.h"

using namespace fastkeras;
using namespace fastkeras::seq2seq;

namespace {

constexpr int kRounds = 100;
std::mt19937 generator(20240229);
int failures = 0;

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

void Expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("FAILED: %s (%s)\n", what, InstructionSet());
}

template <typename T>
std::vector<Candidate> AllOf(const Step<T>& step, int64_t sentence) {
  std::vector<Candidate> all;
  for (int64_t beam = 0; beam < step.beams; ++beam) {
    const int64_t row = sentence * step.beams + beam;
    const T* const logits = step.logits + row * step.vocabulary;
    double sum = 0;
    for (int64_t v = 0; v < step.vocabulary; ++v) sum += std::exp(static_cast<double>(logits[v]));
    for (int64_t v = 0; v < step.vocabulary; ++v) {
      double log_p = static_cast<double>(logits[v]) - std::log(sum);
      bool is_there = false;
      for (int64_t i = 0; step.history && i < step.steps; ++i) {
        const int32_t token = step.history[row * step.steps + i];
        if (token < 0) break;
        is_there |= token == v;
      }
      if (is_there) log_p *= step.repetition_penalty;
      if (is_there && step.no_repeat_ngram == 1) continue;
      if (step.allowed &&
          !step.allowed[sentence * step.allowed_stride + beam * step.allowed_stride_of_beam + v]) {
        continue;
      }
      all.push_back({static_cast<double>(step.scores[row]) + log_p, static_cast<int32_t>(beam),
                     static_cast<int32_t>(v)});
    }
  }
  std::sort(all.begin(), all.end(),
            [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  return all;
}

template <typename T>
void CheckSelect() {
  Step<T> step = {};
  step.batch = Pick(0, 5);
  step.beams = Pick(1, 5);
  step.vocabulary = Pick(1, 300);
  step.steps = Pick(0, 9);
  std::normal_distribution<double> normal;
  std::vector<T> logits(static_cast<size_t>(step.batch * step.beams * step.vocabulary));
  std::vector<T> scores(static_cast<size_t>(step.batch * step.beams));
  for (T& value : logits) value = static_cast<T>(3 * normal(generator));
  for (T& value : scores) value = static_cast<T>(-std::abs(normal(generator)));
  std::vector<int32_t> history(static_cast<size_t>(step.batch * step.beams * step.steps));
  for (int32_t& token : history) token = Pick(-1, static_cast<int>(step.vocabulary) - 1);
  const size_t flags = static_cast<size_t>(step.batch * step.beams * step.vocabulary);
  const std::unique_ptr<bool[]> allowed(new bool[flags]);
  for (size_t i = 0; i < flags; ++i) allowed[i] = Pick(0, 3) > 0;
  step.logits = logits.data();
  step.scores = scores.data();
  step.history = Pick(0, 1) ? history.data() : nullptr;
  step.allowed = Pick(0, 1) ? allowed.get() : nullptr;
  step.allowed_stride_of_beam = Pick(0, 1) ? step.vocabulary : 0;
  step.allowed_stride = step.beams * step.allowed_stride_of_beam;
  step.repetition_penalty = Pick(0, 1) ? 1.3 : 0.6;
  step.no_repeat_ngram = Pick(0, 1);
  const int64_t number = Pick(1, 40);
  const size_t size = static_cast<size_t>(step.batch * number);
  std::vector<T> found(size);
  std::vector<int32_t> tokens(size), parents(size);
  Select<T>(step, {number, found.data(), tokens.data(), parents.data()}, Pick(1, 4));
  for (int64_t b = 0; b < step.batch; ++b) {
    const std::vector<Candidate> all = AllOf(step, b);
    for (int64_t i = 0; i < number; ++i) {
      const double score = static_cast<double>(found[static_cast<size_t>(b * number + i)]);
      if (i >= static_cast<int64_t>(all.size())) {
        Expect(score == -INFINITY, "where there are no more the score is -inf");
      } else {
        const double exact = all[static_cast<size_t>(i)].score;
        const double error = std::abs(score - exact);
        Expect(error <= (sizeof(T) == 4 ? 1e-5 : 1e-13) * (1 + std::abs(exact)), "scores");
      }
    }
  }
}

}  // namespace

int main() {
  SetWorthAThread(0);
  for (const char* set : {"portable", "avx2", "avx512"}) {
    if (!SetInstructionSet(set)) continue;
    for (int round = 0; round < kRounds; ++round) {
      CheckSelect<float>();
      CheckSelect<double>();
    }
  }
  if (failures == 0) std::printf("the step of a beam search passed\n");
  return failures != 0;
}
