// Runs the semi-Markov kernels under the sanitizers, on every instruction set that this processor
// has, and compares them with plain recursions in long double.

#include "crf/semi_markov/semi_markov.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "crf_problem.h"
#include "machine/instruction_set.h"
#include "machine/parallel.h"

namespace {

constexpr int kRounds = 60;
constexpr long double kImpossible = -std::numeric_limits<long double>::infinity();

long double LogAddExp(long double a, long double b) {
  const long double high = std::max(a, b), low = std::min(a, b);
  return low == kImpossible ? high : high + std::log1p(std::exp(low - high));
}

template <typename T>
struct SemiProblem : Problem<T> {
  SemiProblem() : Problem<T>(false) {
    max_length = PickFrom({1, 2, 3, 9});
    durations = this->Scores(max_length * this->num_tags, PickFrom({1.0, 30.0}));
    for (int32_t& length : this->lengths) length = std::min(length, 21);
  }

  SemiChains<T> chains() const {
    return {this->batch,
            this->steps,
            this->num_tags,
            max_length,
            this->emissions.data(),
            this->transitions.data(),
            durations.data(),
            this->start.data(),
            this->end.data(),
            this->lengths.data()};
  }

  int max_length;
  std::vector<T> durations;
};

struct Expected {
  long double log_partition = kImpossible, best = kImpossible;
};

template <typename T>
Expected Reference(const SemiProblem<T>& problem, int b) {
  const int steps = problem.lengths[b], num_tags = problem.num_tags;
  using Row = std::vector<long double>;
  const Row nothing(num_tags, kImpossible);
  const Row start(problem.start.begin(), problem.start.end());
  std::vector<Row> begun(steps + 1, nothing), best_begun = begun, ended = begun, best = begun;
  begun[0] = best_begun[0] = start;
  for (int t = 1; t <= steps; ++t) {
    for (int j = 0; j < num_tags; ++j) {
      long double sum = 0;
      for (int l = 1; l <= std::min(t, problem.max_length); ++l) {
        sum += problem.emissions[(b * problem.steps + t - l) * num_tags + j];
        const long double score = sum + problem.durations[(l - 1) * num_tags + j];
        ended[t][j] = LogAddExp(ended[t][j], begun[t - l][j] + score);
        best[t][j] = std::max(best[t][j], best_begun[t - l][j] + score);
      }
    }
    for (int j = 0; j < num_tags; ++j) {
      for (int i = 0; i < num_tags; ++i) {
        const long double score = problem.transitions[i * num_tags + j];
        begun[t][j] = LogAddExp(begun[t][j], ended[t][i] + score);
        best_begun[t][j] = std::max(best_begun[t][j], best[t][i] + score);
      }
    }
  }
  Expected expected;
  if (steps == 0) return {0, 0};
  for (int j = 0; j < num_tags; ++j) {
    expected.log_partition = LogAddExp(expected.log_partition, ended[steps][j] + problem.end[j]);
    expected.best = std::max(expected.best, best[steps][j] + problem.end[j]);
  }
  return expected;
}

template <typename T>
struct Results {
  Results(const SemiProblem<T>& problem, int num_threads)
      : value(problem.batch),
        unary(problem.emissions.size()),
        segments(problem.emissions.size() * problem.max_length),
        counts(problem.batch * problem.transitions.size()),
        score(problem.batch),
        tags(problem.batch * problem.steps),
        begins(new bool[problem.batch * problem.steps]) {
    const SemiChains<T> chains = problem.chains();
    SemiLogPartition(chains, value.data(), num_threads);
    SemiMarginals(chains, unary.data(), segments.data(), counts.data(), num_threads);
    SemiViterbi(chains, tags.data(), begins.get(), score.data(), num_threads);
  }

  bool operator==(const Results& other) const {
    return value == other.value && unary == other.unary && segments == other.segments &&
           counts == other.counts && score == other.score && tags == other.tags &&
           std::equal(begins.get(), begins.get() + tags.size(), other.begins.get());
  }

  std::vector<T> value, unary, segments, counts, score;
  std::vector<int32_t> tags;
  std::unique_ptr<bool[]> begins;
};

// The score of a segmentation, or -inf if it is not valid.
template <typename T>
long double ScoreOf(const SemiProblem<T>& problem, int b, const Results<T>& results) {
  const int steps = problem.lengths[b], num_tags = problem.num_tags, row = b * problem.steps;
  long double score = 0;
  int before = -1;
  for (int t = 0; t < steps;) {
    const int tag = results.tags[row + t];
    if (!results.begins[row + t]) return kImpossible;
    int length = 0;
    do {
      if (results.tags[row + t] != tag) return kImpossible;
      score += problem.emissions[(row + t) * num_tags + tag];
      ++length, ++t;
    } while (t < steps && !results.begins[row + t]);
    if (length > problem.max_length) return kImpossible;
    score += problem.durations[(length - 1) * num_tags + tag];
    score += before < 0 ? problem.start[tag] : problem.transitions[before * num_tags + tag];
    before = tag;
  }
  return steps ? score + problem.end[before] : 0;
}

template <typename T>
void Check(const SemiProblem<T>& problem) {
  const std::string where = problem.Text() + ", max_length " + std::to_string(problem.max_length);
  const Results<T> results(problem, 1);
  Expect(Results<T>(problem, 3) == results, "three threads give one thread's results", where);
  const int num_tags = problem.num_tags, steps = problem.steps;
  for (int b = 0; b < problem.batch; ++b) {
    const Expected expected = Reference(problem, b);
    const bool possible = expected.best > kImpossible && problem.lengths[b] > 0;
    const auto is_near = [&](long double actual, long double exact) {
      if (exact == kImpossible) return actual == exact;
      const long double magnitude = 1 + std::fabs(exact);
      return std::fabs(actual - exact) <= 8 * std::numeric_limits<T>::epsilon() * magnitude + 1e-9;
    };
    Expect(is_near(results.value[b], expected.log_partition), "log_partition", where);
    Expect(is_near(results.score[b], expected.best), "score of viterbi", where);
    if (possible) Expect(is_near(ScoreOf(problem, b, results), expected.best), "segments", where);
    long double begun = 0, pairs = 0;
    for (int t = 0; t < steps; ++t) {
      const T* row = results.unary.data() + (b * steps + t) * num_tags;
      long double sum = 0;
      for (int j = 0; j < num_tags; ++j) sum += row[j];
      Expect(std::fabs(sum - (possible && t < problem.lengths[b])) < 1e-4, "unary", where);
      const int area = problem.max_length * num_tags;
      for (int k = 0; k < area; ++k) begun += results.segments[(b * steps + t) * area + k];
    }
    for (int k = 0; k < num_tags * num_tags; ++k) {
      pairs += results.counts[b * num_tags * num_tags + k];
    }
    Expect(std::fabs(begun - pairs - possible) < 1e-3 * (1 + begun), "one transition less", where);
  }
}

template <typename T>
int Rounds() {
  for (int round = 0; round < kRounds; ++round) {
    SemiProblem<T> problem;
    for (const char* set : {"portable", "avx2", "avx512"}) {
      if (SetInstructionSet(set)) Check(problem);
    }
    problem.Spoil();
    for (int32_t tag : Results<T>(problem, 2).tags) {
      Expect(tag >= 0 && tag < problem.num_tags, "tags of spoiled scores", problem.Text());
    }
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
