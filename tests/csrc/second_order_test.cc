// Runs the kernels of second-order chains under the sanitizers, on every instruction set that this
// processor has, and compares them with plain recursions over pairs of tags in long double.

#include "crf/second_order/second_order.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "crf_problem.h"
#include "machine/instruction_set.h"
#include "machine/parallel.h"

namespace {

constexpr int kRounds = 25;
constexpr long double kImpossible = -std::numeric_limits<long double>::infinity();

template <typename T>
struct SecondOrderProblem : Problem<T> {
  SecondOrderProblem() : Problem<T>(false) {
    if (this->num_tags > 17) {  // cubes of tags
      this->num_tags = PickFrom({4, 8, 9, 17});
      this->transitions.resize(this->num_tags * this->num_tags);
      this->start.resize(this->num_tags);
      this->end.resize(this->num_tags);
      this->emissions.resize(this->batch * this->steps * this->num_tags);
      for (int32_t& tag : this->tags) tag = std::min(tag, this->num_tags - 1);
    }
    triples = this->Scores(this->num_tags * this->num_tags * this->num_tags, PickFrom({1.0, 30.0}));
  }

  SecondOrderChains<T> given() const { return {this->chains(), triples.data()}; }

  T Triple(int i, int j, int k) const {
    return triples[(i * this->num_tags + j) * this->num_tags + k];
  }

  std::vector<T> triples;
};

struct Expected {
  long double log_partition = kImpossible, best = kImpossible, magnitude = 1;
};

long double LogSumExp(const std::vector<long double>& values) {
  const long double high = *std::max_element(values.begin(), values.end());
  if (high == kImpossible) return high;
  long double sum = 0;
  for (long double value : values) sum += std::exp(value - high);
  return high + std::log(sum);
}

template <typename T>
long double Largest(const T* scores, size_t size) {
  long double largest = 0;
  for (size_t i = 0; i < size; ++i) {
    if (std::isfinite(scores[i])) largest = std::max<long double>(largest, std::fabs(scores[i]));
  }
  return largest;
}

template <typename T>
Expected Reference(const SecondOrderProblem<T>& problem, int b) {
  const int num_tags = problem.num_tags;
  const std::vector<int> valid = problem.ValidSteps(b);
  if (valid.empty()) return {0, 0, 1};
  const auto emission = [&](int t, int j) -> long double {
    return problem.emissions[(b * problem.steps + t) * num_tags + j];
  };
  Expected expected;
  std::vector<long double> sums, best;  // of pairs [i, j]; of single tags at the first step
  for (int j = 0; j < num_tags; ++j) sums.push_back(problem.start[j] + emission(valid[0], j));
  best = sums;
  for (size_t n = 1; n < valid.size(); ++n) {
    std::vector<long double> next(num_tags * num_tags, kImpossible), next_best = next;
    for (int j = 0; j < num_tags; ++j) {
      for (int k = 0; k < num_tags; ++k) {
        const long double score = emission(valid[n], k) + problem.transitions[j * num_tags + k];
        if (n == 1) {
          next[j * num_tags + k] = sums[j] + score;
          next_best[j * num_tags + k] = best[j] + score;
          continue;
        }
        std::vector<long double> ways;
        for (int i = 0; i < num_tags; ++i) {
          const long double triple = score + problem.Triple(i, j, k);
          ways.push_back(sums[i * num_tags + j] + triple);
          long double& to = next_best[j * num_tags + k];
          to = std::max(to, best[i * num_tags + j] + triple);
        }
        next[j * num_tags + k] = LogSumExp(ways);
      }
    }
    sums = next, best = next_best;
  }
  for (size_t pair = 0; pair < sums.size(); ++pair) {
    sums[pair] += problem.end[pair % num_tags];
    expected.best = std::max(expected.best, best[pair] + problem.end[pair % num_tags]);
  }
  expected.log_partition = LogSumExp(sums);
  for (int t : valid) {
    expected.magnitude += Largest(&problem.emissions[(b * problem.steps + t) * num_tags], num_tags);
  }
  expected.magnitude += valid.size() * (Largest(problem.transitions.data(), num_tags * num_tags) +
                                        Largest(problem.triples.data(), problem.triples.size())) +
                        Largest(problem.start.data(), num_tags) +
                        Largest(problem.end.data(), num_tags);
  return expected;
}

template <typename T>
struct Results {
  Results(const SecondOrderProblem<T>& problem, int num_threads)
      : value(problem.batch),
        workspace(SecondOrderWorkspaceSize(problem.batch, problem.steps, problem.num_tags)),
        emissions(problem.emissions.size()),
        transitions(problem.transitions.size()),
        triples(problem.triples.size()),
        start(problem.num_tags),
        end(problem.num_tags),
        likelihood(problem.batch),
        unary(problem.emissions.size()),
        counts(problem.batch * problem.transitions.size()),
        score(problem.batch),
        tags(problem.batch * problem.steps) {
    const SecondOrderChains<T> given = problem.given();
    const SecondOrderGradients<T> gradients = {emissions.data(), transitions.data(), triples.data(),
                                               start.data(), end.data()};
    SecondOrderValue(given, static_cast<const int32_t*>(nullptr), Quantity::kLogPartition,
                     value.data(), workspace.data(), num_threads);
    SecondOrderGradient(given, static_cast<const int32_t*>(nullptr), Quantity::kLogPartition,
                        value.data(), workspace.data(), problem.weights.data(), gradients,
                        num_threads);
    SecondOrderValue(given, problem.tags.data(), Quantity::kLogLikelihood, likelihood.data(),
                     static_cast<T*>(nullptr), num_threads);
    SecondOrderMarginals(given, unary.data(), counts.data(), num_threads);
    SecondOrderViterbi(given, tags.data(), score.data(), num_threads);
  }

