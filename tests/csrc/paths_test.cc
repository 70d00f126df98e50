// Runs the kernels that find and draw whole paths under the sanitizers, on every instruction set
// that this processor has. The k best are compared with a plain recursion over lists in long
// double.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "crf_problem.h"
#include "machine/instruction_set.h"
#include "machine/parallel.h"

namespace {

constexpr int kRounds = 150;
constexpr long double kImpossible = -std::numeric_limits<long double>::infinity();

template <typename V>
bool Same(const std::vector<V>& a, const std::vector<V>& b) {
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
}

// The scores of the k best paths, or of all if there are fewer.
template <typename T>
std::vector<long double> BestScores(const Problem<T>& problem, int b, int k) {
  const int num_tags = problem.num_tags;
  const auto keep_best = [&](std::vector<long double>& scores) {
    std::sort(scores.rbegin(), scores.rend());
    while (!scores.empty() && (scores.size() > size_t(k) || scores.back() == kImpossible)) {
      scores.pop_back();
    }
  };
  std::vector<std::vector<long double>> best;
  for (int t : problem.ValidSteps(b)) {
    const T* x = &problem.emissions[(b * problem.steps + t) * num_tags];
    std::vector<std::vector<long double>> reached(num_tags);
    for (int j = 0; j < num_tags; ++j) {
      if (best.empty()) reached[j].push_back(static_cast<long double>(problem.start[j]) + x[j]);
      for (size_t i = 0; i < best.size(); ++i) {
        for (long double score : best[i]) {
          reached[j].push_back(score + problem.Transition(b, t, i, j) + x[j]);
        }
      }
      keep_best(reached[j]);
    }
    best = reached;
  }
  if (best.empty()) return {0};
  std::vector<long double> complete;
  for (int j = 0; j < num_tags; ++j) {
    for (long double score : best[j]) complete.push_back(score + problem.end[j]);
  }
  keep_best(complete);
  return complete;
}

template <typename T>
long double ScoreOf(const Problem<T>& problem, int b, const int32_t* tags) {
  const std::vector<int> valid = problem.ValidSteps(b);
  if (valid.empty()) return 0;
  long double score = problem.start[tags[valid[0]]];
  for (size_t s = 0; s < valid.size(); ++s) {
    const int tag = tags[valid[s]];
    score += problem.emissions[(b * problem.steps + valid[s]) * problem.num_tags + tag];
    if (s) score += problem.Transition(b, valid[s], tags[valid[s - 1]], tag);
  }
  return score + problem.end[tags[valid.back()]];
}

// Whether the tags are 0 at steps that are not valid, and in range elsewhere.
template <typename T>
bool InRange(const Problem<T>& problem, int b, const int32_t* tags) {
  for (int t = 0; t < problem.steps; ++t) {
    if (tags[t] < 0 || tags[t] >= (problem.Valid(b, t) ? problem.num_tags : 1)) return false;
  }
  return true;
}

template <typename T>
void CheckKBest(const Problem<T>& problem) {
  const int k = PickFrom({1, 2, 3, 8, 20}), steps = problem.steps;
  const std::string where = problem.Text() + ", k " + std::to_string(k);
  std::vector<int32_t> tags(problem.batch * k * steps);
  std::vector<T> scores(problem.batch * k);
  KBest(problem.chains(), k, tags.data(), scores.data(), 1);
  std::vector<int32_t> tags_again(tags.size());
  std::vector<T> scores_again(scores.size());
  KBest(problem.chains(), k, tags_again.data(), scores_again.data(), 3);
  Expect(Same(tags, tags_again) && Same(scores, scores_again), "k best by three threads", where);
  for (int b = 0; b < problem.batch; ++b) {
    const std::vector<long double> expected = BestScores(problem, b, k);
    long double magnitude = 1e3L * (1 + steps);
    for (long double score : expected) magnitude = std::max(magnitude, std::fabs(score));
    const long double allowed = 64 * std::numeric_limits<T>::epsilon() * magnitude;
    std::set<std::vector<int32_t>> different;
    for (int rank = 0; rank < k; ++rank) {
      const int32_t* path = tags.data() + (b * k + rank) * steps;
      const T score = scores[b * k + rank];
      Expect(InRange(problem, b, path), "tags of the k best", where);
      if (rank >= static_cast<int>(expected.size())) {
        Expect(std::isinf(score) && score < 0, "no path is left", where);
        continue;
      }
      different.emplace(path, path + steps);
      Expect(std::fabs(score - expected[rank]) <= allowed, "scores of the k best", where);
      Expect(std::fabs(score - ScoreOf(problem, b, path)) <= allowed, "their paths", where);
      Expect(rank == 0 || score <= scores[b * k + rank - 1], "their order", where);
    }
    Expect(different.size() == expected.size(), "different paths", where);
  }
}

template <typename T>
void CheckSample(const Problem<T>& problem) {
  const int num_samples = PickFrom({1, 2, 16}), steps = problem.steps;
  const size_t size = num_samples * problem.batch * steps;
  std::vector<T> uniforms(size);
  const T below_one = 1 - 2 * std::numeric_limits<T>::epsilon();
  std::uniform_real_distribution<T> uniform(0, 1);
  for (T& number : uniforms) number = std::min(Pick(0, 9) ? uniform(generator) : T(0), below_one);
  std::vector<int32_t> tags(size), again(size);
  Sample(problem.chains(), num_samples, uniforms.data(), tags.data(), 1);
  Sample(problem.chains(), num_samples, uniforms.data(), again.data(), 3);
  Expect(Same(tags, again), "samples by three threads", problem.Text());
  for (int b = 0; b < problem.batch; ++b) {
    const bool possible = !BestScores(problem, b, 1).empty();
    for (int k = 0; k < num_samples; ++k) {
      const int32_t* path = tags.data() + (k * problem.batch + b) * steps;
      Expect(InRange(problem, b, path), "tags of samples", problem.Text());
      if (possible) {
        Expect(std::isfinite(ScoreOf(problem, b, path)), "samples are possible", problem.Text());
      } else {
        Expect(std::all_of(path, path + steps, [](int32_t tag) { return tag == 0; }),
               "no sample is possible", problem.Text());
      }
    }
  }
}

template <typename T>
void CheckSpoiled(const Problem<T>& problem) {
  const int k = Pick(1, 5), paths = k * problem.batch;
  for (const char* set : {"portable", "avx2", "avx512"}) {
    if (!SetInstructionSet(set)) continue;
    std::vector<int32_t> tags(paths * problem.steps), drawn = tags;
    std::vector<T> scores(paths), uniforms(tags.size(), T(0.5));
    KBest(problem.chains(), k, tags.data(), scores.data(), 2);
    Sample(problem.chains(), k, uniforms.data(), drawn.data(), 2);
    for (int i = 0; i < paths; ++i) {
      const int32_t* path = tags.data() + i * problem.steps;
      Expect(InRange(problem, i / k, path), "the k best of spoiled scores", problem.Text());
      path = drawn.data() + i * problem.steps;
      Expect(InRange(problem, i % problem.batch, path), "samples of them", problem.Text());
    }
  }
}

template <typename T>
int Rounds() {
  for (int round = 0; round < kRounds; ++round) {
    Problem<T> problem;
    for (const char* set : {"portable", "avx2", "avx512"}) {
      if (!SetInstructionSet(set)) continue;
      CheckKBest(problem);
      CheckSample(problem);
    }
    problem.Spoil();
    CheckSpoiled(problem);
  }
  return kRounds;
}

}  // namespace

int main() {
  SetWorthAThread(0);
  const int rounds = Rounds<float>() + Rounds<double>();
  std::printf("%d random batches on every instruction set, %d failures\n", rounds, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
