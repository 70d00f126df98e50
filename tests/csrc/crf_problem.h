// Random chains of every kind, for the tests of the CRF's kernels. Inputs are in arrays of exactly
// their size, so that the sanitizer detects a read beyond them; outputs should be too.

#ifndef FASTKERAS_TESTS_CRF_PROBLEM_H_
#define FASTKERAS_TESTS_CRF_PROBLEM_H_

#include <algorithm>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "crf/crf.h"
#include "machine/instruction_set.h"

using namespace fastkeras;
using namespace fastkeras::crf;

namespace {

constexpr int32_t kIgnoredTag = -100;
std::mt19937 generator(20240229);

int Pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

template <typename V>
V PickFrom(std::initializer_list<V> values) {
  return values.begin()[Pick(0, static_cast<int>(values.size()) - 1)];
}

template <typename T>
struct Problem {
  explicit Problem(bool may_vary = true) {
    batch = PickFrom({0, 1, 2, 3, 5, 7, 8, 9, 16, 19, 37});  // vectors of sequences, and fewer
    steps = PickFrom({0, 1, 2, 3, 8, 21, 70});
    num_tags = PickFrom({1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 70});
    const double scale = PickFrom({0.1, 1.0, 30.0, 1000.0});
    emissions = Scores(batch * steps * num_tags, scale);
    varies = may_vary && (num_tags <= 33 ? batch <= 9 : batch <= 2) && Pick(0, 2) == 0;
    transitions = Scores((varies ? batch * (steps - 1) : 1) * num_tags * num_tags, scale);
    start = Scores(num_tags, scale);
    end = Scores(num_tags, scale);
    for (int b = 0; b < batch; ++b) lengths.push_back(Pick(0, steps));
    if (Pick(0, 1)) mask.reset(new bool[batch * steps]);
    for (int i = 0; i < batch * steps; ++i) {
      if (mask) mask[i] = Pick(0, 3) > 0;
      tags.push_back(Valid(i / steps, i % steps) ? Pick(0, num_tags - 1) : kIgnoredTag);
    }
    for (int b = 0; b < batch; ++b) weights.push_back(static_cast<T>(Pick(-2, 2)));
  }

  // Some of them −inf, or so low that they amount to it.
  std::vector<T> Scores(int size, double scale) {
    std::vector<T> scores(std::max(size, 0));
    std::normal_distribution<double> normal(0, scale);
    const double forbidden = PickFrom({0.0, -1e4, -std::numeric_limits<double>::infinity()});
    const int percent = forbidden < 0 ? PickFrom({5, 50, 100}) : 0;
    for (T& score : scores) {
      score = static_cast<T>(Pick(1, 100) <= percent ? forbidden : normal(generator));
    }
    return scores;
  }

  // Puts NaN and infinities in some places. What uses them is not expected to be a number.
  void Spoil() {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    for (std::vector<T>* scores : {&emissions, &transitions, &start, &end}) {
      const int percent = PickFrom({0, 0, 1, 20});
      for (T& score : *scores) {
        if (Pick(1, 100) > percent) continue;
        score = PickFrom({std::numeric_limits<T>::quiet_NaN(), kInfinity, -kInfinity});
      }
    }
  }

  bool Valid(int b, int t) const { return mask ? mask[b * steps + t] : t < lengths[b]; }

  std::vector<int> ValidSteps(int b) const {
    std::vector<int> valid;
    for (int t = 0; t < steps; ++t) {
      if (Valid(b, t)) valid.push_back(t);
    }
    return valid;
  }

  Chains<T> chains() const {
    return {batch,        steps,      num_tags,       emissions.data(), transitions.data(),
            start.data(), end.data(), lengths.data(), mask.get(),       varies};
  }

  // The score of i -> j into step t.
  T Transition(int b, int t, int i, int j) const {
    const int64_t matrix = varies ? b * (steps - 1) + t - 1 : 0;
    return transitions[(matrix * num_tags + i) * num_tags + j];
  }

  std::string Text() const {
    return "batch " + std::to_string(batch) + ", steps " + std::to_string(steps) + ", num_tags " +
           std::to_string(num_tags) + (mask ? ", mask, " : ", ") + (varies ? "varying, " : "") +
           (sizeof(T) == 4 ? "float" : "double");
  }

  int batch, steps, num_tags;
  bool varies;
  std::vector<T> emissions, transitions, start, end, weights;
  std::vector<int32_t> lengths, tags;
  std::unique_ptr<bool[]> mask;
};

int failures = 0;

void Expect(bool condition, const char* what, const std::string& where) {
  if (condition) return;
  std::printf("FAILED: %s (%s, %s)\n", what, where.c_str(), InstructionSet());
  ++failures;
}

}  // namespace

#endif  // FASTKERAS_TESTS_CRF_PROBLEM_H_