  bool operator==(const Results& other) const {
    return value == other.value && emissions == other.emissions &&
           transitions == other.transitions && triples == other.triples && start == other.start &&
           end == other.end && likelihood == other.likelihood && unary == other.unary &&
           counts == other.counts && score == other.score && tags == other.tags;
  }

  std::vector<T> value, workspace, emissions, transitions, triples, start, end, likelihood, unary,
      counts, score;
  std::vector<int32_t> tags;
};

template <typename V>
long double Sum(const V* values, size_t size) {
  long double sum = 0;
  for (size_t i = 0; i < size; ++i) sum += values[i];
  return sum;
}

template <typename T>
void Check(const SecondOrderProblem<T>& problem) {
  const std::string where = problem.Text();
  const Results<T> results(problem, 1);
  Expect(Results<T>(problem, 3) == results, "three threads give one thread's results", where);
  const int num_tags = problem.num_tags, pairs = num_tags * num_tags;
  long double began = 0, ended = 0, moved = 0, in_threes = 0, magnitude = 1;
  for (int b = 0; b < problem.batch; ++b) {
    const Expected expected = Reference(problem, b);
    const int valid = static_cast<int>(problem.ValidSteps(b).size());
    const bool possible = expected.best > kImpossible && valid > 0;
    const auto is_near = [&](long double actual, long double exact) {
      if (exact == kImpossible) return actual == exact;
      return std::fabs(actual - exact) <=
             8 * std::numeric_limits<T>::epsilon() * expected.magnitude + 1e-9;
    };
    Expect(is_near(results.value[b], expected.log_partition), "log_partition", where);
    Expect(is_near(results.score[b], expected.best), "score of viterbi", where);
    Expect(!(results.likelihood[b] > 1e-3 * expected.magnitude), "log_likelihood", where);
    for (int t = 0; t < problem.steps; ++t) {
      const size_t row = (b * problem.steps + t) * num_tags;
      const bool used = possible && problem.Valid(b, t);
      Expect(std::fabs(Sum(&results.unary[row], num_tags) - used) < 1e-3, "unary", where);
      const long double share = used ? problem.weights[b] : 0;
      Expect(std::fabs(Sum(&results.emissions[row], num_tags) - share) < 2e-3, "emissions", where);
    }
    const long double counted = possible ? valid - 1 : 0;
    Expect(std::fabs(Sum(&results.counts[b * pairs], pairs) - counted) < 1e-3 * (1 + counted),
           "counts", where);
    const long double weight = possible ? problem.weights[b] : 0;
    began += weight, ended += weight, moved += weight * counted;
    in_threes += weight * std::max(valid - 2, 0);
    magnitude += std::fabs(weight) * valid;
  }
  const auto adds_up = [&](const std::vector<T>& gradient, long double exact) {
    return std::fabs(Sum(gradient.data(), gradient.size()) - exact) < 1e-3 * magnitude;
  };
  Expect(adds_up(results.start, began), "gradient of start", where);
  Expect(adds_up(results.end, ended), "gradient of end", where);
  Expect(adds_up(results.transitions, moved), "gradient of transitions", where);
  Expect(adds_up(results.triples, in_threes), "gradient of triples", where);
}

template <typename T>
int Rounds() {
  for (int round = 0; round < kRounds; ++round) {
    SecondOrderProblem<T> problem;
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
  std::printf("%d random batches of second order on every instruction set, %d failures\n", rounds,
              failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
